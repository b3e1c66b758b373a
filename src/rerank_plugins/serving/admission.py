"""Who may come in: requests and tokens are bounded before a text is tokenised."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rerank_plugins.serving.errors import RequestError

__all__ = ["Door", "Queue"]

# Busy seconds after which a measurement counts half.
_HALF_LIFE = 10.0
# The pace of a few batches says little about the pace when many wait.
_BATCHES_BEFORE_PACE = 8
_LONGEST_RETRY = 60


class Door:
    """Counts the requests that are inside, and lets no more in than may be, none when it is closed.

    Args:
        most: Requests that may be inside.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.inside = 0
        self.closed = False

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Be inside.

        Raises:
            RequestError: 503 when closed, 429 when full.
        """
        if self.closed:
            raise RequestError(503, "draining", "the server stops; ask another one", retry_after=1)
        if self.inside >= self._most:
            msg = f"{self.inside} requests are inside already, and no more may be; try again later"
            raise RequestError(429, "overloaded", msg, retry_after=1)
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1


class Queue:
    """Tokens of one model's requests, from admission to the answer, and the pace at which they go.

    Args:
        most: Tokens that may be inside; a request that comes when nothing is inside is always taken.
        max_wait: Seconds that what is before a request may take.
        batch_tokens: Tokens of a full batch.
    """

    def __init__(self, most: int, max_wait: float, batch_tokens: int) -> None:
        self._most = most
        self._max_wait = max_wait
        self._least = batch_tokens * _BATCHES_BEFORE_PACE
        self.tokens = 0
        self._done = 0.0
        self._seconds = 0.0
        self._seen = 0.0

    @property
    def pace(self) -> float | None:
        """Tokens a second while there is work, lately; None before anything was done."""
        return self._done / self._seconds if self._done and self._seconds else None

    @contextmanager
    def admit(self, tokens: int, patience: float) -> Iterator[None]:
        """Be inside with `tokens`.

        Args:
            tokens: What the request will cost, about.
            patience: Seconds that the client waits.

        Raises:
            RequestError: 429, with the seconds until there may be room.
        """
        self._check(tokens, patience)
        self._tick()
        self.tokens += tokens
        done = 0
        try:
            yield
            done = tokens
        finally:
            self._tick()  # before they count, or they would fade with the time they took, and it would not
            self.tokens -= tokens
            self._done += done

    def _check(self, tokens: int, patience: float) -> None:
        room = min(self._most, self._reach(min(patience, self._max_wait))) - self.tokens
        if self.tokens and tokens > room:
            msg = f"about {self.tokens} tokens wait and {tokens} came, which is too much; try again later"
            raise RequestError(429, "overloaded", msg, retry_after=self._retry_after(tokens - room))

    def _reach(self, seconds: float) -> float:
        """Return the tokens that can be done in a time."""
        return math.inf if self.pace is None else max(self.pace * seconds, self._least)

    def _retry_after(self, tokens: float) -> int:
        """Return the seconds until so many tokens are done."""
        seconds = 1 if self.pace is None else math.ceil(tokens / self.pace)
        return min(max(seconds, 1), _LONGEST_RETRY)

    def _tick(self) -> None:
        """Count the time since the last look, if there was work."""
        now = time.monotonic()
        if self.tokens:
            elapsed = now - self._seen
            fade = 0.5 ** (elapsed / _HALF_LIFE)
            self._done, self._seconds = self._done * fade, self._seconds * fade + elapsed
        self._seen = now
