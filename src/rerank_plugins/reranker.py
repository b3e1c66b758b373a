"""`Reranker`: the policy on top of a scorer. Order, scale, threshold, cut, and what to do on failure.

The order of steps is always: score (long documents in windows, if so set), sort by logit or, with `fusion`,
by fused value (ties keep input order), drop below `min_score`, cut to `top_k`.
"""

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import copy
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from rerank_plugins.calibration import PLAIN, Calibration
from rerank_plugins.errors import InvalidInputError, ScoringError
from rerank_plugins.fusion import best_first, fuse, read_first_stage
from rerank_plugins.inputs import check_documents, check_query, shorten
from rerank_plugins.passages import Passages, window_scorer
from rerank_plugins.preview import PreviewedPair, preview
from rerank_plugins.ranking import RankedDocument, Ranking, RankingStats
from rerank_plugins.scoring.protocol import DetailedScorer, Scorer, Scores, info_of
from rerank_plugins.settings import Fusion, LongDocuments, OnError, RerankSettings, Scale, ScorerSettings
from rerank_plugins.tracing import Report, traced

if TYPE_CHECKING:
    from rerank_plugins.scoring.remote import RemoteSettings

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
        calibration: See `RerankSettings.calibration`.
        fusion: See `RerankSettings.fusion`.
        on_error: See `RerankSettings.on_error`.
        long_documents: See `RerankSettings.long_documents`.
        passage_tokens: See `RerankSettings.passage_tokens`.
        passage_overlap: See `RerankSettings.passage_overlap`.
        max_passages: See `RerankSettings.max_passages`.
        best_passages: See `RerankSettings.best_passages`.
        tracing: See `RerankSettings.tracing`.
        trace_content: See `RerankSettings.trace_content`.
        settings: All of these at once; the single arguments win over it.

    Raises:
        InvalidInputError: If a setting has a value that cannot be used, `scorer` has no `score`, or
            `long_documents="max_passage"` and `scorer` cannot tell windows.

    Examples:
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
        calibration: Calibration | Mapping[str, Any] | str | Path | Unset | None = UNSET,
        fusion: Fusion | Unset | None = UNSET,
        on_error: OnError | Unset = UNSET,
        long_documents: LongDocuments | Unset = UNSET,
        passage_tokens: int | Unset | None = UNSET,
        passage_overlap: int | Unset = UNSET,
        max_passages: int | Unset | None = UNSET,
        best_passages: int | Unset = UNSET,
        tracing: bool | Unset = UNSET,
        trace_content: bool | Unset = UNSET,
        settings: RerankSettings | None = None,
    ) -> None:
        if not isinstance(scorer, Scorer) or isinstance(scorer, type):
            msg = (
                f"scorer must have a method score(query, documents), but got {scorer!r}; "
                "pass a CrossEncoderScorer"
            )
            raise InvalidInputError(msg)
        if settings is not None and not isinstance(settings, RerankSettings):
            msg = f"settings must be RerankSettings, but got {type(settings).__name__}: {shorten(settings)}"
            raise InvalidInputError(msg)
        self.scorer = scorer
        options = given(
            top_k=top_k,
            min_score=min_score,
            scale=scale,
            calibration=calibration,
            fusion=fusion,
            on_error=on_error,
            long_documents=long_documents,
            passage_tokens=passage_tokens,
            passage_overlap=passage_overlap,
            max_passages=max_passages,
            best_passages=best_passages,
            tracing=tracing,
            trace_content=trace_content,
        )
        self.settings = RerankSettings(**options) if settings is None else _override(settings, options)
        self._check()

    def _check(self) -> None:
        if self.settings.long_documents == "max_passage":
            window_scorer(self.scorer, 'long_documents="max_passage"')
        _warn_of_another_model(self.scorer, self.settings.calibration)

    @classmethod
    def from_settings(
        cls,
        scorer_settings: "ScorerSettings | RemoteSettings",
        rerank_settings: RerankSettings | None = None,
    ) -> Self:
        """Load the model that `scorer_settings` names, or ask the server, and rerank with it.

        Raises:
            ModelError: If the model cannot be loaded.
        """
        if not isinstance(scorer_settings, ScorerSettings):
            from rerank_plugins.scoring.remote import RemoteScorer

            return cls(RemoteScorer(settings=scorer_settings), settings=rerank_settings)
        from rerank_plugins.scoring.cross_encoder import CrossEncoderScorer

        return cls(CrossEncoderScorer(settings=scorer_settings), settings=rerank_settings)

    def with_settings(self, **options: Any) -> Self:
        """Return a copy that differs in some fields of `RerankSettings`, on the same scorer.

        Raises:
            InvalidInputError: If a setting is invalid.
        """
        changed = copy(self)  # of a subclass too, whose `__init__` may take something else
        changed.settings = _override(self.settings, options)
        changed._check()
        return changed

    def rank(
        self,
        query: str,
        documents: Iterable[str],
        *,
        first_stage: Sequence[float | None] | None = None,
        top_k: int | Unset | None = UNSET,
        min_score: float | Unset | None = UNSET,
        scale: Scale | Unset = UNSET,
    ) -> Ranking:
        """Rank documents for a query.

        Args:
            query: The query; blank text is scored like any text.
            documents: The documents; `[]` gives an empty ranking.
            first_stage: For `fusion`, and looked at only then: the first stage's score of each document,
                higher is better, None where it has none. Without any, `fusion="rrf"` takes the order
                of `documents`.
            top_k: Overrides the setting for this call; None means all.
            min_score: Overrides the setting for this call; None means no threshold.
            scale: Overrides the setting for this call.

        Returns:
            The documents that pass `min_score`, best first, at most `top_k`.

        Raises:
            InvalidInputError: If the query or a document is not a string, a setting is invalid, or
                `fusion` is a weight and no document has a first-stage score.
            ScoringError: If scoring fails and `on_error` is `"raise"`.
        """
        changes = given(top_k=top_k, min_score=min_score, scale=scale)
        call = _Call(self, query, documents, first_stage, changes)
        with call.traced() as report:
            try:
                passages = call.split()
                ranking = call.finish(passages, _score(self.scorer, call.query, passages.texts))
            except ScoringError as error:
                ranking = call.keep_order(error)
            report(ranking)
        return ranking

    async def arank(
        self,
        query: str,
        documents: Iterable[str],
        *,
        first_stage: Sequence[float | None] | None = None,
        top_k: int | Unset | None = UNSET,
        min_score: float | Unset | None = UNSET,
        scale: Scale | Unset = UNSET,
    ) -> Ranking:
        """Rank like `rank`, without blocking the event loop."""
        changes = given(top_k=top_k, min_score=min_score, scale=scale)
        call = _Call(self, query, documents, first_stage, changes)
        with call.traced() as report:
            try:
                # Looking for windows tokenises, which is no work for the event loop.
                passages = await asyncio.to_thread(call.split) if call.windowed else call.split()
                ranking = call.finish(passages, await _ascore(self.scorer, call.query, passages.texts))
            except ScoringError as error:
                ranking = call.keep_order(error)
            report(ranking)
        return ranking

    def preview(self, query: str, documents: Iterable[str]) -> list[PreviewedPair]:
        """Return what the model would read of each document, without running it.

        Args:
            query: The query.
            documents: n documents.

        Returns:
            n previews in input order: the parts that are read, as exact slices with their offsets and
            tokens, and what was cut.

        Raises:
            InvalidInputError: If the query or a document is not a string or not valid Unicode, or the
                scorer cannot tell what it reads.
        """
        return preview(self.scorer, check_query(query), list(check_documents(documents)), self.settings)

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
    if not changes:
        return settings
    key = tuple(changes.items())
    try:
        hash(key)
    except TypeError:  # nothing that a setting of one call may be, but pydantic says so better
        return _changed(settings, changes)
    return _remembered(settings, key)


def _changed(settings: RerankSettings, changes: Mapping[str, Any]) -> RerankSettings:
    return type(settings)(**{**settings.model_dump(), **changes})


@lru_cache(maxsize=256)  # a millisecond each time otherwise, and callers change the same things again
def _remembered(settings: RerankSettings, changes: tuple[tuple[str, Any], ...]) -> RerankSettings:
    return _changed(settings, dict(changes))


def _score(scorer: Scorer, query: str, documents: list[str]) -> Scores:
    if isinstance(scorer, DetailedScorer):
        return _checked(scorer, scorer.score_detailed(query, documents), len(documents))
    return _plain(scorer, query, documents)


async def _ascore(scorer: Scorer, query: str, documents: list[str]) -> Scores:
    if isinstance(scorer, DetailedScorer):
        return _checked(scorer, await scorer.ascore_detailed(query, documents), len(documents))
    return await asyncio.to_thread(_plain, scorer, query, documents)


def _plain(scorer: Scorer, query: str, documents: list[str]) -> Scores:
    """Score with a scorer that returns logits only; nothing is known to be cut."""
    returned = scorer.score(query, documents)
    try:
        logits = np.asarray(returned, dtype=np.float32)
    except (TypeError, ValueError) as error:
        msg = f"a scorer must return logits, but {scorer!r} returned {shorten(returned)}"
        raise ScoringError(msg) from error
    none_cut = np.zeros(len(documents), dtype=np.bool_)
    scores = Scores(logits, np.zeros(len(documents), dtype=np.int32), none_cut, none_cut)
    return _checked(scorer, scores, len(documents))


def _checked(scorer: Scorer, scores: Scores, count: int) -> Scores:
    logits = scores.logits
    if logits.shape != (count,) or not np.isfinite(logits).all():
        msg = (
            f"a scorer must return {count} finite logits, but {scorer!r} returned "
            f"shape {logits.shape}, {int(np.isfinite(logits).sum())} of them finite"
        )
        raise ScoringError(msg)
    return scores


def _warn_of_another_model(scorer: Scorer, calibration: Calibration | None) -> None:
    info = info_of(scorer)
    if info is None or calibration is None:
        return
    for what in ("model", "revision"):
        fitted, found = getattr(calibration, what), getattr(info, what)
        if not {None, "unknown"} & {fitted, found} and fitted != found:
            logger.warning(
                "the calibration was fitted for %s %s, but the scorer's is %s", what, fitted, found
            )


class _Call:
    """One call of `rank`: checked input, effective settings, and a clock."""

    def __init__(
        self,
        reranker: Reranker,
        query: str,
        documents: Iterable[str],
        first_stage: Sequence[float | None] | None,
        changes: dict[str, Any],
    ) -> None:
        self.started = time.perf_counter()
        self.scorer = reranker.scorer
        self.info = info_of(reranker.scorer)
        self.settings = _override(reranker.settings, changes)
        self.query = check_query(query)
        self.documents = list(check_documents(documents))
        self.first_stage = read_first_stage(self.settings.fusion, first_stage, len(self.documents))

    def traced(self) -> AbstractContextManager[Report]:
        return traced(self.settings, self.info, self.query, self.documents)

    @property
    def windowed(self) -> bool:
        return self.settings.long_documents == "max_passage"

    def split(self) -> Passages:
        if not self.windowed:
            return Passages.whole(self.documents)
        scorer = window_scorer(self.scorer, 'long_documents="max_passage"')
        return Passages.split(scorer, self.query, self.documents, self.settings)

    def finish(self, passages: Passages, of_texts: Scores) -> Ranking:
        scores, best = passages.gather(of_texts, self.settings.best_passages)
        logits = scores.logits.astype(np.float64)
        scale = {"logit": None, "probability": PLAIN, "calibrated": self.settings.calibration}
        calibration = scale[self.settings.scale]
        values = logits if calibration is None else calibration.apply(logits)
        fused = fuse(self.settings.fusion, logits, self.first_stage)
        # Sort on the logit: a probability may saturate and tie.
        order = best_first(logits, fused)
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
                passage=None if passages.spans is None else passages.spans[best[i]],
                passages=int(passages.counts[i]),
                fused=None if fused is None else float(fused[i]),
            )
            for i in order[: self.settings.top_k].tolist()
        )
        return Ranking(ranked, self._stats(scores, len(passages.texts)), self.settings.scale)

    def keep_order(self, error: ScoringError) -> Ranking:
        """Return the input order, marked as not reranked, or raise: as `on_error` says."""
        if self.settings.on_error == "raise":
            raise error
        logger.warning("kept the input order of %d documents: %s", len(self.documents), error)
        kept = tuple(
            RankedDocument(i, score=None, logit=None, text=text, truncated=False, tokens=0, passages=0)
            for i, text in enumerate(self.documents[: self.settings.top_k])
        )
        return Ranking(kept, self._stats(None), self.settings.scale, reranked=False, reason=str(error))

    def _stats(self, scores: Scores | None, passages: int = 0) -> RankingStats:
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
            passages=passages,
            total_ms=(time.perf_counter() - self.started) * 1000,
            **cost,
        )
