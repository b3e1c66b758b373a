"""`evaluate`: several rerankers over a first stage, each scoring the candidates once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rerank_plugins.errors import InvalidInputError
from rerank_plugins.evaluation import rag
from rerank_plugins.evaluation.measures import PRIMARY, Judge, Measured, standard_measures
from rerank_plugins.evaluation.results import AtDepth, Evaluation, Histogram, System, best_of
from rerank_plugins.evaluation.statistics import Comparison, compare
from rerank_plugins.evaluation.systems import (
    Orders,
    Pass,
    Progress,
    first_stage_order,
    given_order,
    score_candidates,
)
from rerank_plugins.evaluation.topics import Topic, Topics
from rerank_plugins.machine import machine
from rerank_plugins.reranker import Reranker
from rerank_plugins.scoring.protocol import Scorer

__all__ = ["evaluate"]

Given = Reranker | Scorer | Mapping[str, Sequence[str]]


def evaluate(
    topics: Topics,
    rerankers: Mapping[str, Given],
    *,
    depths: Sequence[int] = (10, 20, 50, 100),
    relevant_from: int = 1,
    confidence: float = 0.95,
    resamples: int = 9999,
    seed: int = 0,
    timed_queries: int = 20,
    count_tokens: Callable[[str], int] = rag.count_words,
    progress: Progress = lambda *_: None,
) -> Evaluation:
    """Compare rerankers with the first stage and with each other.

    Each reranker scores the first `max(depths)` candidates of each query once. At a smaller depth d, the
    first d are reranked by the same logits and the others stay below them in first-stage order.

    Args:
        topics: The queries with candidates, see `retrieve`. Queries without judgements are judged by their
            answers if no query has judgements, else left out.
        rerankers: By name: a `Reranker`, a scorer, or another system's order as `read_run` returns it. For
            honest latencies give scorers a `token_cache_bytes` of 0: a remembered text costs less than a new
            one.
        depths: How many candidates to rerank; those beyond the most candidates there are count as these.
        relevant_from: The lowest grade that counts as relevant in binary measures, and bears an answer. For
            TREC Deep Learning passages that is 2 by its organisers.
        confidence: Of the intervals, in (0, 1).
        resamples: Of bootstrap and randomisation test each; at least 100.
        seed: Of both.
        timed_queries: How many queries a depth below the largest is timed with; 0: none.
        count_tokens: Counts a passage's tokens in a prompt.
        progress: Called with (name, done, total).

    Returns:
        Measures, differences with intervals, costs, and what they mean for prompts.

    Raises:
        InvalidInputError: If there is no reranker or candidate, nothing is judged, or a number is out of its
            range.
        ScoringError: If scoring fails.
    """
    if not rerankers:
        raise InvalidInputError("at least one reranker must be given, but got none")
    judged, judged_by = _judged(topics)
    levels = _levels(judged, depths)
    statistics = {"confidence": confidence, "resamples": resamples, "seed": seed}
    contest = _Contest(judged, relevant_from, statistics, count_tokens)
    systems = []
    for name, given in rerankers.items():
        made = _run(name, given, judged, levels, timed_queries, progress)
        systems.append(contest.system(name, made))
    best = best_of(systems)
    return Evaluation(
        name=topics.name,
        first_stage=topics.first_stage or "the given order",
        queries={topic.id: topic.query for topic in judged},
        left_out=len(topics) - len(judged),
        without_candidates=sum(not topic.candidates for topic in judged),
        candidates=float(np.mean([len(topic.candidates) for topic in judged])),
        relevant_from=relevant_from,
        judged_by=judged_by,
        confidence=confidence,
        first=contest.before,
        first_bearing=contest.first_bearing,
        best_possible=contest.judge.measure(_best_possible(judged, levels[-1])),
        between={s.name: contest.compare(s.measured, best.measured) for s in systems if s is not best},
        systems=tuple(systems),
        rag="answers" if contest.answered else judged_by,
        machine=machine(),
    )


class _Contest:
    """The first stage, and whatever is measured against it."""

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
        self.answered = {topic.id: rag.answer_grades(topic) for topic in topics if topic.answers}
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
        return rag.bearing(
            orders,
            self.answered or self.grades,
            relevant_from=1 if self.answered else self.relevant_from,
            count_tokens=self._count,
        )

    def system(self, name: str, made: Pass) -> System:
        """Measure what a system made of the candidates."""
        depths = [self._at_depth(depth, orders, made) for depth, orders in made.orders.items()]
        last, orders = depths[-1].measured, made.orders[depths[-1].depth]
        # A run may hold documents whose text nobody gave: their tokens cannot be counted.
        unknown = made.logits is None and any(not c.text for order in orders.values() for c in order)
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

    def _at_depth(self, depth: int, orders: Orders, made: Pass) -> AtDepth:
        measured = self.judge.measure(_ids(orders))
        latency = made.cost.p50_at_depth.get(depth) if made.cost else None
        return AtDepth(depth, measured, self.compare(self.before, measured), latency)


def _judged(topics: Topics) -> tuple[list[Topic], str]:
    """Return the topics that count, with grades, and who gave those."""
    judged = [topic for topic in topics if topic.grades]
    if judged:
        return judged, "judgements"
    judged = [replace(topic, grades=rag.answer_grades(topic)) for topic in topics if topic.answers]
    if judged:
        return judged, "answers"
    msg = f"{topics.name} must have judgements or answers, but no query has any"
    raise InvalidInputError(msg)


def _levels(judged: Sequence[Topic], depths: Sequence[int]) -> list[int]:
    most = max(len(topic.candidates) for topic in judged)
    if not most:
        raise InvalidInputError("some query must have candidates, but none has: call retrieve first")
    if not depths or min(depths) < 1:
        msg = f"depths must be one or more numbers >= 1, but got {tuple(depths)}"
        raise InvalidInputError(msg)
    return sorted({min(depth, most) for depth in depths})


def _run(
    name: str,
    given: Given,
    topics: Sequence[Topic],
    levels: Sequence[int],
    timed_queries: int,
    progress: Progress,
) -> Pass:
    if isinstance(given, Mapping):
        return given_order(topics, given, levels[-1])
    reranker = given if isinstance(given, Reranker) else Reranker(given)
    return score_candidates(name, reranker, topics, levels, timed_queries=timed_queries, progress=progress)


def _remembered(count_tokens: Callable[[str], int]) -> Callable[[str], int]:
    counts: dict[str, int] = {}

    def count(text: str) -> int:
        if text not in counts:
            counts[text] = count_tokens(text)
        return counts[text]

    return count


def _ids(orders: Orders) -> dict[str, list[str]]:
    return {qid: [candidate.id for candidate in order] for qid, order in orders.items()}


def _best_possible(judged: Sequence[Topic], depth: int) -> dict[str, list[str]]:
    """Return what a perfect reranker would make of the first `depth` candidates."""
    return {
        topic.id: sorted(
            (candidate.id for candidate in topic.candidates[:depth]),
            key=lambda docid, grades=topic.grades: -grades.get(docid, 0),  # type: ignore[misc]
        )
        + [candidate.id for candidate in topic.candidates[depth:]]
        for topic in judged
    }


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
