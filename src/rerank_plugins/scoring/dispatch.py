"""`Worker`: one thread that owns an engine and joins what callers queue into full batches.

Callers tokenise in their own threads and queue token arrays. Whenever the worker is free it takes what
waits, oldest first, packs it into token-budget batches across requests, and answers each request when
its last pair is scored. When nothing waits, a request starts at once.
"""

import os
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.errors import ScorerClosedError, ScoringError
from rerank_plugins.scoring.engines.base import Engine
from rerank_plugins.scoring.packing import plan_batches
from rerank_plugins.scoring.pairs import EncodedPairs

__all__ = ["Scored", "Worker", "join"]

# How many full batches one round may hold: enough to sort by length well, few enough that a request
# which comes now does not wait long.
_BATCHES_PER_ROUND = 8


@dataclass(frozen=True)
class Scored:
    """The answer to one queued request.

    Attributes:
        logits: float32 [n], in the request's order.
        queue_ms: Milliseconds from queueing to the start of its round.
        compute_ms: Milliseconds the engine spent on batches with a pair of this request.
    """

    logits: NDArray[np.float32]
    queue_ms: float
    compute_ms: float


@dataclass
class _Job:
    pairs: EncodedPairs
    future: "Future[Scored]"
    queued: float = field(default_factory=time.perf_counter)


def join(parts: list[EncodedPairs]) -> EncodedPairs:
    """Put the pairs of several requests into one ragged batch, in order."""
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *(len(part.ids) for part in parts)])
    offsets = [part.offsets[:-1] + start for part, start in zip(parts, starts, strict=False)]
    return EncodedPairs(
        ids=np.concatenate([part.ids for part in parts]),
        offsets=np.concatenate([*offsets, starts[-1:]]),
        boundaries=np.concatenate([part.boundaries for part in parts]),
        document_type=parts[0].document_type,
        document_tokens=np.concatenate([part.document_tokens for part in parts]),
        truncated=np.concatenate([part.truncated for part in parts]),
        query_truncated=np.concatenate([part.query_truncated for part in parts]),
    )


class Worker:
    """Runs one engine in one thread.

    Args:
        engine: The engine; from now on only the worker touches it.
        max_batch_tokens: Padded tokens of a batch.
    """

    def __init__(self, engine: Engine, max_batch_tokens: int) -> None:
        self._engine = engine
        self._max_batch_tokens = max_batch_tokens
        self._waiting: deque[_Job] = deque()
        self._wake = threading.Condition()
        self._closed = False
        # Threads do not survive a fork: waiting for this one in a child would take forever.
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._run, name="rerank-worker", daemon=True)
        self._thread.start()

    def submit(self, pairs: EncodedPairs) -> "Future[Scored]":
        """Queue pairs; a future that is cancelled before its round starts costs nothing.

        Raises:
            ScorerClosedError: If the worker is closed.
            ScoringError: If this process was forked from the worker's.
        """
        job = _Job(pairs, Future())
        if os.getpid() != self._process:
            raise ScoringError(
                "a scorer must be used in the process that made it, but this one was forked; make "
                "a new one here (pickling a scorer does that)"
            )
        with self._wake:
            if self._closed:
                raise ScorerClosedError("the scorer must be open, but it was closed; make a new one")
            self._waiting.append(job)
            self._wake.notify()
        return job.future

    def close(self) -> None:
        """Finish the round that runs, fail what still waits, and free the engine."""
        with self._wake:
            self._closed = True
            waiting = list(self._waiting)
            self._waiting.clear()
            self._wake.notify()
        for job in waiting:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(ScorerClosedError("the scorer was closed while this waited"))
        # Garbage collection may close a scorer from any thread, from this one too.
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while jobs := self._next_round():
            try:
                self._score(jobs)
            except Exception as error:  # noqa: BLE001 - whatever happens, nobody waits forever
                for job in jobs:
                    if not job.future.done():
                        job.future.set_exception(error)
        self._engine.close()

    def _next_round(self) -> list[_Job]:
        """Wait for work; return the oldest jobs that fit a round, or [] when closed."""
        jobs: list[_Job] = []
        with self._wake:
            while not jobs:
                self._wake.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return []
                room = self._max_batch_tokens * _BATCHES_PER_ROUND
                while self._waiting and (not jobs or len(self._waiting[0].pairs.ids) <= room):
                    job = self._waiting.popleft()
                    room -= len(job.pairs.ids)
                    if job.future.set_running_or_notify_cancel():
                        jobs.append(job)
        return jobs

    def _score(self, jobs: list[_Job]) -> None:
        started = time.perf_counter()
        pairs = join([job.pairs for job in jobs])
        owners = np.repeat(np.arange(len(jobs)), [len(job.pairs) for job in jobs])
        logits = np.empty(len(pairs), dtype=np.float32)
        compute = np.zeros(len(jobs))
        failures: dict[int, ScoringError] = {}
        for batch in plan_batches(pairs.lengths, self._max_batch_tokens):
            begin = time.perf_counter()
            members = np.unique(owners[batch])
            try:
                logits[batch] = self._forward(pairs, batch)
            except ScoringError as error:
                failures |= dict.fromkeys(members.tolist(), error)
            compute[members] += (time.perf_counter() - begin) * 1000
        parts = np.split(logits, np.cumsum([len(job.pairs) for job in jobs])[:-1])
        for i, (job, part) in enumerate(zip(jobs, parts, strict=True)):
            if i in failures:
                job.future.set_exception(failures[i])
            else:
                queue_ms = (started - job.queued) * 1000
                job.future.set_result(Scored(part.copy(), queue_ms, float(compute[i])))

    def _forward(self, pairs: EncodedPairs, batch: NDArray[np.int64]) -> NDArray[np.float32]:
        try:
            logits = self._engine.forward(pairs, batch)
        except (RuntimeError, ValueError, MemoryError) as error:
            msg = f"the {self._engine.name} engine failed on {len(batch)} pairs: {error}"
            raise ScoringError(msg) from error
        if not np.isfinite(logits).all():
            msg = (
                f"logits must be finite, but the {self._engine.name} engine returned "
                f"{int((~np.isfinite(logits)).sum())} that are not; weights may be damaged, or "
                "float16 overflows: try dtype='float32'"
            )
            raise ScoringError(msg)
        return logits
