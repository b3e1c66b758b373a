"""One pass of a reranker over all candidates: logits, what they cost, and the order at every depth."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.errors import ScoringError
from rerank_plugins.evaluation.topics import Candidate, Topic
from rerank_plugins.fusion import best_first, fuse, read_first_stage
from rerank_plugins.ranking import Ranking
from rerank_plugins.reranker import Reranker
from rerank_plugins.settings import Fusion

__all__ = [
    "Cost",
    "Orders",
    "Pass",
    "Progress",
    "first_stage_order",
    "given_order",
    "in_input_order",
    "reorder",
    "score_candidates",
]

Orders = dict[str, list[Candidate]]  # query id -> candidates, best first
Progress = Callable[[str, int, int], None]  # what is done, how much of it, of how much

_WARM_UP_DOCUMENTS = 8


@dataclass(frozen=True)
class Cost:
    """What scoring took. Latencies are milliseconds of wall clock, one query at a time.

    Attributes:
        documents: Documents scored in the pass.
        p50_ms: Median latency of a query at the full depth.
        p99_ms: 99th percentile of it; with fewer than 100 queries, nearly the slowest.
        docs_per_second: Documents over seconds of the pass.
        truncated: Share of documents that the model did not read to their end.
        ties: Share of documents whose logit equals that of another one of the query.
        p50_at_depth: Median latency by depth.
        device: Where it ran; None for a scorer that does not say.
        dtype: Precision; None for a scorer that does not say.
        engine: Engine; None for a scorer that does not say.
    """

    documents: int
    p50_ms: float
    p99_ms: float
    docs_per_second: float
    truncated: float
    ties: float
    p50_at_depth: dict[int, float]
    device: str | None
    dtype: str | None
    engine: str | None


@dataclass(frozen=True)
class Pass:
    """What one system made of the candidates.

    Attributes:
        orders: The order at each depth: the first so many reranked, the others below in first-stage order.
        logits: float64 [scored candidates] of each query, in first-stage order; None for a given order.
        cost: None for a given order.
        model: The model, as its scorer's info names it; None if that does not say.
        revision: Its revision, likewise.
    """

    orders: dict[int, Orders]
    logits: dict[str, NDArray[np.float64]] | None = None
    cost: Cost | None = None
    model: str | None = None
    revision: str | None = None


def first_stage_order(topics: Sequence[Topic]) -> Orders:
    """Return the candidates as they came."""
    return {topic.id: list(topic.candidates) for topic in topics}


def given_order(topics: Sequence[Topic], order: Mapping[str, Sequence[str]], depth: int) -> Pass:
    """Take another system's order, for example a published run; it may hold documents of its own."""
    # Backwards, so that the first of a document's chunks stays: at its place the document counts.
    known = {topic.id: {one.id: one for one in reversed(topic.candidates)} for topic in topics}
    orders = {
        topic.id: [known[topic.id].get(docid, Candidate(docid, "")) for docid in order.get(topic.id, ())]
        for topic in topics
    }
    return Pass({depth: orders})


def score_candidates(
    name: str,
    reranker: Reranker,
    topics: Sequence[Topic],
    depths: Sequence[int],
    *,
    timed_queries: int,
    progress: Progress,
) -> Pass:
    """Score the first `max(depths)` candidates of each query, once.

    Smaller depths follow from the same logits; only their latency is measured apart, on the first
    `timed_queries` queries.

    Args:
        name: For progress.
        reranker: Its `top_k`, `min_score` and `scale` do not matter here.
        topics: The queries with candidates.
        depths: Ascending.
        timed_queries: How many queries a smaller depth is timed with; 0: none.
        progress: Told of every query.

    Raises:
        ScoringError: If scoring fails, whatever the reranker's `on_error` says.
    """
    full = [topic for topic in topics if topic.candidates]
    work = [(depth, topic) for depth in depths[:-1] for topic in full[:timed_queries]]
    work += [(depths[-1], topic) for topic in full]
    seconds: dict[int, list[float]] = {depth: [] for depth in depths}
    rankings: dict[str, Ranking] = {}
    if full:
        _rank(reranker, full[0], min(_WARM_UP_DOCUMENTS, depths[-1]))  # whatever the first call sets up
    for done, (depth, topic) in enumerate(work):
        progress(name, done, len(work))
        started = time.perf_counter()
        ranking = _rank(reranker, topic, depth)
        seconds[depth].append(time.perf_counter() - started)
        rankings[topic.id] = ranking
    progress(name, len(work), len(work))
    logits = {topic.id: np.empty(0) for topic in topics}
    logits |= {qid: in_input_order(ranking) for qid, ranking in rankings.items()}
    orders = {
        depth: {
            topic.id: reorder(topic.candidates, logits[topic.id][:depth], reranker.settings.fusion)
            for topic in topics
        }
        for depth in depths
    }
    info = getattr(reranker.scorer, "info", None)
    return Pass(
        orders,
        logits,
        _cost(logits, rankings, seconds, depths),
        model=getattr(info, "model", None),
        revision=getattr(info, "revision", None),
    )


def _rank(reranker: Reranker, topic: Topic, depth: int) -> Ranking:
    candidates = topic.candidates[:depth]
    ranking = reranker.rank(
        topic.query,
        [candidate.text for candidate in candidates],
        first_stage=[candidate.score for candidate in candidates],
        top_k=None,
        min_score=None,
        scale="logit",
    )
    if not ranking.reranked:
        msg = f"query {topic.id} was not scored: {ranking.reason}"
        raise ScoringError(msg)
    return ranking


def in_input_order(ranking: Ranking) -> NDArray[np.float64]:
    """Return the logits of a ranking that kept all documents, in the order they were given."""
    logits = np.empty(len(ranking))
    for ranked in ranking:
        logits[ranked.index] = ranked.logit
    return logits


def reorder(
    candidates: Sequence[Candidate], logits: NDArray[np.float64], fusion: Fusion | None
) -> list[Candidate]:
    """Return the order that a reranker gives the first of the candidates; the others stay below.

    Args:
        candidates: Of a query, in first-stage order.
        logits: float64 [n], of the first n of them.
        fusion: As in `Reranker`.
    """
    scores = [candidate.score for candidate in candidates[: len(logits)]]
    fused = fuse(fusion, logits, read_first_stage(fusion, scores, len(scores)))
    order = best_first(logits, fused).tolist()
    return [candidates[i] for i in order] + list(candidates[len(order) :])


def _cost(
    logits: Mapping[str, NDArray[np.float64]],
    rankings: Mapping[str, Ranking],
    seconds: Mapping[int, list[float]],
    depths: Sequence[int],
) -> Cost | None:
    documents = sum(len(ranking) for ranking in rankings.values())
    if not documents:
        return None
    deepest = np.array(seconds[depths[-1]])
    stats = next(iter(rankings.values())).stats
    return Cost(
        documents=documents,
        p50_ms=float(np.percentile(deepest, 50)) * 1000,
        p99_ms=float(np.percentile(deepest, 99)) * 1000,
        docs_per_second=documents / float(deepest.sum()),
        truncated=sum(ranking.stats.truncated for ranking in rankings.values()) / documents,
        ties=sum(_tied(of_query) for of_query in logits.values()) / documents,
        p50_at_depth={d: float(np.median(times)) * 1000 for d, times in seconds.items() if times},
        device=stats.device,
        dtype=stats.dtype,
        engine=stats.engine,
    )


def _tied(logits: NDArray[np.float64]) -> int:
    """Return how many logits come more than once."""
    _, counts = np.unique(logits, return_counts=True)
    return int(counts[counts > 1].sum())
