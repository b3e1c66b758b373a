"""`Passages`: documents as the texts to score, whole or in windows, and the way back to one score each."""

import time
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.errors import InvalidInputError
from rerank_plugins.scoring.protocol import Scorer, Scores, Span, WindowScorer
from rerank_plugins.settings import RerankSettings

__all__ = ["Passages", "read_windows", "window_scorer"]


def window_scorer(scorer: Scorer, purpose: str) -> WindowScorer:
    """Return a scorer that knows windows.

    Raises:
        InvalidInputError: If this one does not.
    """
    if isinstance(scorer, WindowScorer):
        return scorer
    msg = (
        f"{purpose} needs a scorer with methods windows and extents, but got {scorer!r}; use a "
        "CrossEncoderScorer"
    )
    raise InvalidInputError(msg)


def read_windows(
    scorer: WindowScorer, query: str, documents: list[str], settings: RerankSettings
) -> tuple[list[list[Span]], list[bool]]:
    """Return the windows to read of each document, and whether that leaves some of it out."""
    # One more than will be read tells whether there is more.
    most = None if settings.max_passages is None else settings.max_passages + 1
    found = scorer.windows(
        query,
        documents,
        size=settings.passage_tokens,
        overlap=settings.passage_overlap,
        most=most,
    )
    return [spans[: settings.max_passages] for spans in found], [len(spans) == most for spans in found]


@dataclass(frozen=True)
class Passages:
    """The m texts to score for n documents, each document's one after the other.

    Attributes:
        texts: m texts; all go to the scorer in one call.
        spans: m spans of characters in their documents; None if documents are scored whole.
        counts: int64 [n], how many texts each document has, at least 1.
        shared: int64 [n], tokens that are counted twice because two windows have them.
        unread: bool [n], whether a document goes on after its last window.
        spent_ms: Milliseconds that finding the windows took.
    """

    texts: list[str]
    spans: list[Span] | None
    counts: NDArray[np.int64]
    shared: NDArray[np.int64]
    unread: NDArray[np.bool_]
    spent_ms: float = 0.0

    @classmethod
    def whole(cls, documents: list[str]) -> Self:
        """Score each document as it is; the scorer cuts what does not fit."""
        count = len(documents)
        ones, zeros = np.ones(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
        return cls(documents, None, ones, zeros, zeros.astype(np.bool_))

    @classmethod
    def split(cls, scorer: WindowScorer, query: str, documents: list[str], settings: RerankSettings) -> Self:
        """Score documents in windows; this tokenises, and does not run the model."""
        begin = time.perf_counter()
        found, unread = read_windows(scorer, query, documents, settings)
        counts = np.array([len(spans) for spans in found], dtype=np.int64)
        pairs = [(document, span) for document, spans in zip(documents, found, strict=True) for span in spans]
        return cls(
            texts=[document[start:end] for document, (start, end) in pairs],
            spans=[span for _, span in pairs],
            counts=counts,
            shared=_shared_tokens(scorer, query, documents, found),
            unread=np.array(unread, dtype=np.bool_),
            spent_ms=(time.perf_counter() - begin) * 1000,
        )

    def gather(self, scores: Scores, best: int) -> tuple[Scores, NDArray[np.int64]]:
        """Turn scores of the m texts into scores of the n documents.

        Args:
            scores: What the scorer returned for `texts`.
            best: A document's logit is the mean of the logits of its best so many texts.

        Returns:
            Scores of length n, and int64 [n]: which of the m texts is each document's best, the first of
            equals.
        """
        count = len(self.counts)
        owners = np.repeat(np.arange(count), self.counts)
        firsts = np.cumsum(self.counts) - self.counts
        # Sorted by owner, and best first within one: then place - first is the rank of a text.
        order = np.lexsort((-scores.logits, owners))
        chosen = order[np.arange(len(order)) - firsts[owners] < best]

        def total(values: NDArray[Any], texts: slice | NDArray[np.int64] = slice(None)) -> NDArray[Any]:
            return np.bincount(owners[texts], weights=values[texts], minlength=count)

        picked = total(scores.logits, chosen)
        gathered = replace(
            scores,
            logits=(picked / np.minimum(self.counts, best)).astype(np.float32),
            document_tokens=(total(scores.document_tokens) - self.shared).astype(np.int32),
            truncated=self.unread | (total(scores.truncated) > 0),
            query_truncated=total(scores.query_truncated) > 0,
            tokenize_ms=scores.tokenize_ms + self.spent_ms,
        )
        return gathered, order[firsts]


def _shared_tokens(
    scorer: WindowScorer, query: str, documents: list[str], found: list[list[Span]]
) -> NDArray[np.int64]:
    shared = np.zeros(len(documents), dtype=np.int64)
    overlaps = [
        (i, documents[i][start:end])
        for i, spans in enumerate(found)
        for (_, end), (start, _) in pairwise(spans)
    ]
    if overlaps:
        owners, texts = zip(*overlaps, strict=True)
        _, extents = scorer.extents(query, list(texts))
        np.add.at(shared, list(owners), [extent.tokens for extent in extents])
    return shared
