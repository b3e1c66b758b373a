"""Choose a `min_score` for a wanted precision."""

import math
from dataclasses import dataclass
from numbers import Real
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rerank_plugins.calibration.pairs import check_labelled
from rerank_plugins.errors import InvalidInputError

__all__ = ["Threshold", "check_precision", "threshold_for_precision"]


@dataclass(frozen=True)
class Threshold:
    """A `min_score`, and what it did on the labelled pairs it was chosen on.

    Attributes:
        min_score: Lowest score to keep, inclusive; infinity keeps nothing.
        precision: Share of what it keeps that is relevant; None if it keeps nothing.
        recall: Share of what is relevant that it keeps; 0.0 if nothing is relevant.
        kept: How many pairs it keeps.
    """

    min_score: float
    precision: float | None
    recall: float
    kept: int


def threshold_for_precision(
    scores: ArrayLike,
    labels: ArrayLike,
    precision: float,
    *,
    confidence: float | None = None,
    queries: ArrayLike | None = None,
) -> Threshold:
    """Choose the lowest threshold whose precision is at least the wanted one.

    The lowest keeps the most, and so has the highest recall. Without `confidence` its precision is that on
    these pairs: the luckiest of many thresholds, so that on other pairs it is lower, the more the fewer are
    kept here. With `confidence`, the lower end of the precision's interval has to reach the wanted one
    (Wilson's score interval, one-sided).

    Args:
        scores: n scores on the scale that `min_score` will be on.
        labels: n of 0 or 1.
        precision: What is wanted, 0 to 1.
        confidence: How sure it should be that others get the precision, too, in (0, 1); None: not asked.
        queries: n names or numbers of the pairs' queries. Documents of one query are right or wrong
            together, so with `confidence` queries are counted, not documents. None: each pair has its own.

    Returns:
        The threshold, one of the scores. If none is good enough, or there are none, a `min_score` of
        infinity, which keeps nothing.

    Raises:
        InvalidInputError: If the arrays differ in length or hold other values, or `precision` or
            `confidence` is out of its range.
    """
    values, relevant = check_labelled(scores, labels, "scores")
    check_precision(precision)
    if confidence is not None and not (isinstance(confidence, Real) and 0 < confidence < 1):
        msg = f"confidence must be in (0, 1) or None, but got {confidence!r}"
        raise InvalidInputError(msg)
    groups = np.arange(len(values)) if queries is None else np.asarray(queries)
    if groups.shape != values.shape:
        msg = f"queries must be one a score, {len(values)}, but got an array of shape {groups.shape}"
        raise InvalidInputError(msg)
    order = np.argsort(-values, kind="stable")
    ordered, hits = values[order], np.cumsum(relevant[order])
    precisions = hits / np.arange(1, len(values) + 1)
    reached = precisions
    if confidence is not None:
        first = np.zeros(len(values), dtype=np.bool_)
        first[np.unique(groups[order], return_index=True)[1]] = True
        reached = _lower_end(precisions, np.cumsum(first), confidence)
    # A threshold keeps all equal scores or none, so it stands at the last of them.
    ends = np.diff(ordered, append=-np.inf) != 0
    (good,) = np.nonzero(ends & (reached >= precision))
    if not len(good):
        return Threshold(math.inf, None, 0.0, 0)
    last = int(good[-1])
    total = int(relevant.sum())
    return Threshold(
        min_score=float(ordered[last]),
        precision=float(precisions[last]),
        recall=float(hits[last] / total) if total else 0.0,
        kept=last + 1,
    )


def check_precision(precision: float) -> None:
    """Refuse what is no share.

    Raises:
        InvalidInputError: If it is no number from 0 to 1.
    """
    if not (isinstance(precision, Real) and 0 <= precision <= 1):
        msg = f"precision must be from 0 to 1, but got {precision!r}"
        raise InvalidInputError(msg)


def _lower_end(
    shares: NDArray[np.float64], counts: NDArray[np.int64], confidence: float
) -> NDArray[np.float64]:
    """Return the lower ends of Wilson's score intervals [n] of shares seen in so many draws.

    Wilson, Probable inference, the law of succession, and statistical inference, 1927.
    """
    z = NormalDist().inv_cdf(confidence)
    centre = shares + z**2 / (2 * counts)
    spread = z * np.sqrt(shares * (1 - shares) / counts + z**2 / (4 * counts**2))
    ends: NDArray[np.float64] = (centre - spread) / (1 + z**2 / counts)
    return ends
