"""`Worker`: a thread for each engine, and what callers queue joined into full batches.

Whenever an engine is free its thread takes a round of what waits, packs it into token-budget batches across
requests, and answers each request when its last pair is scored. When nothing waits, a request starts at once.

A round is a few batches, and more when more waits than fit: sorted by length together pairs pad less, and
who comes next waits for all of them in any case. Requests are served first come, first served, but for
long ones, which share a quarter of each round. So a request waits for
what came before it, at three quarters of full speed in the worst case, and for the end of its round, whatever
long requests are there; and the long always move.

Where an engine computes on the CPU, callers tokenise in their own threads meanwhile. An engine on a device of
its own works on one batch while its thread tokenises the next, of all requests in it at once, and answers the
last: under load a caller then sleeps through all but its own beginning and end, and changes of thread, which
cost as much as small requests, are few. When such an engine is idle, a caller may launch a small batch by
itself: see `Worker.start`.
"""

import math
import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.errors import QueueFullError, ScorerClosedError, ScoringError
from rerank_plugins.scoring.direct import Direct
from rerank_plugins.scoring.engines.base import Engine
from rerank_plugins.scoring.engines.batches import Shape
from rerank_plugins.scoring.jobs import Job, Round, Scored, Slice, Work
from rerank_plugins.scoring.line import Line
from rerank_plugins.scoring.packing import plan_batches
from rerank_plugins.scoring.pairs import EncodedPairs, PairEncoder, Texts
from rerank_plugins.scoring.tally import WorkerStats
from rerank_plugins.scoring.turnstile import Queued, Turnstile

__all__ = ["Worker"]

# How many full batches a round holds, of which the long have one; alone they have no more than that, too:
# each is sorted by length as a whole, so short rounds cost it nothing, and who comes next waits less.
_BATCHES_PER_ROUND = 4
_LONG_SHARE = 4
# How many a round may hold when as much waits. Beyond, sorting gains little: in batches of 1,024 tokens, MS
# MARCO's lengths cost 8 per cent more by 4 batches than sorted as a whole, and 2 by 16; and the first of a
# round wait for its last.
_MOST_BATCHES_PER_ROUND = 16
# A request of more batches is long: some 400 passages on CPU, or 100 chunks of 250 tokens.
_LONG_BATCHES = 32
# How far to fill what an engine takes at once: how many tokens texts have is an estimate.
_FILL = 0.93


class Worker:
    """Runs engines, one thread each, on what is queued.

    Args:
        engines: Replicas of one model; from now on only their threads touch them.
        max_batch_tokens: Tokens of a batch, padding included where the engine pads.
        encoder: Tokenises; None: all comes tokenised.
        batch_cost: What a batch costs besides its tokens, in tokens; see `plan_batches`.
        max_queue_tokens: Tokens that may wait; a request that comes when nothing waits is always taken.

    Attributes:
        tokenizes: Whether the engines' threads tokenise. Otherwise callers do, with `encode`.
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        max_batch_tokens: int,
        encoder: PairEncoder | None = None,
        *,
        batch_cost: int = 0,
        max_queue_tokens: int = 2**24,
    ) -> None:
        self._encoder = encoder
        self._batch_cost = batch_cost
        self._max_batch_tokens = max_batch_tokens
        self._max_queue_tokens = max_queue_tokens
        self._short: deque[Job] = deque()
        self._long: deque[Job] = deque()
        self._queued_tokens = 0
        self._wake = threading.Condition()
        self._turnstile = Turnstile()
        # Why nothing is taken any more; None: it is.
        self._ended: ScoringError | None = None
        self._done = WorkerStats()
        self._at_once = engines[0].at_once
        self.tokenizes = encoder is not None and engines[0].ahead > 0
        # Threads do not survive a fork: waiting for these in a child would take forever.
        self._process = os.getpid()
        self._lines = [Line(self, engine, encoder) for engine in engines]
        self._threads = [
            threading.Thread(target=line.run, name=f"rerank-worker-{i}", daemon=True)
            for i, line in enumerate(self._lines)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def closed(self) -> bool:
        """Whether nothing is taken any more."""
        return self._ended is not None

    @property
    def waiting_tokens(self) -> int:
        """Tokens that wait for an engine now, of requests that still want an answer."""
        with self._wake:
            return self._count_waiting()

    @property
    def stats(self) -> WorkerStats:
        """What was scored so far, how full the batches were, and what waits."""
        with self._wake:
            return replace(self._done, waiting_tokens=self._count_waiting())

    @property
    def max_batch_tokens(self) -> int:
        """Tokens of a batch at most; less than at the start after a device ran out of memory."""
        return self._max_batch_tokens

    @property
    def at_once(self) -> Shape | None:
        """Tokens and pairs that a request best has for `start` to launch it; None if it launches none."""
        if self._at_once is None:
            return None
        return Shape(int(self._most_at_once * _FILL), self._at_once.segments)

    @property
    def _most_at_once(self) -> int:
        """Tokens of a batch of the kind that an engine is best given."""
        return min(self._at_once.tokens, self._max_batch_tokens) if self._at_once else self._max_batch_tokens

    @property
    def lines(self) -> int:
        """How many engines take from the queue."""
        return len(self._lines)

    def refuse_if_forked(self) -> None:
        """Raise `ScoringError` in a forked child, where the engines' threads are not."""
        if os.getpid() != self._process:
            raise ScoringError(
                "a scorer must be used in the process that made it, but this one was forked; make "
                "a new one here (pickling a scorer does that)"
            )

    def encode(self, texts: Texts) -> EncodedPairs:
        """Tokenise in the caller's thread."""
        assert self._encoder  # noqa: S101 - whoever has texts has given it
        return self._encoder.encode_texts(texts)

    def submit(self, work: Work) -> "Future[Scored]":
        """Queue pairs, one or more; cancelling the future drops what of them no round has taken yet.

        Raises:
            QueueFullError: If more tokens would wait than may.
            ScorerClosedError: If the worker is closed.
            ScoringError: If an engine's thread has ended, or this process was forked from the worker's.
        """
        self.refuse_if_forked()
        tokens = self._tokens(work)
        job = Job(work, tokens)
        with self._wake:
            if isinstance(self._ended, ScorerClosedError):
                raise ScorerClosedError("the scorer must be open, but it was closed; make a new one")
            if self._ended is not None:
                # Not by what: its text may hold some of another caller's.
                raise ScoringError("an engine's thread has ended, as the log says; make a new scorer")
            if self._queued_tokens and self._queued_tokens + tokens > self._max_queue_tokens:
                waiting = self._count_waiting()  # without those who no longer want an answer
                if waiting and waiting + tokens > self._max_queue_tokens:
                    msg = (
                        f"at most {self._max_queue_tokens} tokens may wait for the engine, but {waiting} do "
                        f"and {tokens} came; try again later, or raise max_queue_tokens"
                    )
                    raise QueueFullError(msg)
            long = tokens > self._max_batch_tokens * _LONG_BATCHES
            (self._long if long else self._short).append(job)
            self._queued_tokens += tokens
            self._wake.notify()
        return job.future

    def start(self, work: Work) -> Direct | Queued:
        """Take pairs from a caller who will wait for them in this thread.

        Where an engine is idle that takes them at once, they are tokenised and launched here; else queued.

        Raises:
            QueueFullError, ScorerClosedError, ScoringError: As `submit`, which also deals with whatever goes
                wrong.
        """
        if isinstance(work, Texts) and not self.tokenizes:
            work = self.encode(work)
        for line in self._lines if self._idle else ():
            started = line.start(work)
            if isinstance(started, Direct):
                return started
            if started is not None:  # tokenised, but not launched
                work = started
                break
        return Queued(self.submit(work), self._turnstile)

    @property
    def _idle(self) -> bool:
        """Whether callers may launch: nobody waits who came before."""
        return self._at_once is not None and not (self.closed or self._short or self._long)

    def _tokens(self, work: Work) -> int:
        """Return how many tokens there are, or may be."""
        if isinstance(work, EncodedPairs):
            return len(work.ids)
        assert self._encoder  # noqa: S101 - whoever has texts has given it
        return self._encoder.expected_tokens(work)

    def close(self) -> None:
        """Finish the rounds that run, fail what still waits, and free the engines."""
        if threading.current_thread() in self._threads:
            # Garbage collection closes in any thread: an engine's own may hold what others need to end.
            threading.Thread(target=self.close, name="rerank-closer", daemon=True).start()
            return
        self.give_up(ScorerClosedError("the scorer was closed while this waited"))
        for thread in self._threads:
            thread.join()

    def give_up(self, error: ScoringError) -> None:
        """Take nothing from now on, and fail what waits."""
        with self._wake:
            self._ended = self._ended or error
            waiting = [*self._short, *self._long]
            self._short.clear()
            self._long.clear()
            self._queued_tokens = 0
            self._wake.notify_all()
        for job in waiting:
            job.fail(error)

    def give_way(self) -> None:
        """Let callers go on who have been answered, where their threads and the engine's share Python."""
        if self.tokenizes:
            self._turnstile.give_way()

    def next_round(self, *, wait: bool) -> list[Slice]:
        """Return what an engine scores next; [] if nothing waits and it shall not, or when closed."""
        with self._wake:
            slices: list[Slice] = []
            while not slices:
                if wait:
                    self._wake.wait_for(lambda: self._short or self._long or self.closed)
                if self.closed or not (self._short or self._long):
                    return []
                slices = list(self._take_round())
            if self._short or self._long:  # for another engine
                self._wake.notify()
            return slices

    def plan(self, round_: Round, *, pads: bool) -> list[NDArray[np.int64]]:
        """Split a round into batches of an engine that pads, or does not."""
        lengths = round_.pairs.lengths
        if self._at_once and round_.tokenized:
            return plan_batches(lengths, self._most_at_once, pads=pads, in_order=True)
        return plan_batches(lengths, self._max_batch_tokens, self._batch_cost, pads=pads)

    def count(self, lengths: NDArray[np.int64], *, pads: bool) -> None:
        """Note a batch of pairs of these lengths that an engine has scored."""
        with self._wake:
            self._done = self._done.plus(lengths, self._max_batch_tokens, pads=pads)

    def shrink(self, tokens: int) -> None:
        """Let no batch have more tokens from now on."""
        with self._wake:
            self._max_batch_tokens = min(self._max_batch_tokens, tokens)

    def _count_waiting(self) -> int:
        jobs = (job for queue in (self._short, self._long) for job in queue)
        return sum(job.waiting_tokens for job in jobs if not job.future.cancelled())

    def _take_round(self) -> Iterator[Slice]:
        """Take the slices of one round: of the short in order, and of the long their share, by turns."""
        whole, seats = self._round()
        share = whole // _LONG_SHARE
        # Counted now: what is put back below waits for the next round.
        turns = (
            (self._short, len(self._short), whole - share if self._long else whole),
            (self._long, len(self._long), share),
        )
        for queue, count, room in turns:
            left = room
            for _ in range(count):
                job = queue[0]
                # Texts are taken as a whole, the first in any case.
                fits = job.waiting_tokens <= left and len(job) <= seats
                if left <= 0 or not (fits or left == room or isinstance(job.work, EncodedPairs)):
                    break
                queue.popleft()
                before = job.waiting_tokens
                self._queued_tokens -= before
                if job.future.done():  # cancelled, or failed in an earlier round
                    continue
                try:
                    indices = job.take(left)
                except MemoryError as error:
                    job.fail(ScoringError(f"there is no memory to sort {len(job)} pairs: {error}"))
                    continue
                left -= before - job.waiting_tokens
                seats -= len(indices)
                yield job, indices
                if job.waiting_tokens:  # the first of the short stays first, the long take turns
                    self._queued_tokens += job.waiting_tokens
                    (queue.append if queue is self._long else queue.appendleft)(job)
                    break

    def _round(self) -> tuple[int, float]:
        """Return how many tokens and pairs a round has."""
        first = (self._short or self._long)[0]
        if self._at_once and isinstance(first.work, Texts):
            # Where texts come Python is the limit, and batches that an engine takes at once ask least of it.
            return self._most_at_once * _BATCHES_PER_ROUND, self._at_once.segments * _BATCHES_PER_ROUND
        waiting = sum(job.waiting_tokens for job in self._short) // self.lines
        least, most = (self._max_batch_tokens * n for n in (_BATCHES_PER_ROUND, _MOST_BATCHES_PER_ROUND))
        return min(max(least, waiting), most), math.inf
