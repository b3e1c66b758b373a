"""Everything this library raises on purpose.

    RerankError
    ├── InvalidInputError(ValueError)       a value that cannot be scored or used as a setting
    │   └── InvalidTypeError(TypeError)     the same, because its type is wrong
    ├── ModelError                          a model that cannot be used
    │   ├── ModelNotFoundError(OSError)     not on disk, not in the cache, hub out of reach
    │   └── ModelFormatError(ValueError)    found, but its weights, head, config or tokenizer do not fit
    ├── ScoringError(RuntimeError)          the engine failed or returned something that is no score
    │   ├── QueueFullError                  too much waits for the engine already
    │   ├── RemoteError                     a rerank server refused, failed, or answered nonsense
    │   └── ScorerClosedError               used after `close()`
    └── MissingExtraError(ImportError)      an optional dependency is not installed

The second bases let code that catches the builtin keep working.
"""

__all__ = [
    "InvalidInputError",
    "InvalidTypeError",
    "MissingExtraError",
    "ModelError",
    "ModelFormatError",
    "ModelNotFoundError",
    "QueueFullError",
    "RemoteError",
    "RerankError",
    "ScorerClosedError",
    "ScoringError",
]


class RerankError(Exception):
    """Base of every error of this library."""


class InvalidInputError(RerankError, ValueError):
    """A query, document or setting has a value that cannot be used; the message names it."""


class InvalidTypeError(InvalidInputError, TypeError):
    """A query, document or setting has the wrong type; the message names it and its position."""


class ModelError(RerankError):
    """A model cannot be used."""


class ModelNotFoundError(ModelError, OSError):
    """A model is neither on disk nor in the cache, and the hub did not provide it."""


class ModelFormatError(ModelError, ValueError):
    """A model was found, but it is no cross-encoder that this library can score with."""


class ScoringError(RerankError, RuntimeError):
    """The engine failed on a batch, or returned values that are no scores."""


class QueueFullError(ScoringError):
    """More tokens wait for the engine than `max_queue_tokens` allows; try again later."""


class RemoteError(ScoringError):
    """A rerank server refused, could not be reached, failed, or answered with what is no list of scores.

    Attributes:
        status: HTTP status of the last answer; None if there was none.
        url: What was asked last; never holds credentials.
    """

    def __init__(self, message: str, *, status: int | None = None, url: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.url = url


class ScorerClosedError(ScoringError):
    """A scorer was used after it was closed."""


class MissingExtraError(RerankError, ImportError):
    """An optional dependency is missing; the message names the extra that brings it."""
