"""`evaluate`: several rerankers over a first stage, each scoring the candidates once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from rerank_plugins.calibration.threshold import check_precision
from rerank_plugins.errors import InvalidInputError
from rerank_plugins.evaluation import rag
from rerank_plugins.evaluation.contest import Contest
from rerank_plugins.evaluation.fused import Wanted, check_wanted
from rerank_plugins.evaluation.results import Evaluation, System, best_of
from rerank_plugins.evaluation.statistics import check_statistics
from rerank_plugins.evaluation.systems import Pass, Progress, given_order, score_candidates
from rerank_plugins.evaluation.topics import Topic, Topics
from rerank_plugins.inputs import shorten
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
    fusions: Sequence[Wanted] = (),
    calibrate: bool = False,
    precision: float = 0.9,
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
            TREC Deep Learning passages that is 2 by its organisers. Has no part where answers judge.
        fusions: Measure each reranker fused with the first stage, too, by the same logits: `"rrf"`, a weight
            from 0 to 1, or `"fit"`: a weight chosen for nDCG@10 at the largest depth. Each fifth of the
            queries is judged with the weight chosen on the other four; the one to set is chosen on all.
        calibrate: Fit each reranker's probabilities and a threshold to the judgements, see `Calibrated`.
        precision: Share of the kept documents that should be relevant, 0 to 1, for that threshold.
        confidence: Of the intervals, in (0, 1).
        resamples: Of bootstrap and randomisation test each; at least 100.
        seed: Of both, and of the folds.
        timed_queries: How many queries a depth below the largest is timed with; 0: none.
        count_tokens: Counts a passage's tokens in a prompt.
        progress: Called with (name, done, total).

    Returns:
        Measures, differences with intervals, costs, and what they mean for prompts. A fused system comes
        right after its own.

    Raises:
        InvalidInputError: If there is no reranker or candidate, nothing is judged, a number is out of its
            range, or a weight is to fuse candidates without first-stage scores.
        ScoringError: If scoring fails.
    """
    if not rerankers:
        raise InvalidInputError("at least one reranker must be given, but got none")
    check_precision(precision)
    check_statistics(confidence, resamples)
    judged, judged_by = _judged(topics)
    if judged_by == "answers":
        relevant_from = 1  # to contain one is grade 1, there is no other
    wanted = check_wanted(fusions, judged)
    unanswerable = [topic for topic in topics if topic.unanswerable]
    levels = _levels(judged, depths)
    statistics = {"confidence": confidence, "resamples": resamples, "seed": seed}
    contest = Contest(judged, relevant_from, statistics, count_tokens)

    def measured(name: str, given: Given) -> Iterator[System]:
        if isinstance(given, Mapping):
            yield contest.system(name, given_order(judged, given, levels[-1]))
            return
        extra = unanswerable if calibrate else []
        made = _score(name, given, [*judged, *extra], levels, timed_queries, progress)
        plain = contest.system(name, made)
        yield contest.calibrated(plain, made, extra, precision, topics.name) if calibrate else plain
        for fusion in wanted:
            yield contest.fused(plain, made, fusion, progress)

    systems = [system for name, given in rerankers.items() for system in measured(name, given)]
    best = best_of(systems)
    return Evaluation(
        name=topics.name,
        first_stage=topics.first_stage or "the given order",
        queries={topic.id: topic.query for topic in judged},
        left_out=len(topics) - len(judged) - len(unanswerable),
        unanswerable=len(unanswerable),
        without_candidates=sum(not topic.candidates for topic in judged),
        candidates=float(np.mean([len(topic.candidates) for topic in judged])),
        relevant_from=relevant_from,
        judged_by=judged_by,
        confidence=confidence,
        first=contest.before,
        first_bearing=contest.first_bearing,
        best_possible=contest.best_possible(levels[-1]),
        between={s.name: contest.compare(s.measured, best.measured) for s in systems if s is not best},
        systems=tuple(systems),
        rag="answers" if contest.answered else judged_by,
        machine=machine(),
        scored_on=_scored_on(systems),
    )


def _judged(topics: Topics) -> tuple[list[Topic], str]:
    """Return the topics that count, with grades, and who gave those."""
    judged = [topic for topic in topics if topic.grades and not topic.unanswerable]
    if judged:
        _check_known(topics.name, judged)
        return judged, "judgements"
    judged = [replace(topic, grades=rag.answer_grades(topic)) for topic in topics if topic.answers]
    if judged:
        return judged, "answers"
    msg = f"{topics.name} must have judgements or answers, but no query has any"
    raise InvalidInputError(msg)


def _check_known(name: str, judged: Sequence[Topic]) -> None:
    """Raise if no candidate is judged: then the ids are other ids, and every measure would be 0."""
    found = [candidate.id for topic in judged for candidate in topic.candidates]
    known = [docid for topic in judged for docid in topic.grades]
    if found and not set(known).intersection(found):
        msg = (
            f"{name} must have judgements of some candidates, but has of none: candidates are "
            f"{shorten(found[:3])}, judged are {shorten(known[:3])}; do both name documents alike?"
        )
        raise InvalidInputError(msg)


def _levels(judged: Sequence[Topic], depths: Sequence[int]) -> list[int]:
    most = max(len(topic.candidates) for topic in judged)
    if not most:
        raise InvalidInputError("some query must have candidates, but none has: call retrieve first")
    if not depths or min(depths) < 1:
        msg = f"depths must be one or more numbers >= 1, but got {tuple(depths)}"
        raise InvalidInputError(msg)
    return sorted({min(depth, most) for depth in depths})


def _score(
    name: str,
    given: Reranker | Scorer,
    topics: Sequence[Topic],
    levels: Sequence[int],
    timed_queries: int,
    progress: Progress,
) -> Pass:
    reranker = given if isinstance(given, Reranker) else Reranker(given)
    return score_candidates(name, reranker, topics, levels, timed_queries=timed_queries, progress=progress)


def _scored_on(systems: Sequence[System]) -> tuple[str, ...]:
    """Name what scored besides this CPU, each once."""
    of_systems = [system.cost.device for system in systems if system.cost and system.cost.device]
    devices = [device for of_one in of_systems for device in of_one.split(",")]
    return tuple(_named(device) for device in dict.fromkeys(devices) if device != "cpu")


def _named(device: str) -> str:
    if device == "remote":
        return "a rerank server"
    # A scorer of your own may say what torch does not see.
    seen = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return f"{torch.cuda.get_device_name(device)} ({device})" if device in seen else device
