"""`Contest`: the first stage of a test set, and whatever is measured against it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rerank_plugins.errors import InvalidInputError
from rerank_plugins.evaluation import rag
from rerank_plugins.evaluation.calibrated import calibrate
from rerank_plugins.evaluation.fused import Fused, Wanted, fit_weight, title
from rerank_plugins.evaluation.measures import PRIMARY, Judge, Measured, standard_measures
from rerank_plugins.evaluation.results import AtDepth, Histogram, System
from rerank_plugins.evaluation.statistics import Comparison, compare
from rerank_plugins.evaluation.systems import Orders, Pass, Progress, first_stage_order, reorder
from rerank_plugins.evaluation.topics import Topic

__all__ = ["Contest"]


class Contest:
    """Measures systems on judged topics.

    Args:
        topics: Judged queries.
        relevant_from: The lowest grade that counts as relevant in binary measures.
        statistics: `confidence`, `resamples` and `seed` of intervals and tests.
        count_tokens: Counts a passage's tokens in a prompt.
    """

    def __init__(
        self,
        topics: Sequence[Topic],
        relevant_from: int,
        statistics: Mapping[str, Any],
        count_tokens: Callable[[str], int],
    ) -> None:
        self.topics = topics
        self.relevant_from = relevant_from
        self.statistics = statistics
        self.grades = {topic.id: dict(topic.grades) for topic in topics}
        self.judge = Judge(self.grades, standard_measures(relevant_from))
        # Prompts are judged by answers where there are some, else by the judgements.
        self.answered = any(topic.answers for topic in topics)
        self._bearers = {
            topic.id: rag.bearers(topic, relevant_from)
            for topic in topics
            if topic.answers or not self.answered
        }
        self._count = _remembered(count_tokens)
        first = first_stage_order(topics)
        self.before = self.judge.measure(_ids(first))
        self.first_bearing = self.bearing(first)

    def compare(self, before: Measured, after: Measured, measure: str = PRIMARY) -> Comparison:
        """Compare two orders by one measure, query by query."""
        values = [np.array([one.by_query[measure][qid] for qid in self.grades]) for one in (before, after)]
        return compare(values[0], values[1], **self.statistics)

    def bearing(self, orders: Orders) -> rag.Bearing:
        """Measure prompts."""
        return rag.bearing(orders, self._bearers, count_tokens=self._count)

    def best_possible(self, depth: int) -> Measured:
        """Measure what a perfect reranker would make of the first `depth` candidates."""
        return self.judge.measure(
            {
                topic.id: sorted(
                    (candidate.id for candidate in topic.candidates[:depth]),
                    key=lambda docid, grades=topic.grades: -grades.get(docid, 0),  # type: ignore[misc]
                )
                + [candidate.id for candidate in topic.candidates[depth:]]
                for topic in self.topics
            }
        )

    def system(self, name: str, made: Pass) -> System:
        """Measure what a system made of the candidates."""
        depths = [self._at_depth(depth, orders, made) for depth, orders in made.orders.items()]
        last, orders = depths[-1].measured, made.orders[depths[-1].depth]
        # A run may hold documents whose text nobody gave: their tokens cannot be counted.
        unknown = made.cost is None and any(not c.text for order in orders.values() for c in order)
        bearing = None if unknown else self.bearing(orders)
        return System(
            name=name,
            depths=tuple(depths),
            comparisons={
                measure: self.compare(self.before, last, measure)
                for measure in last.mean
                if not measure.startswith("Judged")  # says nothing of quality
            },
            bearing=bearing,
            savings=tuple(rag.savings(self.first_bearing, bearing)) if bearing else (),
            cost=made.cost,
            scores=_histogram(made, self.topics, self.relevant_from),
            logits={qid: logits.tolist() for qid, logits in (made.logits or {}).items()},
        )

    def fused(self, plain: System, made: Pass, wanted: Wanted, progress: Progress) -> System:
        """Measure the same logits fused with the first stage; a fitted weight on queries it has not seen.

        Args:
            plain: The system alone.
            made: Its pass.
            wanted: How to fuse, or `"fit"`.
            progress: Told of the weights that are tried.
        """
        if made.logits is None:
            msg = f"{plain.name} must have logits to fuse, but is a given order"
            raise InvalidInputError(msg)
        name, logits, fitted = title(plain.name, wanted), made.logits, None
        if wanted == "fit":
            fitted = fit_weight(
                self.topics,
                logits,
                Judge(self.grades, self.judge.measures[:1]),
                seed=self.statistics["seed"],
                tried=lambda done, total: progress(name, done, total),
            )
            progress(name, len(fitted.curve), len(fitted.curve))
        orders = {
            depth: {
                topic.id: reorder(
                    topic.candidates,
                    logits[topic.id][:depth],
                    fitted.by_query[topic.id] if fitted else wanted,  # type: ignore[arg-type]
                )
                for topic in self.topics
            }
            for depth in made.orders
        }
        system = self.system(name, Pass(orders, cost=made.cost))
        return replace(
            system,
            fused=Fused(
                of=plain.name,
                fusion=fitted.weight if fitted else wanted,  # type: ignore[arg-type]
                comparison=self.compare(plain.measured, system.measured),
                fold_weights=fitted.fold_weights if fitted else (),
                curve=fitted.curve if fitted else (),
            ),
        )

    def calibrated(
        self, system: System, made: Pass, unanswerable: Sequence[Topic], precision: float, data: str
    ) -> System:
        """Calibrate a system on these topics and on those that nothing answers."""
        try:
            found = calibrate(
                [*self.topics, *unanswerable],
                made.logits or {},
                precision=precision,
                relevant_from=self.relevant_from,
                model=made.model,
                revision=made.revision,
                data=data,
                **self.statistics,
            )
        except InvalidInputError as error:
            # Too few labels, or a model that knows nothing of them: no reason to lose all that was measured.
            return replace(system, not_calibrated=str(error))
        return replace(system, calibrated=found)

    def _at_depth(self, depth: int, orders: Orders, made: Pass) -> AtDepth:
        measured = self.judge.measure(_ids(orders))
        latency = made.cost.p50_at_depth.get(depth) if made.cost else None
        return AtDepth(depth, measured, self.compare(self.before, measured), latency)


def _remembered(count_tokens: Callable[[str], int]) -> Callable[[str], int]:
    counts: dict[str, int] = {}

    def count(text: str) -> int:
        if text not in counts:
            counts[text] = count_tokens(text)
        return counts[text]

    return count


def _ids(orders: Orders) -> dict[str, list[str]]:
    return {qid: [candidate.id for candidate in order] for qid, order in orders.items()}


def _histogram(made: Pass, judged: Sequence[Topic], relevant_from: int) -> Histogram | None:
    if made.logits is None:
        return None
    relevant = [
        topic.grades.get(candidate.id, 0) >= relevant_from
        for topic in judged
        for candidate in topic.candidates[: len(made.logits[topic.id])]
    ]
    logits = np.concatenate([made.logits[topic.id] for topic in judged])
    return Histogram.of(logits, np.array(relevant, dtype=np.bool_))
