"""Requests on their way through a worker: `Job`, and the `Round` that several of them share."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.scoring.pairs import Cost, EncodedPairs, PairEncoder, Texts

__all__ = ["ROW", "Job", "Round", "Scored", "Slice", "Work", "join", "rows_of"]

# Texts are tokenised when their turn comes, together with what else is then.
Work = EncodedPairs | Texts


# What is known of a scored pair.
ROW = np.dtype([("logits", "f4"), ("document_tokens", "i4"), ("truncated", "?"), ("query_truncated", "?")])


def rows_of(pairs: EncodedPairs) -> NDArray[np.void]:
    """Return `ROW`s [n] of pairs, to which logits are still to come."""
    rows = np.empty(len(pairs), dtype=ROW)
    rows["document_tokens"] = pairs.document_tokens
    rows["truncated"] = pairs.truncated
    rows["query_truncated"] = pairs.query_truncated
    return rows


@dataclass(frozen=True)
class Scored:
    """The answer to one queued request.

    Attributes:
        rows: `ROW`s [n], in the request's order.
        cost: What encoding took.
        queue_ms: Milliseconds from queueing to the start of its first round.
        compute_ms: Milliseconds the engine spent on batches with a pair of this request.
        out_of_memory: How many of these batches the device had no memory for, so that they were halved.
    """

    rows: NDArray[np.void]
    cost: Cost
    queue_ms: float
    compute_ms: float
    out_of_memory: int = 0

    @property
    def logits(self) -> NDArray[np.float32]:
        """float32 [n], in the request's order."""
        return np.ascontiguousarray(self.rows["logits"])


class Job:
    """One request: its pairs, how far it is, and the future that answers it.

    `take` is called under the worker's lock, `place` by whichever thread has scored a part.

    Args:
        work: What to score, one pair or more.
        tokens: How many tokens it has, or may have.

    Attributes:
        work: As given.
        cost: What encoding took.
        waiting_tokens: Tokens that no round has taken yet.
    """

    def __init__(self, work: Work, tokens: int) -> None:
        self.work = work
        self.future: Future[Scored] = Future()
        self.cost = work.known_cost if isinstance(work, EncodedPairs) else Cost(tokens)
        self._rows: NDArray[np.void] | None = None
        self.compute_ms = 0.0
        self.out_of_memory = 0
        self._lock = threading.Lock()
        self._unplaced = len(work)
        self._queued = time.perf_counter()
        self._started: float | None = None
        self._next = 0
        self.waiting_tokens = tokens

    def __len__(self) -> int:
        return len(self.work)

    @property
    def pairs(self) -> EncodedPairs:
        """The pairs of a request that came tokenised."""
        assert isinstance(self.work, EncodedPairs)  # noqa: S101 - texts are taken as a whole
        return self.work

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        """Longest first, so that what one round takes of it has similar lengths."""
        return np.argsort(-self.pairs.lengths, kind="stable")

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.cumsum(self.pairs.lengths[self._order])

    def take(self, tokens: int) -> NDArray[np.int64]:
        """Return int64 indices of the next pairs, as many as `tokens` allow and one at least; all texts."""
        if self._started is None:
            self._started = time.perf_counter()
        if isinstance(self.work, Texts) or (self.waiting_tokens <= tokens and not self._next):
            self.waiting_tokens = 0  # nearly all are taken as a whole
            return np.arange(len(self.work))
        limit = len(self.pairs.ids) - self.waiting_tokens + tokens
        stop = max(int(np.searchsorted(self._ends, limit, side="right")), self._next + 1)
        taken = self._order[self._next : stop]
        self._next += len(taken)
        self.waiting_tokens -= int(self.pairs.lengths[taken].sum())
        return taken

    def part(self, taken: NDArray[np.int64]) -> EncodedPairs:
        """Return the pairs at `taken`."""
        return self.pairs.take(taken) if len(taken) < len(self.pairs) else self.pairs

    def spent(self, milliseconds: float, *, out_of_memory: int = 0) -> None:
        """Note what a batch with a pair of this request cost."""
        with self._lock:
            self.compute_ms += milliseconds
            self.out_of_memory += out_of_memory

    def place(self, taken: NDArray[np.int64], rows: NDArray[np.void]) -> None:
        """Note what was found for the pairs at `taken`, and answer if they were the last."""
        if len(taken) == len(self.work):
            self._rows = rows
        else:
            with self._lock:  # replicas may each have a part
                if self._rows is None:
                    self._rows = np.empty(len(self.work), dtype=ROW)
            self._rows[taken] = rows
        with self._lock:
            self._unplaced -= len(taken)
            last = not self._unplaced
        if last:
            queue_ms = ((self._started or self._queued) - self._queued) * 1000
            scored = Scored(self._rows, self.cost, queue_ms, self.compute_ms, self.out_of_memory)
            self._settle(lambda: self.future.set_result(scored))

    def fail(self, error: Exception) -> None:
        """Hand an error over, unless it has an answer or nobody wants one."""
        self._settle(lambda: self.future.set_exception(error))

    def _settle(self, settle: Callable[[], None]) -> None:
        # Several threads may want to, and whoever closes the worker; a future takes one answer.
        with self._lock:
            if not self.future.done() and self.future.set_running_or_notify_cancel():
                settle()


Slice = tuple[Job, NDArray[np.int64]]


class Round:
    """What one round scores: slices of requests, joined.

    Args:
        slices: Of whom, and which of their pairs.
        encoder: Tokenises what is still text.

    Attributes:
        pairs: The pairs of all slices.
        tokenized: Whether there were texts to tokenise.
        batches: How many batches are still to be scored; the last one's arrival answers.
    """

    def __init__(self, slices: list[Slice], encoder: PairEncoder | None = None) -> None:
        texts = [(job, taken, job.work) for job, taken in slices if isinstance(job.work, Texts)]
        ready = [(job, taken) for job, taken in slices if not isinstance(job.work, Texts)]
        parts = [job.part(taken) for job, taken in ready]
        if texts and encoder:
            together, costs = encoder.encode_together([work for _, _, work in texts])
            for (job, _, _), cost in zip(texts, costs, strict=True):
                job.cost = cost
            parts.insert(0, together)
        self._slices = [*((job, taken) for job, taken, _ in texts), *ready]
        self.pairs = join(parts)
        self.tokenized = bool(texts)
        self.batches = 0
        self._ends = list(accumulate(len(taken) for _, taken in self._slices))
        self._rows = rows_of(self.pairs)

    @property
    def jobs(self) -> list[Job]:
        """The requests."""
        return [job for job, _ in self._slices]

    def members(self, batch: NDArray[np.int64]) -> list[Job]:
        """Return the requests that have a pair in `batch`."""
        if len(self._slices) == 1:
            return [self._slices[0][0]]
        owners = np.unique(np.searchsorted(self._ends, batch, side="right"))
        return [self._slices[i][0] for i in owners]

    def place(self, batch: NDArray[np.int64], logits: NDArray[np.float32]) -> None:
        """Note the logits of `batch`."""
        self._rows["logits"][batch] = logits

    def finish(self) -> None:
        """Hand every request its part; one that failed has its answer already."""
        for (job, taken), (begin, end) in zip(self._slices, pairwise([0, *self._ends]), strict=True):
            job.place(taken, self._rows[begin:end])


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
