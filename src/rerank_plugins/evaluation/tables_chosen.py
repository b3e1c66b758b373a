"""Tables of what was chosen on the judgements: fusion, calibration, threshold; and what that is worth."""

import math
from collections.abc import Sequence

from rerank_plugins.calibration import Threshold
from rerank_plugins.evaluation.calibrated import Calibrated
from rerank_plugins.evaluation.folds import FOLDS
from rerank_plugins.evaluation.measures import PRIMARY
from rerank_plugins.evaluation.results import Evaluation, System
from rerank_plugins.evaluation.table import Table, counts, difference

__all__ = ["CHOSEN", "min_score_text"]


def _fusion(evaluation: Evaluation) -> Table:
    interval = f"{evaluation.confidence:.0%} interval"
    columns = ["", "set fusion", PRIMARY, "against it alone", interval, "p", "better/worse/same", "chosen"]
    rows = [
        [
            system.name,
            str(found.fusion),
            f"{found.comparison.after:.4f}",
            *difference(found.comparison),
            counts(found.comparison),
            _span(found.fold_weights),
        ]
        for system in evaluation.systems
        if (found := system.fused)
    ]
    note = (
        "A weight is the reranker's, 0 to 1. A fitted one is chosen on all queries, but judged cross-fitted: "
        f"each of {FOLDS} parts of the queries with the weight chosen on the others (last column)."
    )
    return Table("Fused with the first stage, against reranking alone", columns, rows, note)


def _span(weights: Sequence[float]) -> str:
    low, high = min(weights, default=0), max(weights, default=0)
    return "" if not weights else f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _calibration(evaluation: Evaluation) -> Table:
    columns = ["", "temperature", "offset", "error", "calibrated", "Brier score", "calibrated"]
    rows = [
        [
            system.name,
            f"{found.calibration.temperature:.3f}",
            f"{found.calibration.offset:+.3f}",
            f"{found.sigmoid.ece:.4f}",
            f"{found.calibrated.ece:.4f}",
            f"{found.sigmoid.brier:.4f}",
            f"{found.calibrated.brier:.4f}",
        ]
        for system, found in _calibrated(evaluation)
    ]
    note = (
        "Error: expected calibration error, of the sigmoid and calibrated. Temperature and offset are of all "
        f"queries; the calibrated figures are cross-fitted: each of {FOLDS} parts by what the others gave."
    )
    return Table("Calibrated scores", columns, rows, note)


def _threshold(evaluation: Evaluation) -> Table:
    interval = f"{evaluation.confidence:.0%} interval"
    columns = ["", "min_score", "precision", interval, "recall", "kept a query"]
    rows = [
        [
            system.name,
            min_score_text(found.threshold),
            "nothing kept" if found.precision is None else f"{found.precision:.1%}",
            "" if found.low is None else f"{found.low:.1%} to {found.high:.1%}",
            f"{found.recall:.1%}",
            f"{found.kept:.2f}",
        ]
        for system, found in _calibrated(evaluation)
    ]
    wanted = next((found.wanted for _, found in _calibrated(evaluation)), 0)
    note = (
        f"min_score: the lowest calibrated score from which {wanted:.0%} of all pairs here are relevant. The "
        "other figures are cross-fitted."
    )
    return Table(f"A threshold for a precision of {wanted:.0%}", columns, rows, note)


def min_score_text(threshold: Threshold) -> str:
    """Return a threshold as text to set; with all digits, so that it keeps what was measured."""
    return "none reaches it" if math.isinf(threshold.min_score) else repr(threshold.min_score)


def _refusals(evaluation: Evaluation) -> Table:
    columns = ["", "right one kept", "only wrong ones", "none kept", "none kept, rightly"]
    columns += ["once right ones are taken away"]
    rows = [
        [
            system.name,
            _of(made.found, made.answerable),
            _of(made.misled, made.answerable),
            _of(made.refused, made.answerable),
            _of(made.rightly_refused, made.unanswerable),
            _of(made.emptied_refused, made.answerable),
        ]
        for system, found in _calibrated(evaluation)
        if (made := found.refusals)
    ]
    note = (
        "With the threshold, cross-fitted. The first three are of queries with a relevant candidate, the "
        "fourth is of those without. The last is of the former, their relevant candidates taken away: there, "
        "too, none should be kept."
    )
    return Table("None of these passages answers", columns, rows, note)


def _of(count: int, total: int) -> str:
    return f"{count} of {total} ({count / total:.0%})" if total else "no such query"


def _calibrated(evaluation: Evaluation) -> list[tuple[System, Calibrated]]:
    return [(system, system.calibrated) for system in evaluation.systems if system.calibrated]


CHOSEN = (_fusion, _calibration, _threshold, _refusals)
