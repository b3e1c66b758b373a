"""Choose a `min_score` for a wanted precision."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rerank_plugins.calibration.pairs import check_labelled
from rerank_plugins.errors import InvalidInputError

__all__ = ["Threshold", "threshold_for_precision"]


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


def threshold_for_precision(scores: ArrayLike, labels: ArrayLike, precision: float) -> Threshold:
    """Choose the lowest threshold whose precision is at least the wanted one.

    The lowest keeps the most, and so has the highest recall. Its precision is that on these pairs; on
    others it will differ, the more the fewer pairs it keeps here.

    Args:
        scores: n scores on the scale that `min_score` will be on.
        labels: n of 0 or 1.
        precision: What is wanted, 0 to 1.

    Returns:
        The threshold, one of the scores. If none is good enough, or there are none, a `min_score` of
        infinity, which keeps nothing.

    Raises:
        InvalidInputError: If the two differ in length or hold other values, or `precision` is not from 0
            to 1.
    """
    values, relevant = check_labelled(scores, labels, "scores")
    if not 0 <= precision <= 1:
        msg = f"precision must be from 0 to 1, but got {precision!r}"
        raise InvalidInputError(msg)
    order = np.argsort(-values, kind="stable")
    ordered, hits = values[order], np.cumsum(relevant[order])
    precisions = hits / np.arange(1, len(values) + 1)
    # A threshold keeps all equal scores or none, so it stands at the last of them.
    ends = np.diff(ordered, append=-np.inf) != 0
    (good,) = np.nonzero(ends & (precisions >= precision))
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
