"""Interleaved rounds, and callers at once."""

import asyncio
import math
import statistics
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.bench.contestants import Contestant, Score
from rerank_plugins.bench.workload import Topic

__all__ = [
    "ENOUGH",
    "PAUSE",
    "Agreement",
    "Load",
    "Race",
    "agreement",
    "measure_callers",
    "measure_tasks",
    "race",
]

Clock = Callable[[], float]

# Thread pools spin for a while when they are done: OpenMP's for 0.2 s. Whoever comes next would pay for it.
PAUSE = 0.3

# Of fewer latencies the 99th percentile is the slowest.
ENOUGH = 100


@dataclass(frozen=True)
class Race:
    """What one contestant did in the rounds.

    Attributes:
        rates: Documents per second, a round each.
        latencies: Seconds, a query each, of all rounds.
    """

    rates: list[float]
    latencies: list[float]

    @property
    def rate(self) -> float:
        """Median documents per second."""
        return statistics.median(self.rates)

    @property
    def spread(self) -> tuple[float, float]:
        """Quartiles of documents per second."""
        low, high = np.percentile(self.rates, [25, 75])
        return float(low), float(high)

    @property
    def p50(self) -> float:
        """Median seconds a query."""
        return statistics.median(self.latencies)

    @property
    def p99(self) -> float:
        """The 99th percentile of seconds a query; of fewer than 100 queries the slowest."""
        return _p99(self.latencies)

    def ratio(self, other: "Race") -> float:
        """Return how many times as fast as `other`: the median over rounds, each against its own pair."""
        return statistics.median(a / b for a, b in zip(self.rates, other.rates, strict=True))


def _p99(latencies: Sequence[float] | NDArray[np.float64]) -> float:
    # By nearest rank, so that it is a time that somebody waited.
    return float(np.percentile(latencies, 99, method="inverted_cdf"))


def race(
    contestants: Sequence[Contestant],
    rounds: Sequence[list[Topic]],
    *,
    clock: Clock = time.perf_counter,
    progress: Callable[[], None] = lambda: None,
    pause: float = PAUSE,
) -> dict[str, Race]:
    """Let everybody score the same topics in every round, taking turns at who begins.

    What else the machine does then hits all alike. The first round warms up and does not count.

    Args:
        contestants: Who takes part.
        rounds: Topics of each round, the warm-up first.
        clock: Seconds.
        progress: Called after each turn.
        pause: Seconds before each turn.
    """
    races = {contestant.name: Race([], []) for contestant in contestants}
    for number, topics in enumerate(rounds):
        first = number % len(contestants)
        for contestant in [*contestants[first:], *contestants[:first]]:
            time.sleep(pause)
            latencies = []
            for query, documents in topics:
                started = clock()
                contestant.score(query, documents)
                latencies.append(clock() - started)
            if number:
                documents_scored = sum(len(documents) for _, documents in topics)
                races[contestant.name].rates.append(documents_scored / sum(latencies))
                races[contestant.name].latencies.extend(latencies)
            progress()
    return races


@dataclass(frozen=True)
class Agreement:
    """How far scores are from a reference.

    Attributes:
        largest: Largest absolute difference of logits.
        tau: Kendall's tau, mean over queries of two distinct scores or more; None without any.
    """

    largest: float
    tau: float | None


def agreement(score: Score, reference: Score, topics: Sequence[Topic]) -> Agreement:
    """Compare the logits of two contestants."""
    from scipy.stats import kendalltau

    found = [(score(query, documents), reference(query, documents)) for query, documents in topics]
    taus = [float(kendalltau(ours, theirs).statistic) for ours, theirs in found if len(ours) > 1]
    taus = [tau for tau in taus if not math.isnan(tau)]  # where all scores are equal there is no order
    largest = max((float(np.abs(ours - theirs).max()) for ours, theirs in found if len(ours)), default=0.0)
    return Agreement(largest, statistics.mean(taus) if taus else None)


@dataclass(frozen=True)
class Load:
    """What callers at once got.

    Attributes:
        callers: How many asked at once.
        documents: Documents a request.
        rate: Documents per second of all callers together.
        p50: Median seconds a request.
        p99: The 99th percentile of seconds a request; of fewer than 100 requests the slowest.
        latencies: Requests that these two are of.
        background: Documents of the long request beside them; 0: none.
        name: Who answered, if that is told.
    """

    callers: int
    documents: int
    rate: float
    p50: float
    p99: float
    latencies: int
    background: int = 0
    name: str = ""


def measure_callers(
    score: Score, topics: Sequence[Topic], callers: int, background: Topic | None = None
) -> Load:
    """Let threads ask for topics, one after the other each, until all topics are answered.

    Args:
        score: Thread-safe.
        topics: One request each.
        callers: Threads.
        background: A long request that runs beside them, again and again until they are done.

    Raises:
        RerankError: If a request fails, the long one included.
    """
    waiting = iter(topics)

    def ask() -> list[float]:
        spent = []
        for topic in waiting:  # of all callers: taking the next one is a single step of the interpreter
            started = time.perf_counter()
            score(*topic)
            spent.append(time.perf_counter() - started)
        return spent

    with _beside(score, background):
        started = time.perf_counter()
        with ThreadPoolExecutor(callers) as pool:
            asked = [pool.submit(ask) for _ in range(callers)]
            latencies = np.concatenate([caller.result() for caller in asked])
        spent = time.perf_counter() - started
    return _load(topics, callers, latencies, spent, len(background[1]) if background else 0)


async def measure_tasks(
    ascore: Callable[[str, list[str]], Awaitable[object]], topics: Sequence[Topic], callers: int
) -> Load:
    """Let tasks of the event loop ask for topics as threads do in `measure_callers`."""
    waiting = iter(topics)
    latencies = []

    async def ask() -> None:
        for topic in waiting:
            started = time.perf_counter()
            await ascore(*topic)
            latencies.append(time.perf_counter() - started)

    started = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(callers)))
    return _load(topics, callers, latencies, time.perf_counter() - started)


def _load(
    topics: Sequence[Topic],
    callers: int,
    latencies: Sequence[float] | NDArray[np.float64],
    spent: float,
    background: int = 0,
) -> Load:
    documents = sum(len(texts) for _, texts in topics)
    return Load(
        callers=callers,
        documents=documents // len(topics),
        rate=documents / spent,
        p50=float(np.percentile(latencies, 50)),
        p99=_p99(latencies),
        latencies=len(latencies),
        background=background,
    )


@contextmanager
def _beside(score: Score, topic: Topic | None) -> Iterator[None]:
    """Keep a long topic under way meanwhile; at the end, wait until nothing of it is left in the queue.

    What it left there would take its share of whatever is measured next.
    """
    if topic is None:
        yield
        return
    done = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(_repeat, score, topic, done)
        time.sleep(0.2)  # the long request is under way before anybody asks
        try:
            yield
        finally:
            done.set()
        long.result()


def _repeat(score: Score, topic: Topic, done: threading.Event) -> None:
    """Score a long topic again and again; its documents end when `done` is set."""
    query, documents = topic

    def until_done() -> Iterator[str]:
        for document in documents:
            if done.is_set():
                return
            yield document

    while not done.is_set():
        score(query, until_done())
