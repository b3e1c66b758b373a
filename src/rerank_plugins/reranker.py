"""`Reranker`: the policy on top of a scorer. Order, scale, threshold, cut, and what to do on failure.

The order of steps is always: score, sort by logit (ties keep input order), drop below `min_score`,
cut to `top_k`.
"""

import asyncio
import logging
import time
from collections.abc import Iterable
from enum import Enum
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.errors import InvalidInputError, ScoringError
from rerank_plugins.inputs import check_documents, check_query
from rerank_plugins.ranking import RankedDocument, Ranking, RankingStats
from rerank_plugins.scoring.protocol import DetailedScorer, Scorer, ScorerInfo, Scores
from rerank_plugins.settings import OnError, RerankSettings, Scale, ScorerSettings

__all__ = ["UNSET", "Reranker", "Unset", "given"]

logger = logging.getLogger(__name__)


class Unset(Enum):
    """The type of `UNSET`."""

    UNSET = "unset"

    def __repr__(self) -> str:
        return "UNSET"


# "Not given", where None, 0 and 0.0 all mean something.
UNSET: Final = Unset.UNSET


def given(**values: Any) -> dict[str, Any]:
    """Return the keyword arguments that are not `UNSET`."""
    return {name: value for name, value in values.items() if value is not UNSET}


class Reranker:
    """Put the right documents on top.

    Safe to share between threads and event loops.

    Args:
        scorer: A `CrossEncoderScorer`, or anything with `score(query, documents) -> logits`.
        top_k: See `RerankSettings.top_k`.
        min_score: See `RerankSettings.min_score`.
        scale: See `RerankSettings.scale`.
        on_error: See `RerankSettings.on_error`.
        settings: All of these at once; the single arguments win over it.

    Raises:
        InvalidInputError: If a setting has a value that cannot be used, or `scorer` no `score`.

    Example:
        >>> from rerank_plugins import CrossEncoderScorer, Reranker
        >>> reranker = Reranker(CrossEncoderScorer("bundled"), top_k=1)
        >>> ranking = reranker.rank("who wrote Faust?", ["Goethe wrote Faust.", "A fist is a hand."])
        >>> ranking[0].index
        0
    """

    def __init__(
        self,
        scorer: Scorer,
        *,
        top_k: int | Unset | None = UNSET,
        min_score: float | Unset | None = UNSET,
        scale: Scale | Unset = UNSET,
        on_error: OnError | Unset = UNSET,
        settings: RerankSettings | None = None,
    ) -> None:
        if not isinstance(scorer, Scorer):
            msg = (
                f"scorer must have a method score(query, documents), but got {scorer!r}; "
                "pass a CrossEncoderScorer"
            )
            raise InvalidInputError(msg)
        self.scorer = scorer
        base = settings if settings is not None else RerankSettings(**{})
        self.settings = _override(
            base, given(top_k=top_k, min_score=min_score, scale=scale, on_error=on_error)
        )

    @classmethod
    def from_settings(
        cls, scorer_settings: ScorerSettings, rerank_settings: RerankSettings | None = None
    ) -> Self:
        """Load the model that `scorer_settings` names, and rerank with it.

        Raises:
            ModelError: If the model cannot be loaded.
        """
        from rerank_plugins.scoring.cross_encoder import CrossEncoderScorer

        return cls(CrossEncoderScorer(settings=scorer_settings), settings=rerank_settings)

    def rank(
        self,
        query: str,
        documents: Iterable[str],
        *,
        top_k: int | Unset | None = UNSET,
        min_score: float | Unset | None = UNSET,
        scale: Scale | Unset = UNSET,
    ) -> Ranking:
        """Rank documents for a query.

        Args:
            query: The query; blank text is scored like any text.
            documents: The documents; `[]` gives an empty ranking.
            top_k: Overrides the setting for this call; None means all.
            min_score: Overrides the setting for this call; None means no threshold.
            scale: Overrides the setting for this call.

        Returns:
            The documents that pass `min_score`, best first, at most `top_k`.

        Raises:
            InvalidInputError: If the query or a document is not a string, or a setting is invalid.
            ScoringError: If scoring fails and `on_error` is `"raise"`.
        """
        call = _Call(self, query, documents, given(top_k=top_k, min_score=min_score, scale=scale))
        try:
            scores = _score(self.scorer, call.query, call.documents)
        except ScoringError as error:
            return call.keep_order(error)
        return call.finish(scores)

    async def arank(
        self,
        query: str,
        documents: Iterable[str],
        *,
        top_k: int | Unset | None = UNSET,
        min_score: float | Unset | None = UNSET,
        scale: Scale | Unset = UNSET,
    ) -> Ranking:
        """Rank like `rank`, without blocking the event loop."""
        call = _Call(self, query, documents, given(top_k=top_k, min_score=min_score, scale=scale))
        try:
            scores = await _ascore(self.scorer, call.query, call.documents)
        except ScoringError as error:
            return call.keep_order(error)
        return call.finish(scores)

    def close(self) -> None:
        """Close the scorer, if it can be closed. It may be shared: others keep theirs."""
        close = getattr(self.scorer, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Reranker({self.scorer!r}, {self.settings!r})"


def _override(settings: RerankSettings, changes: dict[str, Any]) -> RerankSettings:
    """Return validated settings with `changes` applied."""
    return type(settings)(**{**settings.model_dump(), **changes}) if changes else settings


def _score(scorer: Scorer, query: str, documents: list[str]) -> Scores:
    if isinstance(scorer, DetailedScorer):
        return scorer.score_detailed(query, documents)
    return _plain(scorer, query, documents)


async def _ascore(scorer: Scorer, query: str, documents: list[str]) -> Scores:
    if isinstance(scorer, DetailedScorer):
        return await scorer.ascore_detailed(query, documents)
    return await asyncio.to_thread(_plain, scorer, query, documents)


def _plain(scorer: Scorer, query: str, documents: list[str]) -> Scores:
    """Score with a scorer that returns logits only; nothing is known to be cut."""
    logits = np.asarray(scorer.score(query, documents), dtype=np.float32)
    if logits.shape != (len(documents),) or not np.isfinite(logits).all():
        msg = (
            f"a scorer must return {len(documents)} finite logits, but {scorer!r} returned "
            f"shape {logits.shape}, {int(np.isfinite(logits).sum())} of them finite"
        )
        raise ScoringError(msg)
    none_cut = np.zeros(len(documents), dtype=np.bool_)
    return Scores(logits, np.zeros(len(documents), dtype=np.int32), none_cut, none_cut)


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 / (1 + exp(-x)) without overflow for large negative x."""
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1.0, small) / (1.0 + small)


class _Call:
    """One call of `rank`: checked input, effective settings, and a clock."""

    def __init__(
        self, reranker: Reranker, query: str, documents: Iterable[str], changes: dict[str, Any]
    ) -> None:
        self.started = time.perf_counter()
        self.info: ScorerInfo | None = getattr(reranker.scorer, "info", None)
        self.settings = _override(reranker.settings, changes)
        self.query = check_query(query)
        self.documents = list(check_documents(documents))

    def finish(self, scores: Scores) -> Ranking:
        logits = scores.logits.astype(np.float64)
        values = _sigmoid(logits) if self.settings.scale == "probability" else logits
        # Sort on the logit: a sigmoid may saturate and tie. Stable, so ties keep input order.
        order = np.argsort(-logits, kind="stable")
        if self.settings.min_score is not None:
            order = order[values[order] >= self.settings.min_score]
        ranked = tuple(
            RankedDocument(
                index=i,
                score=float(values[i]),
                logit=float(logits[i]),
                text=self.documents[i],
                truncated=bool(scores.truncated[i]),
                tokens=int(scores.document_tokens[i]),
            )
            for i in order[: self.settings.top_k].tolist()
        )
        return Ranking(ranked, self._stats(scores), self.settings.scale)

    def keep_order(self, error: ScoringError) -> Ranking:
        """Return the input order, marked as not reranked, or raise: as `on_error` says."""
        if self.settings.on_error == "raise":
            raise error
        logger.warning("kept the input order of %d documents: %s", len(self.documents), error)
        kept = tuple(
            RankedDocument(i, score=None, logit=None, text=text, truncated=False, tokens=0)
            for i, text in enumerate(self.documents[: self.settings.top_k])
        )
        return Ranking(kept, self._stats(None), self.settings.scale, reranked=False, reason=str(error))

    def _stats(self, scores: Scores | None) -> RankingStats:
        cost: dict[str, Any] = {}
        if scores is not None:
            cost = {
                "tokens": scores.tokens,
                "truncated": int(scores.truncated.sum()),
                "query_truncated": bool(scores.query_truncated.any()),
                "tokenize_ms": scores.tokenize_ms,
                "queue_ms": scores.queue_ms,
                "compute_ms": scores.compute_ms,
                "texts": scores.texts,
                "token_cache_hits": scores.token_cache_hits,
                "score_cache_hits": scores.score_cache_hits,
                "out_of_memory": scores.out_of_memory,
            }
        if self.info is not None:
            cost |= {name: getattr(self.info, name) for name in ("model", "device", "dtype", "engine")}
        return RankingStats(
            documents=len(self.documents),
            total_ms=(time.perf_counter() - self.started) * 1000,
            **cost,
        )
