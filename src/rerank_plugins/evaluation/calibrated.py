"""Calibration on an evaluation's own pairs: probabilities, a threshold, and when to say "none of these"."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.calibration import (
    PLAIN,
    Calibration,
    Reliability,
    Threshold,
    fit,
    reliability,
    threshold_for_precision,
)
from rerank_plugins.evaluation.folds import fold_of
from rerank_plugins.evaluation.statistics import ratio_interval
from rerank_plugins.evaluation.topics import Topic

__all__ = ["Calibrated", "Refusals", "Scale", "calibrate"]

_SURE = 0.8  # that a threshold has its precision on other queries, too: four times in five


@dataclass(frozen=True)
class Scale:
    """How far the probabilities of a scale can be trusted.

    Attributes:
        reliability: What they promise, and what is so.
        ece: Expected calibration error: mean distance of both, 0 to 1.
        brier: Brier score: mean squared distance to the label, 0 to 1.
    """

    reliability: Reliability
    ece: float
    brier: float

    @classmethod
    def of(cls, probabilities: NDArray[np.float64], labels: NDArray[np.bool_]) -> "Scale":
        """Measure probabilities of pairs against their labels."""
        found = reliability(probabilities, labels)
        brier = float(np.mean((probabilities - labels) ** 2))
        return cls(found, found.expected_calibration_error, brier)


@dataclass(frozen=True)
class Refusals:
    """How often "none of these passages answers", which is that none reaches the threshold, is right.

    Attributes:
        answerable: Queries with a relevant candidate.
        found: Of these, those where a relevant candidate is kept.
        misled: Of these, those where only others are kept.
        refused: Of these, those where none is kept, which is wrong.
        unanswerable: Queries without a relevant candidate.
        rightly_refused: Of these, those where none is kept.
        emptied_refused: Of the answerable, those where none is kept once their relevant candidates are taken
            away.
    """

    answerable: int
    found: int
    misled: int
    refused: int
    unanswerable: int
    rightly_refused: int
    emptied_refused: int


@dataclass(frozen=True)
class Calibrated:
    """A calibration and a threshold, and what they do on queries that they were not fitted on.

    Attributes:
        calibration: Fitted on all pairs: the one to use.
        threshold: Chosen on all pairs, so that other queries will probably have the wanted precision, too
            (`threshold_for_precision` with a confidence of 0.8 over queries), on the calibrated scale: the
            one to use.
        wanted: The wanted precision.
        sigmoid: The scale without calibration.
        calibrated: The scale with it. Cross-fitted, like all that follows: each fifth of the queries by what
            was fitted on the others.
        precision: Share of the kept candidates that is relevant; None if none is kept.
        low: Lower end of its bootstrap interval over queries; None for fewer than two queries.
        high: Upper end.
        recall: Share of the relevant candidates that is kept.
        kept: Mean candidates kept a query.
        refusals: About queries where none is kept.
    """

    calibration: Calibration
    threshold: Threshold
    wanted: float
    sigmoid: Scale
    calibrated: Scale
    precision: float | None
    low: float | None
    high: float | None
    recall: float
    kept: float
    refusals: Refusals


def calibrate(
    topics: Sequence[Topic],
    logits: Mapping[str, Sequence[float] | NDArray[np.float64]],
    *,
    precision: float = 0.9,
    relevant_from: int = 1,
    model: str | None = None,
    revision: str | None = None,
    data: str | None = None,
    confidence: float = 0.95,
    resamples: int = 9999,
    seed: int = 0,
) -> Calibrated:
    """Fit a calibration and a threshold, and judge both on queries that they were not fitted on.

    Args:
        topics: Queries with grades, and with candidates. Candidates that were not judged count as not
            relevant. Queries that nothing answers are welcome.
        logits: Of the first candidates of each query, by its id, as `System.logits` holds them.
        precision: What the threshold should reach on other queries, 0 to 1; that it is 1, no number of
            queries can show.
        relevant_from: The lowest grade that counts as relevant.
        model: Put into the calibration.
        revision: Put into the calibration.
        data: Put into the calibration.
        confidence: Of the interval, in (0, 1).
        resamples: Of the bootstrap.
        seed: Of folds and bootstrap.

    Raises:
        InvalidInputError: If there are fewer than two queries, pairs of one kind only (in all of them, or
            without a fold), or logits that do not rise with relevance.
    """
    pairs = _Pairs.of(topics, logits, relevant_from)
    folds = fold_of(len(topics), seed)[pairs.query]
    probabilities, kept = np.empty(len(folds)), np.zeros(len(folds), dtype=np.bool_)
    for fold in np.unique(folds):
        held = folds == fold
        fitted = fit(pairs.logits[~held], pairs.labels[~held])
        chosen = pairs.threshold(fitted, precision, ~held)
        probabilities[held] = fitted.apply(pairs.logits[held])
        kept[held] = probabilities[held] >= chosen.min_score
    calibration = fit(pairs.logits, pairs.labels, model=model, revision=revision, data=data)
    hits = kept & pairs.labels
    low, high = ratio_interval(
        pairs.by_query(hits), pairs.by_query(kept), confidence=confidence, resamples=resamples, seed=seed
    )
    return Calibrated(
        calibration=calibration,
        threshold=pairs.threshold(calibration, precision, np.ones(len(folds), dtype=np.bool_)),
        wanted=precision,
        sigmoid=Scale.of(PLAIN.apply(pairs.logits), pairs.labels),
        calibrated=Scale.of(probabilities, pairs.labels),
        precision=float(hits.sum() / kept.sum()) if kept.any() else None,
        low=low,
        high=high,
        recall=float(hits.sum() / pairs.labels.sum()),
        kept=float(kept.sum() / len(topics)),
        refusals=_refusals(pairs, kept),
    )


@dataclass(frozen=True)
class _Pairs:
    """All pairs: logits and labels [n], and the number of the query of each."""

    logits: NDArray[np.float64]
    labels: NDArray[np.bool_]
    query: NDArray[np.int64]
    queries: int

    @classmethod
    def of(
        cls,
        topics: Sequence[Topic],
        logits: Mapping[str, Sequence[float] | NDArray[np.float64]],
        relevant_from: int,
    ) -> "_Pairs":
        of_query = [np.asarray(logits[topic.id], dtype=np.float64) for topic in topics]
        labels = [
            topic.grades.get(candidate.id, 0) >= relevant_from
            for topic, values in zip(topics, of_query, strict=True)
            for candidate in topic.candidates[: len(values)]
        ]
        numbers = np.repeat(np.arange(len(topics)), [len(values) for values in of_query])
        return cls(
            np.concatenate([np.empty(0), *of_query]), np.array(labels, dtype=np.bool_), numbers, len(topics)
        )

    def threshold(self, calibration: Calibration, precision: float, among: NDArray[np.bool_]) -> Threshold:
        """Choose a threshold on some of the pairs."""
        return threshold_for_precision(
            calibration.apply(self.logits[among]),
            self.labels[among],
            precision,
            confidence=_SURE,
            queries=self.query[among],
        )

    def by_query(self, pairs: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Count some of the pairs, query by query."""
        return np.bincount(self.query, weights=pairs, minlength=self.queries).astype(np.int64)


def _refusals(pairs: _Pairs, kept: NDArray[np.bool_]) -> Refusals:
    answerable = pairs.by_query(pairs.labels) > 0
    right, wrong = pairs.by_query(kept & pairs.labels) > 0, pairs.by_query(kept & ~pairs.labels) > 0
    return Refusals(
        answerable=int(answerable.sum()),
        found=int(right.sum()),
        misled=int((answerable & ~right & wrong).sum()),
        refused=int((answerable & ~right & ~wrong).sum()),
        unanswerable=int((~answerable).sum()),
        rightly_refused=int((~answerable & ~wrong).sum()),
        emptied_refused=int((answerable & ~wrong).sum()),
    )
