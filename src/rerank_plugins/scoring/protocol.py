"""What the reranker asks of a scorer, and what a scorer may tell besides logits."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "DetailedScorer",
    "Extent",
    "Scorer",
    "ScorerInfo",
    "Scores",
    "Span",
    "WindowScorer",
    "info_of",
]

# Characters [start, end) of a text.
Span = tuple[int, int]


@runtime_checkable
class Scorer(Protocol):
    """Anything that scores documents against a query."""

    def score(self, query: str, documents: Sequence[str]) -> NDArray[np.float32]:
        """Return float32 logits of shape [len(documents)], in input order.

        Raises:
            ScoringError: If it fails. For this error alone `Reranker(on_error="keep_order")` keeps the order.
        """
        ...


@dataclass(frozen=True)
class ScorerInfo:
    """What was loaded, where it runs, and why.

    A `RemoteScorer` says `"remote"` for the device, and `"unknown"` or 0 for what only the server knows.

    Attributes:
        model: Canonical hub id, folder, or `"bundled"`.
        revision: Commit on the hub; 12 digits of the weights' SHA-256 for the bundled model and folders that
            have it beside them; else None.
        device: `"cpu"`, `"cuda:N"`, several with commas between them, or `"remote"`.
        dtype: Precision of the body, int8 included; the head is float32 always.
        engine: `"torch"`, `"openvino"`, `"onnx"`, `"transformers"`, or `"remote:"` and the dialect.
        max_length: Tokens of a pair at most, special tokens included.
        max_query_tokens: Tokens of a query at most.
        max_batch_tokens: Padded tokens of a batch at most.
        memory: Bytes held on the devices by the weights, and by CUDA graphs captured at load.
        reasons: For each choice made by `"auto"`, why it was made; and notes from loading.
    """

    model: str
    revision: str | None
    device: str
    dtype: str
    engine: str
    max_length: int
    max_query_tokens: int
    max_batch_tokens: int
    memory: int
    reasons: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Scores:
    """Logits of one call, with what they cost.

    Attributes:
        logits: float32 [n], in input order.
        document_tokens: int32 [n], tokens of each document that the model read.
        truncated: bool [n], whether a document was cut.
        query_truncated: bool [n], whether the query of a pair was cut.
        tokens: Tokens the model read, special tokens and queries included.
        tokenize_ms: Milliseconds spent tokenising.
        queue_ms: Milliseconds spent waiting for the engine.
        compute_ms: Milliseconds of the batches this call had a part in.
        texts: Distinct texts, per chunk of the call, whose scores were not known.
        token_cache_hits: How many of them did not have to be tokenised.
        score_cache_hits: How many distinct pairs got a remembered score.
        out_of_memory: Batches that the device had no memory for, so that they were halved.
    """

    logits: NDArray[np.float32]
    document_tokens: NDArray[np.int32]
    truncated: NDArray[np.bool_]
    query_truncated: NDArray[np.bool_]
    tokens: int = 0
    tokenize_ms: float = 0.0
    queue_ms: float = 0.0
    compute_ms: float = 0.0
    texts: int = 0
    token_cache_hits: int = 0
    score_cache_hits: int = 0
    out_of_memory: int = 0


@runtime_checkable
class DetailedScorer(Scorer, Protocol):
    """A scorer that also says what was cut and what a call cost, and is natively async."""

    @property
    def info(self) -> ScorerInfo:
        """What was loaded, where it runs, and why."""
        ...

    def score_detailed(self, query: str, documents: Sequence[str]) -> Scores:
        """Score like `score`, with details."""
        ...

    async def ascore_detailed(self, query: str, documents: Sequence[str]) -> Scores:
        """Score like `score_detailed` without blocking the event loop."""
        ...


class Extent(NamedTuple):
    """How much of a text the model reads, from its start.

    Attributes:
        end: Characters.
        tokens: Tokens.
        cut: Whether the text goes on after that.
    """

    end: int
    tokens: int
    cut: bool


@runtime_checkable
class WindowScorer(Scorer, Protocol):
    """A scorer that says what it reads of long texts, and where to cut them; neither runs the model."""

    def windows(
        self, query: str, documents: Sequence[str], *, size: int | None, overlap: int, most: int | None
    ) -> list[list[Span]]:
        """Cut documents into overlapping windows that fit beside the query.

        Args:
            query: The query; a longer one leaves less room.
            documents: n documents.
            size: Tokens of a window, at most; None: as many as fit.
            overlap: Tokens that neighbouring windows share at least, up to half of a window.
            most: How many windows to make of a document, from its start; None: all.

        Returns:
            For each document at least one window, as characters [start, end), in the order of the text.
            Windows are cut where words begin; only a word longer than a quarter of a window may be cut
            inside. Every token lies in some window, unless `most` leaves it out. A document of no
            more than a window's tokens is one window, all of it.
        """
        ...

    def extents(self, query: str, documents: Sequence[str]) -> tuple[Extent, list[Extent]]:
        """Return how much is read of the query, and of each document beside it."""
        ...


def info_of(scorer: Scorer) -> ScorerInfo | None:
    """Return what a scorer says of itself; None of a user's own, whose `info` may be anything."""
    info = getattr(scorer, "info", None)
    return info if isinstance(info, ScorerInfo) else None
