"""What a reranker returns: `Ranking`, a sequence of `RankedDocument`, with `RankingStats`."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, overload

__all__ = ["RankedDocument", "Ranking", "RankingStats"]


@dataclass(frozen=True, slots=True)
class RankedDocument:
    """One document of a ranking.

    Attributes:
        index: Position in the documents that were given.
        score: Score on the reranker's scale. None only if the ranking has `reranked=False`.
        logit: The model's output. None only if the ranking has `reranked=False`.
        text: The document as it was given, uncut.
        truncated: Whether the model read less than the whole document.
        tokens: How many tokens of the document the model read; what several windows share counts once.
        passage: Characters [start, end) of the best window in `text`, with
            `long_documents="max_passage"`; `(0, len(text))` if one window holds all of it. Else None.
        passages: How many windows of it were read; 1 without windows.
        fused: What the order goes by, with `fusion`: of use within one ranking only. Else None.
    """

    index: int
    score: float | None
    logit: float | None
    text: str
    truncated: bool
    tokens: int
    passage: tuple[int, int] | None = None
    passages: int = 1
    fused: float | None = None


@dataclass(frozen=True, slots=True)
class RankingStats:
    """What a ranking cost and how it was made. Times are in milliseconds of wall clock.

    Attributes:
        documents: How many documents were given.
        tokens: Tokens the model read: queries, documents and special tokens.
        truncated: How many documents were cut.
        query_truncated: Whether the query was cut to `max_query_tokens`.
        tokenize_ms: Time spent tokenising.
        queue_ms: Time spent waiting for the engine.
        compute_ms: Time the engine worked on batches that held documents of this call; in a batch
            shared with other callers, the whole batch counts.
        total_ms: From the call to its return.
        texts: Distinct texts that had to be read: the query, and documents whose score was not known.
        token_cache_hits: How many of them did not have to be tokenised. Looking for windows tokenises
            first, so with `long_documents="max_passage"` nearly all of them.
        score_cache_hits: How many distinct documents, or windows of them, got a remembered score.
        out_of_memory: Batches that the device had no memory for, so that they were halved.
        passages: How many windows were scored; without windows, how many documents.
        model: Model id, or None for a scorer that does not say.
        device: Device, or None for a scorer that does not say.
        dtype: Precision, or None for a scorer that does not say.
        engine: Engine, or None for a scorer that does not say.
    """

    documents: int
    tokens: int = 0
    truncated: int = 0
    query_truncated: bool = False
    tokenize_ms: float = 0.0
    queue_ms: float = 0.0
    compute_ms: float = 0.0
    total_ms: float = 0.0
    texts: int = 0
    token_cache_hits: int = 0
    score_cache_hits: int = 0
    out_of_memory: int = 0
    passages: int = 0
    model: str | None = None
    device: str | None = None
    dtype: str | None = None
    engine: str | None = None


@dataclass(frozen=True)
class Ranking(Sequence[RankedDocument]):
    """Ranked documents, best first.

    Attributes:
        documents: The documents, best first; ties keep their input order. With `fusion` best is what is best
            by `fused`.
        stats: What the ranking cost.
        scale: The scale of every `score`: `"probability"`, `"logit"` or `"calibrated"`.
        reranked: False if scoring failed and the input order was kept (`on_error="keep_order"`).
        reason: Why it was not reranked, else None.
    """

    documents: tuple[RankedDocument, ...]
    stats: RankingStats
    scale: str
    reranked: bool = True
    reason: str | None = None

    @overload
    def __getitem__(self, index: int) -> RankedDocument: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[RankedDocument, ...]: ...
    def __getitem__(self, index: int | slice) -> RankedDocument | tuple[RankedDocument, ...]:
        return self.documents[index]

    def __len__(self) -> int:
        return len(self.documents)

    def __iter__(self) -> Iterator[RankedDocument]:
        return iter(self.documents)

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values that `json.dumps` takes."""
        return asdict(self)
