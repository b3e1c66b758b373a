"""Reliability diagrams: what probabilities promise, and what is so."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rerank_plugins.calibration.pairs import check_labelled
from rerank_plugins.errors import InvalidInputError, MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Reliability", "plot_reliability", "reliability"]

_FEW = 10  # pairs that say little of a share
_COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple")


@dataclass(frozen=True)
class Reliability:
    """How often documents of a given probability are relevant, in bins of equal width.

    Attributes:
        edges: The b + 1 edges of the bins, from 0 to 1; a bin holds its lower edge, the last one both.
        counts: How many probabilities are in each of the b bins.
        predicted: Their mean, for each bin; None for an empty one.
        observed: The share of them that is relevant, for each bin; None for an empty one.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    predicted: tuple[float | None, ...]
    observed: tuple[float | None, ...]

    @property
    def expected_calibration_error(self) -> float:
        """The mean of |predicted - observed| over all probabilities; 0.0 for none at all."""
        gaps = (
            count * abs(predicted - observed)
            for count, predicted, observed in zip(self.counts, self.predicted, self.observed, strict=True)
            if predicted is not None and observed is not None
        )
        return math.fsum(gaps) / max(sum(self.counts), 1)


def reliability(probabilities: ArrayLike, labels: ArrayLike, bins: int = 10) -> Reliability:
    """Compare n probabilities with what they promise.

    Args:
        probabilities: n numbers from 0 to 1.
        labels: n of 0 or 1.
        bins: How many bins, at least 1.

    Raises:
        InvalidInputError: If the two differ in length or hold other values, or `bins` is no whole number
            or below 1.
    """
    values, relevant = check_labelled(probabilities, labels, "probabilities")
    if ((values < 0) | (values > 1)).any():
        msg = f"probabilities must be from 0 to 1, but got {values.min()!r} to {values.max()!r}"
        raise InvalidInputError(msg)
    if not isinstance(bins, Integral) or bins < 1:
        msg = f"bins must be a whole number of at least 1, but got {bins!r}"
        raise InvalidInputError(msg)
    edges = np.linspace(0.0, 1.0, bins + 1)
    places = np.digitize(values, edges[1:-1])
    counts = np.bincount(places, minlength=bins)

    def means(of: NDArray[Any]) -> tuple[float | None, ...]:
        totals = np.bincount(places, weights=of, minlength=bins)
        return tuple(float(total / n) if n else None for total, n in zip(totals, counts, strict=True))

    return Reliability(tuple(edges.tolist()), tuple(counts.tolist()), means(values), means(relevant))


def plot_reliability(measured: Mapping[str, Reliability]) -> "Figure":
    """Draw reliability diagrams over one another, and how many probabilities each bin holds.

    Args:
        measured: What to draw, by the name to give it, such as `{"before": ..., "after": ...}`.

    Returns:
        A figure, for `figure.savefig(path)` or a notebook.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        msg = 'plot_reliability needs matplotlib; install it with: pip install "rerank-plugins[bench]"'
        raise MissingExtraError(msg) from error
    figure = Figure(figsize=(5, 6), layout="constrained")
    curves, sizes = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    curves.plot([0, 1], [0, 1], color="tab:gray", linestyle="--", linewidth=1, label="as promised")
    for (name, data), colour in zip(measured.items(), cycle(_COLOURS), strict=False):
        bins = [one for one in zip(data.predicted, data.observed, data.counts, strict=True) if one[2]]
        sure = [(x, y) for x, y, count in bins if count >= _FEW]
        unsure = [(x, y) for x, y, count in bins if count < _FEW]
        label = f"{name} (error {data.expected_calibration_error:.3f})"
        curves.plot([x for x, _ in sure], [y for _, y in sure], "o-", color=colour, label=label)
        curves.plot([x for x, _ in unsure], [y for _, y in unsure], "o", color=colour, markerfacecolor="none")
        sizes.stairs(data.counts, data.edges, color=colour, label=name)
    curves.set_ylabel("share that is relevant")
    curves.set_ylim(-0.03, 1.03)
    curves.plot([], [], "o", color="tab:gray", markerfacecolor="none", label=f"fewer than {_FEW} pairs")
    figure.legend(*curves.get_legend_handles_labels(), fontsize=8, loc="outside upper left", ncols=2)
    sizes.set_yscale("symlog", linthresh=1)  # nearly all candidates are in the lowest bin
    sizes.yaxis.set_major_formatter("{x:,.0f}")
    sizes.set_ylabel("pairs")
    sizes.set_xlabel("probability")
    for axes in (curves, sizes):
        axes.spines[["top", "right"]].set_visible(False)
    return figure
