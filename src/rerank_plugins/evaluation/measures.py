"""Measures, all of them by `ir_measures`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rerank_plugins.evaluation.extra import missing

try:
    import ir_measures
    from ir_measures import AP, RR, Judged, P, R, nDCG
except ImportError as error:
    raise missing("ir-measures", error) from error

__all__ = ["PRIMARY", "Judge", "Measured", "measure_run", "standard_measures"]

# What verdicts are about.
PRIMARY = "nDCG@10"

_RECALL = (5, 10, 20, 50, 100)
_PRECISION = (1, 5, 10)

Order = Mapping[str, Sequence[str]]  # query id -> document ids, best first


def standard_measures(relevant_from: int = 1) -> tuple[Any, ...]:
    """Return nDCG@10, MRR@10 (`RR@10`), MAP (`AP`), recall and precision, and the judged share of the top 10.

    Args:
        relevant_from: The lowest grade that counts as relevant where a measure knows only yes and no. nDCG
            takes grades as they are.
    """
    binary = {} if relevant_from == 1 else {"rel": relevant_from}
    return (
        nDCG @ 10,
        RR(**binary) @ 10,
        AP(**binary),
        *(R(**binary) @ k for k in _RECALL),
        *(P(**binary) @ k for k in _PRECISION),
        Judged @ 10,
    )


@dataclass(frozen=True)
class Measured:
    """An order of candidates, measured. Measures are named as `ir_measures` prints them.

    Attributes:
        mean: Mean over the judged queries, by measure.
        by_query: Value of each judged query, by measure.
    """

    mean: dict[str, float]
    by_query: dict[str, dict[str, float]]


class Judge:
    """Judgements that measure any number of orders.

    Args:
        grades: Grade of each judged document, by query id and document id.
        measures: Measures of `ir_measures`.
    """

    def __init__(self, grades: Mapping[str, Mapping[str, int]], measures: Iterable[Any]) -> None:
        self.measures = list(measures)
        self._evaluator = ir_measures.evaluator(self.measures, {q: dict(g) for q, g in grades.items()})

    def measure(self, order: Order) -> Measured:
        """Measure an order. A document that comes several times, as chunks do, counts at its first place."""
        run = {}
        for qid, docids in order.items():
            unique = dict.fromkeys(docids)
            # Whole numbers, no two alike: no evaluator breaks ties in its own way.
            run[qid] = {docid: float(len(unique) - place) for place, docid in enumerate(unique)}
        # A query without documents is left out: it counts as 0, and Judged would divide by nothing.
        results = self._evaluator.calc({qid: scores for qid, scores in run.items() if scores})
        aggregated: Any = results.aggregated
        by_query: dict[str, dict[str, float]] = {str(measure): {} for measure in self.measures}
        for metric in results.per_query:
            by_query[str(metric.measure)][metric.query_id] = float(metric.value)
        mean = {str(measure): float(aggregated[measure]) for measure in self.measures}
        return Measured(mean, by_query)


def measure_run(
    order: Order, grades: Mapping[str, Mapping[str, int]], measures: Iterable[Any] | None = None
) -> Measured:
    """Measure one order, for example of `read_run`, against judgements.

    Args:
        order: Document ids, best first, by query id.
        grades: Grade of each judged document, by query id and document id.
        measures: Measures of `ir_measures`; None: `standard_measures()`.
    """
    return Judge(grades, standard_measures() if measures is None else measures).measure(order)
