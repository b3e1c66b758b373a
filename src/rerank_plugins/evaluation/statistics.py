"""Whether a difference between two orders is more than luck: paired by query, by scipy."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.errors import InvalidInputError
from rerank_plugins.evaluation.extra import missing

try:
    from scipy import stats
except ImportError as error:
    raise missing("scipy", error) from error

__all__ = ["Comparison", "check_statistics", "compare", "ratio_interval"]

_VALUES_AT_ONCE = 4_000_000  # bounds memory: resamples times queries held at a time


@dataclass(frozen=True)
class Comparison:
    """One order against another, on the same queries.

    Attributes:
        before: Mean of the first.
        after: Mean of the second.
        delta: Mean of the differences, second less first.
        low: Lower end of delta's bootstrap interval; None for so few queries that no difference could be
            significant at its confidence (fewer than six at 95 %).
        high: Upper end.
        p_value: Of the randomisation test: how often signs drawn at random give a difference as large, if
            the two were alike; two-sided. None for fewer than two queries.
        wins: Queries where the second is better.
        losses: Queries where it is worse.
        ties: Queries where both are the same.
    """

    before: float
    after: float
    delta: float
    low: float | None
    high: float | None
    p_value: float | None
    wins: int
    losses: int
    ties: int

    @property
    def better(self) -> bool:
        """Whether the whole interval is above zero."""
        return self.low is not None and self.low > 0

    @property
    def worse(self) -> bool:
        """Whether the whole interval is below zero."""
        return self.high is not None and self.high < 0


def check_statistics(confidence: float, resamples: int) -> None:
    """Raise if these cannot be what they should be."""
    if not 0 < confidence < 1 or resamples < 100:
        msg = f"confidence must be in (0, 1) and resamples >= 100, but got {confidence} and {resamples}"
        raise InvalidInputError(msg)


def compare(
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    *,
    confidence: float = 0.95,
    resamples: int = 9999,
    seed: int = 0,
) -> Comparison:
    """Compare two orders by a measure's values.

    The interval is the percentile bootstrap's, of the mean difference over resampled queries; the p-value is
    that of the sign-flipping randomisation test, exact where all flips are fewer than `resamples`.

    Args:
        before: Values of the first, float64 [queries].
        after: Values of the second, of the same queries in the same order.
        confidence: Of the interval, in (0, 1).
        resamples: How many, of bootstrap and test each; at least 100.
        seed: Of the draws; the same seed gives the same figures.

    Raises:
        InvalidInputError: If the two have different shapes or no query, or a number is out of its range.
    """
    if before.shape != after.shape or before.ndim != 1 or not len(before):
        msg = f"before and after must have one value a query each, but got {before.shape} and {after.shape}"
        raise InvalidInputError(msg)
    check_statistics(confidence, resamples)
    # Away with the last digits' noise, so that 0.3 - 0.1 and 0.2 do not count as a win.
    deltas = np.round(after - before, 12)
    low, high, p_value = _uncertainty(deltas, confidence, resamples, seed)
    return Comparison(
        before=float(before.mean()),
        after=float(after.mean()),
        delta=float(deltas.mean()),
        low=low,
        high=high,
        p_value=p_value,
        wins=int((deltas > 0).sum()),
        losses=int((deltas < 0).sum()),
        ties=int((deltas == 0).sum()),
    )


def _uncertainty(
    deltas: NDArray[np.float64], confidence: float, resamples: int, seed: int
) -> tuple[float | None, float | None, float | None]:
    if len(deltas) < 2:
        return None, None, None
    shared: dict[str, Any] = {
        "n_resamples": resamples,
        "batch": max(1, min(resamples, _VALUES_AT_ONCE // len(deltas))),
        "vectorized": True,
    }
    test = stats.permutation_test(
        (deltas,), np.mean, permutation_type="samples", rng=np.random.default_rng(seed), **shared
    )
    p_value = float(test.pvalue)
    # The least p of all is two of all flips'. Resampled, a few queries that all win would look sure.
    if 2.0 ** (1 - len(deltas)) > 1 - confidence:
        return None, None, p_value
    interval = stats.bootstrap(
        (deltas,),
        np.mean,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
        **shared,
    ).confidence_interval
    return float(interval.low), float(interval.high), p_value


def ratio_interval(
    parts: NDArray[np.int64],
    wholes: NDArray[np.int64],
    *,
    confidence: float = 0.95,
    resamples: int = 9999,
    seed: int = 0,
) -> tuple[float | None, float | None]:
    """Return the percentile bootstrap interval of a ratio of sums, over resampled queries.

    Args:
        parts: What counts of each query, such as relevant documents that are kept: int64 [queries].
        wholes: What it is a share of, such as documents that are kept: int64 [queries].
        confidence: Of the interval, in (0, 1).
        resamples: How many.
        seed: Of the draws.

    Returns:
        Its ends; (None, None) for fewer than two queries, or where there is nothing to be a share of.
    """
    if len(wholes) < 2 or not wholes.any():
        return None, None

    overall = parts.sum() / wholes.sum()

    def ratio(part: Any, whole: Any, axis: int) -> Any:
        # A resample with nothing to be a share of says nothing: neither good nor bad.
        total = whole.sum(axis)
        return np.where(total, part.sum(axis) / np.maximum(total, 1), overall)

    interval = stats.bootstrap(
        (parts, wholes),
        ratio,
        paired=True,
        confidence_level=confidence,
        n_resamples=resamples,
        batch=max(1, min(resamples, _VALUES_AT_ONCE // len(wholes))),
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)
