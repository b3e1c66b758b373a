"""The plots of an evaluation, as SVG that stands in a page."""

import io
import re
from collections.abc import Callable
from functools import partial
from itertools import cycle
from typing import Any

from rerank_plugins.calibration import plot_reliability
from rerank_plugins.evaluation.extra import missing
from rerank_plugins.evaluation.measures import PRIMARY
from rerank_plugins.evaluation.results import Evaluation, Histogram, System

try:
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter
except ImportError as error:
    raise missing("matplotlib", error) from error

__all__ = ["plots"]

# Okabe and Ito's: told apart by all eyes, in print too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_GREY = "#666666"


def plots(evaluation: Evaluation) -> dict[str, str]:
    """Return SVG by title: quality against latency, depth and weight; deltas, scores, reliability."""
    calibrated = [system for system in evaluation.systems if system.calibrated]
    drawn: dict[str, Callable[[Evaluation], Figure | None]] = {
        f"Quality against latency: {PRIMARY} and median ms a query": _latency,
        f"Quality against depth: {PRIMARY} by candidates reranked": _depth,
        f"By query: change of {PRIMARY}": _deltas,
        "Scores of relevant documents and of the others": _scores,
        f"Fusion with the first stage: {PRIMARY} by weight of the reranker": _weights,
    }
    for system in calibrated:
        drawn[f"Do probabilities hold? {system.name}"] = partial(_reliability, system)
    return {title: svg for title, draw in drawn.items() if (svg := _svg(title, draw, evaluation))}


def _svg(salt: str, draw: Callable[[Evaluation], Figure | None], evaluation: Evaluation) -> str | None:
    """Draw; text stays text, and the same evaluation gives the same bytes."""
    # Ids within one page must differ from plot to plot: hence the salt.
    options: Any = {"svg.fonttype": "none", "svg.hashsalt": salt, "text.parse_math": False}
    with mpl.rc_context(options):
        figure = draw(evaluation)
        if figure is None:
            return None
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None}, transparent=False)
    text = file.getvalue()
    return re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)


def _figure(panels: int = 1, height: float = 3.6) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=(7.2, height * panels), layout="constrained")
    axes = list(figure.subplots(panels, squeeze=False)[:, 0])
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(visible=True, alpha=0.25)
    return figure, axes


def _levels(axes: Any, evaluation: Evaluation) -> None:
    """Draw what there was before, and what there could be."""
    first, ceiling = evaluation.first.mean[PRIMARY], evaluation.best_possible.mean[PRIMARY]
    axes.axhline(first, color=_GREY, ls="--", lw=1.2, label=evaluation.first_stage)
    axes.axhline(ceiling, color=_GREY, ls=":", lw=1.2, label="best possible order")


def _latency(evaluation: Evaluation) -> Figure | None:
    timed = [system for system in evaluation.told_apart if system.cost]
    if not timed:
        return None
    figure, (axes,) = _figure()
    _levels(axes, evaluation)
    for system, colour in zip(timed, cycle(_COLOURS), strict=False):
        points = [(d.p50_ms, d.comparison.after, d.depth) for d in system.depths if d.p50_ms is not None]
        x, y, depths = zip(*points, strict=True)
        axes.plot(x, y, "o-", color=colour, label=system.name)
        for place, depth in zip(zip(x, y, strict=True), depths, strict=True):
            axes.annotate(str(depth), place, xytext=(4, -11), textcoords="offset points", fontsize=8)
    axes.set_xscale("log", subs=range(2, 10))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("median ms a query; numbers at points: candidates reranked")
    axes.set_ylabel(PRIMARY)
    axes.legend(fontsize=8)
    return figure


def _depth(evaluation: Evaluation) -> Figure:
    figure, (axes,) = _figure()
    _levels(axes, evaluation)
    first = evaluation.first.mean[PRIMARY]
    for system, colour in zip(evaluation.told_apart, cycle(_COLOURS), strict=False):
        changes = [d.comparison for d in system.depths]
        depths = [d.depth for d in system.depths]
        axes.plot(depths, [c.after for c in changes], "o-", color=colour, label=system.name)
        low = [first + (c.delta if c.low is None else c.low) for c in changes]
        high = [first + (c.delta if c.high is None else c.high) for c in changes]
        axes.fill_between(depths, low, high, color=colour, alpha=0.12, lw=0)
    axes.set_xlabel(f"candidates reranked; bands: {evaluation.confidence:.0%} interval of the difference")
    axes.set_ylabel(PRIMARY)
    axes.legend(fontsize=8)
    return figure


def _deltas(evaluation: Evaluation) -> Figure:
    systems = evaluation.told_apart
    figure, panels = _figure(len(systems), height=2.4)
    before = evaluation.first.by_query[PRIMARY]
    for system, axes in zip(systems, panels, strict=True):
        after = system.measured.by_query[PRIMARY]
        deltas = sorted((after[qid] - before[qid] for qid in evaluation.queries), reverse=True)
        colours = [_COLOURS[0] if delta > 0 else _COLOURS[1] for delta in deltas]
        axes.bar(range(1, len(deltas) + 1), deltas, width=1.0, color=colours)
        axes.axhline(0, color=_GREY, lw=0.8)
        change = system.comparison
        axes.set_title(
            f"{system.name}: {change.wins} better, {change.losses} worse, {change.ties} the same",
            fontsize=9,
            loc="left",
        )
        axes.set_ylabel("difference")
    panels[-1].set_xlabel("queries, from most gained to most lost")
    return figure


def _scores(evaluation: Evaluation) -> Figure | None:
    scored = [(system.name, system.scores) for system in evaluation.systems if system.scores]
    if not scored:
        return None
    figure, panels = _figure(len(scored), height=2.4)
    for (name, scores), axes in zip(scored, panels, strict=True):
        _histogram(axes, scores)
        axes.set_title(name, fontsize=9, loc="left")
        axes.set_ylabel("share of its group")
    panels[0].legend(fontsize=8)
    panels[-1].set_xlabel("logit")
    return figure


def _histogram(axes: Any, scores: Histogram) -> None:
    groups = (("relevant", scores.relevant, _COLOURS[0]), ("other", scores.other, _COLOURS[1]))
    for name, counts, colour in groups:
        total = sum(counts)
        shares = [count / total if total else 0.0 for count in counts]
        axes.stairs(shares, scores.edges, fill=True, alpha=0.45, color=colour, label=f"{name} ({total:,})")


def _weights(evaluation: Evaluation) -> Figure | None:
    fitted = [(system, system.fused) for system in evaluation.systems if system.fused and system.fused.curve]
    if not fitted:
        return None
    figure, (axes,) = _figure()
    for (system, fused), colour in zip(fitted, cycle(_COLOURS), strict=False):
        weights, values = zip(*fused.curve, strict=True)
        axes.plot(weights, values, "o-", color=colour, ms=4, label=f"{fused.of}, all queries")
        axes.plot(
            [fused.fusion],
            [system.comparison.after],
            "*",
            color=colour,
            ms=13,
            label=f"{system.name}, cross-fitted",
        )
        rrf = [s for s in evaluation.systems if s.fused and (s.fused.of, s.fused.fusion) == (fused.of, "rrf")]
        for one in rrf:
            axes.axhline(one.comparison.after, color=colour, ls=":", lw=1.2, label=one.name)
    axes.set_xlabel("weight: 0 is the first stage alone, 1 the reranker alone")
    axes.set_ylabel(PRIMARY)
    axes.legend(fontsize=8)
    return figure


def _reliability(system: System, _: Evaluation) -> Figure | None:
    found = system.calibrated
    if found is None:
        return None
    return plot_reliability(
        {"sigmoid": found.sigmoid.reliability, "calibrated, cross-fitted": found.calibrated.reliability}
    )
