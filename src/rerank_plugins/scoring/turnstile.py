"""`Turnstile`: threads whose answers have come go on one after the other.

Python runs one thread at a time. Of threads that are woken together all but one wake only to sleep again, for
the interpreter's lock; and the engine's thread, which has that lock when it answers them, would take its next
round before they could ask again: a small one, of the few who got through. So each wakes the next as it goes
on, and the engine's thread gives way until all have.
"""

import threading
from collections import deque
from concurrent.futures import Future

from rerank_plugins.scoring.jobs import Scored

__all__ = ["Queued", "Turnstile"]

# Seconds. An engine gives way about as long as Python lets a thread run that others wait for, and no longer.
_LONGEST_WAY = 0.005
# Whoever is answered goes on after this in any case: the thread before may be interrupted in the middle.
_LONGEST_TURN = 1.0


class Turn:
    """A thread's place among those that go on.

    Attributes:
        gate: Locked until it may.
        awaited: Whether the thread waits there.
    """

    __slots__ = ("awaited", "gate")

    def __init__(self) -> None:
        self.gate = threading.Lock()
        self.gate.acquire()
        self.awaited = False


class Turnstile:
    """Lets threads through, whose answer came first first."""

    def __init__(self) -> None:
        # Reentrant: garbage collection may close a scorer in the middle, which answers what waits for it.
        self._lock = threading.RLock()
        self._empty = threading.Condition(self._lock)
        self._due: deque[Turn] = deque()
        self._passing: Turn | None = None

    def give_way(self) -> None:
        """Wait until everybody is through whose answer has come, a few milliseconds at most."""
        with self._lock:
            if not self._empty.wait_for(lambda: self._passing is None, _LONGEST_WAY):
                self.skip()

    def enter(self, turn: Turn) -> None:
        """Let a thread through after those who came before."""
        with self._lock:
            self._due.append(turn)
            if self._passing is None:
                self._next()

    def leave(self, turn: Turn) -> None:
        """Let the next thread through if it was this one's turn."""
        with self._lock:
            turn.awaited = False
            if turn is self._passing:
                self._next()

    def skip(self) -> None:
        """Let the next thread through in any case: who is slow, or was interrupted, holds nobody up."""
        with self._lock:
            self._next()

    def _next(self) -> None:
        self._passing = None
        while self._due and self._passing is None:
            turn = self._due.popleft()
            turn.gate.release()
            if turn.awaited:  # otherwise there is no thread to let the next one through
                self._passing = turn
        if self._passing is None:
            self._empty.notify_all()


class Queued:
    """The answer to a queued request, for a thread that will wait for it.

    Args:
        answer: The answer.
        turnstile: What the thread goes through when it has come.
    """

    def __init__(self, answer: "Future[Scored]", turnstile: Turnstile) -> None:
        self._answer = answer
        self._turnstile = turnstile
        # Not this object, which would keep itself alive, and what was asked with it.
        turn = self._turn = Turn()
        answer.add_done_callback(lambda _: turnstile.enter(turn))

    def result(self) -> Scored:
        """Wait for the answer; once.

        Raises:
            ScoringError: If the engine fails.
        """
        turn = self._turn
        turn.awaited = True
        try:
            while not turn.gate.acquire(timeout=_LONGEST_TURN):
                if self._answer.done():
                    self._turnstile.skip()
        finally:
            self._turnstile.leave(turn)
        return self._answer.result()

    def cancel(self) -> None:
        """Drop what of it no round has taken yet."""
        self._answer.cancel()
