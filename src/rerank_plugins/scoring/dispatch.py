"""`Worker`: one thread that owns an engine and joins what callers queue into full batches.

Callers tokenise in their own threads and queue token arrays. Whenever the worker is free it takes a round
of what waits, packs it into token-budget batches across requests, and answers each request when its last
pair is scored. When nothing waits, a request starts at once.

A round is a few batches. New requests are served first come, first served; one that is larger than a
round becomes long after its first, and from then on the long have a quarter of a round each time. So a
request of less than a round waits for the round that runs and for what came before it, at three quarters of
full speed in the worst case, whatever long requests are there; and the long always move.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.errors import QueueFullError, ScorerClosedError, ScoringError
from rerank_plugins.scoring.engines.base import Engine
from rerank_plugins.scoring.packing import plan_batches
from rerank_plugins.scoring.pairs import EncodedPairs

__all__ = ["Scored", "Worker", "join"]

# How many full batches a round holds: enough to sort by length well, few enough that a request which
# comes now does not wait long.
_BATCHES_PER_ROUND = 4
# Long requests have one of this many parts of a round. Also when nothing else waits: they are sorted by
# length as a whole, so short rounds cost them nothing, and who comes next waits less.
_LONG_SHARE = 4


@dataclass(frozen=True)
class Scored:
    """The answer to one queued request.

    Attributes:
        logits: float32 [n], in the request's order.
        queue_ms: Milliseconds from queueing to the start of its first round.
        compute_ms: Milliseconds the engine spent on batches with a pair of this request.
    """

    logits: NDArray[np.float32]
    queue_ms: float
    compute_ms: float


class _Job:
    """One request: its pairs, how far it is, and the future that answers it."""

    def __init__(self, pairs: EncodedPairs) -> None:
        self.pairs = pairs
        self.future: Future[Scored] = Future()
        self.logits = np.empty(len(pairs), dtype=np.float32)
        self.compute_ms = 0.0
        self._settling = threading.Lock()
        self._queued = time.perf_counter()
        self._started: float | None = None
        # Longest first, so that what one round takes of it has similar lengths.
        self._order = np.argsort(-pairs.lengths, kind="stable")
        self._ends = np.cumsum(pairs.lengths[self._order])
        self._next = 0

    @property
    def waiting_tokens(self) -> int:
        """Tokens that no round has taken yet."""
        done = int(self._ends[self._next - 1]) if self._next else 0
        return len(self.pairs.ids) - done

    def part(self, taken: NDArray[np.int64]) -> EncodedPairs:
        """Return the pairs at `taken`."""
        return self.pairs.take(taken) if len(taken) < len(self.pairs) else self.pairs

    def place(self, taken: NDArray[np.int64], logits: NDArray[np.float32]) -> None:
        """Note the logits of `part(taken)`, and answer if they were the last."""
        self.logits[taken if len(taken) < len(self.pairs) else slice(None)] = logits
        if not self.waiting_tokens:
            self._answer()

    def take(self, tokens: int) -> NDArray[np.int64]:
        """Return int64 indices of the next pairs, as many as `tokens` allow and one at least."""
        if self._started is None:
            self._started = time.perf_counter()
        limit = len(self.pairs.ids) - self.waiting_tokens + tokens
        stop = max(int(np.searchsorted(self._ends, limit, side="right")), self._next + 1)
        taken = self._order[self._next : stop]
        self._next = stop
        return taken

    def _answer(self) -> None:
        """Hand the logits over, unless it failed or nobody wants them any more."""
        queue_ms = ((self._started or self._queued) - self._queued) * 1000
        scored = Scored(self.logits, queue_ms, self.compute_ms)
        self._settle(lambda: self.future.set_result(scored))

    def fail(self, error: Exception) -> None:
        """Hand an error over, unless it has an answer or nobody wants one."""
        self._settle(lambda: self.future.set_exception(error))

    def _settle(self, settle: Callable[[], None]) -> None:
        # The worker and whoever closes it may both want to; a future takes one answer.
        with self._settling:
            if not self.future.done() and self.future.set_running_or_notify_cancel():
                settle()


_Slice = tuple[_Job, NDArray[np.int64]]


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
        batch_cost: What a batch costs besides its tokens, in tokens; see `plan_batches`.
        max_queue_tokens: Tokens that may wait; a request that comes when nothing waits is always taken.
    """

    def __init__(
        self, engine: Engine, max_batch_tokens: int, *, batch_cost: int = 0, max_queue_tokens: int = 2**24
    ) -> None:
        self._engine = engine
        self._batch_cost = batch_cost
        self._max_batch_tokens = max_batch_tokens
        self._max_queue_tokens = max_queue_tokens
        self._new: deque[_Job] = deque()
        self._long: deque[_Job] = deque()
        self._wake = threading.Condition()
        self._closed = False
        # Threads do not survive a fork: waiting for this one in a child would take forever.
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._run, name="rerank-worker", daemon=True)
        self._thread.start()

    @property
    def waiting_tokens(self) -> int:
        """Tokens that wait for the engine now, of requests that still want an answer."""
        with self._wake:
            return self._count_waiting()

    def submit(self, pairs: EncodedPairs) -> "Future[Scored]":
        """Queue pairs; cancelling the future drops what of them no round has taken yet.

        Raises:
            QueueFullError: If more tokens would wait than may.
            ScorerClosedError: If the worker is closed.
            ScoringError: If this process was forked from the worker's.
        """
        if os.getpid() != self._process:
            raise ScoringError(
                "a scorer must be used in the process that made it, but this one was forked; make "
                "a new one here (pickling a scorer does that)"
            )
        job = _Job(pairs)
        with self._wake:
            if self._closed:
                raise ScorerClosedError("the scorer must be open, but it was closed; make a new one")
            waiting = self._count_waiting()
            if waiting and waiting + len(pairs.ids) > self._max_queue_tokens:
                msg = (
                    f"at most {self._max_queue_tokens} tokens may wait for the engine, but {waiting} do and "
                    f"{len(pairs.ids)} came; try again later, or raise max_queue_tokens"
                )
                raise QueueFullError(msg)
            self._new.append(job)
            self._wake.notify()
        return job.future

    def close(self) -> None:
        """Finish the round that runs, fail what still waits, and free the engine."""
        with self._wake:
            self._closed = True
            waiting = [*self._new, *self._long]
            self._new.clear()
            self._long.clear()
            self._wake.notify()
        for job in waiting:
            job.fail(ScorerClosedError("the scorer was closed while this waited"))
        # Garbage collection may close a scorer from any thread, from this one too.
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _count_waiting(self) -> int:
        jobs = (job for queue in (self._new, self._long) for job in queue)
        return sum(job.waiting_tokens for job in jobs if not job.future.cancelled())

    def _run(self) -> None:
        while slices := self._next_round():
            try:
                self._score(slices)
            except Exception as error:  # noqa: BLE001 - whatever happens, nobody waits forever
                for job, _ in slices:
                    job.fail(error)
        self._engine.close()

    def _next_round(self) -> list[_Slice]:
        """Wait for work; return what the next round scores, or [] when closed."""
        with self._wake:
            slices: list[_Slice] = []
            while not slices:
                self._wake.wait_for(lambda: self._new or self._long or self._closed)
                if self._closed:
                    return []
                slices = list(self._take_round())
            return slices

    def _take_round(self) -> Iterator[_Slice]:
        """Take the slices of one round: what is new, but for the share of what is long."""
        whole = self._max_batch_tokens * _BATCHES_PER_ROUND
        share = whole // _LONG_SHARE
        # Counted now: what is put back below waits for the next round.
        turns = (
            (self._new, len(self._new), whole - share if self._long else whole),
            (self._long, len(self._long), share),
        )
        for queue, count, room in turns:
            for _ in range(count):
                if room <= 0:
                    break
                job = queue.popleft()
                if job.future.done():  # cancelled, or failed in an earlier round
                    continue
                indices = job.take(room)
                room -= int(job.pairs.lengths[indices].sum())
                yield job, indices
                if job.waiting_tokens and len(job.pairs.ids) > whole:
                    self._long.append(job)
                elif job.waiting_tokens:
                    self._new.appendleft(job)
                    break

    def _score(self, slices: list[_Slice]) -> None:
        parts = [job.part(taken) for job, taken in slices]
        pairs = join(parts)
        owners = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        logits = np.empty(len(pairs), dtype=np.float32)
        for batch in plan_batches(pairs.lengths, self._max_batch_tokens, self._batch_cost):
            begin = time.perf_counter()
            members = [slices[i][0] for i in np.unique(owners[batch])]
            try:
                logits[batch] = self._forward(pairs, batch)
            except ScoringError as error:
                for job in members:
                    job.fail(error)
            spent = (time.perf_counter() - begin) * 1000
            for job in members:
                job.compute_ms += spent
        ends = np.cumsum([len(part) for part in parts])
        for (job, taken), part in zip(slices, np.split(logits, ends[:-1]), strict=True):
            job.place(taken, part)

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
