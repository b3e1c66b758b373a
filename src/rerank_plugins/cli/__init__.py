"""The `rerank-plugins` command. Heavy imports wait until a command needs them."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["main"]


def main() -> None:
    """Run the command line; errors of ours become one line on stderr and an exit status.

    Status 2: bad input, or a file that cannot be read or written. 3: the model or a package is missing or
    unusable. 4: scoring failed.
    """
    from rerank_plugins.cli.app import app
    from rerank_plugins.errors import InvalidInputError, RerankError, ScoringError

    try:
        with _warnings_shown():
            app()
    except RerankError as error:
        sys.stderr.write(f"rerank-plugins: {error}\n")
        if isinstance(error, InvalidInputError):
            sys.exit(2)
        sys.exit(4 if isinstance(error, ScoringError) else 3)
    except OSError as error:
        sys.stderr.write(f"rerank-plugins: {error}\n")
        sys.exit(2)
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):
            # The reader, `head` for example, has what it wanted. To click that is a failure.
            sys.exit(0)
        raise


class _ToStderr(logging.Handler):
    """Writes to what standard error is now: above a bar, while one is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"rerank-plugins: {record.getMessage()}\n")


@contextmanager
def _warnings_shown() -> Iterator[None]:
    """Show what the library warns of: a command has nobody else to tell."""
    logger, shown = logging.getLogger("rerank_plugins"), _ToStderr(logging.WARNING)
    logger.addHandler(shown)
    try:
        yield
    finally:
        logger.removeHandler(shown)
