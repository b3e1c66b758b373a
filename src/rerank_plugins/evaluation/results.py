"""What an evaluation found, as plain values."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.evaluation.calibrated import Calibrated
from rerank_plugins.evaluation.fused import Fused
from rerank_plugins.evaluation.measures import PRIMARY, Measured
from rerank_plugins.evaluation.rag import Bearing, Saving
from rerank_plugins.evaluation.statistics import Comparison
from rerank_plugins.evaluation.systems import Cost

__all__ = ["AtDepth", "Evaluation", "Histogram", "System", "best_of"]

_BINS = 30


@dataclass(frozen=True)
class Histogram:
    """How logits of relevant documents and of the others are spread.

    Attributes:
        edges: Of the bins, in logits: [n + 1].
        relevant: Relevant documents in each bin: [n].
        other: Documents judged not relevant, or not judged, in each bin: [n].
    """

    edges: list[float]
    relevant: list[int]
    other: list[int]

    @classmethod
    def of(cls, logits: NDArray[np.float64], relevant: NDArray[np.bool_]) -> "Histogram":
        """Count both groups in the same bins."""
        edges = np.histogram_bin_edges(logits, _BINS)
        counts = [np.histogram(logits[group], edges)[0].tolist() for group in (relevant, ~relevant)]
        return cls(edges.tolist(), *counts)


@dataclass(frozen=True)
class AtDepth:
    """Quality when only the first so many candidates are reranked.

    Attributes:
        depth: How many.
        measured: Their measures.
        comparison: nDCG@10 against the first stage.
        p50_ms: Median latency of a query, in milliseconds; None if it was not timed.
    """

    depth: int
    measured: Measured
    comparison: Comparison
    p50_ms: float | None


@dataclass(frozen=True)
class System:
    """A reranker, or a given run, against the first stage.

    Attributes:
        name: As it was given.
        depths: Results by depth, ascending; a given run has one.
        comparisons: Against the first stage at the largest depth, by measure.
        bearing: Prompts of the first k passages; None for a run with documents of its own.
        savings: Prompts of equal recall before and after.
        cost: None for a given run.
        scores: None for a given run.
        logits: Of the candidates that were scored, in first-stage order, by query id: with the topics'
            grades, what thresholds and calibrations are fitted to. Empty for a given run, and where `fused`
            names another system, whose they are.
        fused: If it came from another system by fusing it with the first stage.
        calibrated: If it was calibrated.
        not_calibrated: Why it could not be, if it should have been.
    """

    name: str
    depths: tuple[AtDepth, ...]
    comparisons: dict[str, Comparison]
    bearing: Bearing | None
    savings: tuple[Saving, ...]
    cost: Cost | None
    scores: Histogram | None
    logits: dict[str, list[float]] = field(repr=False)
    fused: Fused | None = None
    calibrated: Calibrated | None = None
    not_calibrated: str | None = None

    @property
    def measured(self) -> Measured:
        """The measures at the largest depth."""
        return self.depths[-1].measured

    @property
    def comparison(self) -> Comparison:
        """nDCG@10 against the first stage, at the largest depth."""
        return self.comparisons[PRIMARY]


def best_of(systems: Sequence[System]) -> System:
    """Return the reranker with the highest nDCG@10; a given run, which nobody can use, for lack of one.

    A fused system counts only if these queries can tell that it is better than the reranker alone.
    """
    alone = [one for one in systems if one.fused is None or one.fused.comparison.better]
    usable = [one for one in alone if one.cost is not None] or alone
    return max(usable, key=lambda system: system.measured.mean[PRIMARY])


@dataclass(frozen=True)
class Evaluation:
    """Several systems over one first stage.

    Attributes:
        name: Of the test set.
        first_stage: Who found the candidates.
        queries: Text of each query that counts, by id.
        left_out: Queries without judgements and answers, which do not count.
        unanswerable: Queries that nothing answers; they count in calibrations only.
        without_candidates: Queries that count, as 0, though the first stage found nothing.
        candidates: Mean candidates a query.
        relevant_from: The lowest grade that counts as relevant in measures that know yes and no.
        judged_by: `"judgements"`, or `"answers"` where relevant means to contain a short answer.
        confidence: Of the intervals.
        first: The first stage, measured.
        first_bearing: Its prompts.
        best_possible: The same candidates in the best possible order: what a reranker could reach.
        between: nDCG@10 of `best` against each other system, by the other's name.
        systems: In the order given.
        rag: Whether prompts were judged by `"judgements"` or by `"answers"`.
        machine: Where latencies were measured.
        scored_on: What scored besides its CPU: CUDA devices, a rerank server.
    """

    name: str
    first_stage: str
    queries: dict[str, str]
    left_out: int
    unanswerable: int
    without_candidates: int
    candidates: float
    relevant_from: int
    judged_by: str
    confidence: float
    first: Measured
    first_bearing: Bearing
    best_possible: Measured
    between: dict[str, Comparison]
    systems: tuple[System, ...]
    rag: str
    machine: dict[str, Any]
    scored_on: tuple[str, ...]

    @property
    def best(self) -> System:
        """The reranker with the highest nDCG@10, the first of equals; a given run for lack of one.

        A fused system only if it is better than the reranker alone by more than luck.
        """
        return best_of(self.systems)

    @property
    def told_apart(self) -> tuple[System, ...]:
        """The systems without fused ones, which cost what their own costs; but with the best."""
        return tuple(system for system in self.systems if not system.fused or system is self.best)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that `json.dumps` takes: everything but the logits.

        JSON has no infinity: a threshold that keeps nothing has a `min_score` of None.
        """
        values = asdict(self)
        for system in values["systems"]:
            del system["logits"]
            if system["calibrated"] and math.isinf(system["calibrated"]["threshold"]["min_score"]):
                system["calibrated"]["threshold"]["min_score"] = None
        return values
