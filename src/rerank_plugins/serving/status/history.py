"""`History`: what a server did in the last minutes, second by second, in bounded memory."""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["History"]

_COUNTED = ("requests", "failed", "rejected", "documents", "tokens", "truncated")
# Latencies go into bins that are a tenth wide, from 0.1 ms to over two minutes.
_SHORTEST, _WIDTH, _BINS = 1e-4, 1.1, 150
_PERCENTILES = (50, 95, 99)


class History:
    """A ring of seconds.

    Args:
        seconds: How far back it goes.
        window: Seconds that rates and percentiles look back over, from each second.
        clock: Returns the time in seconds; monotonic.
    """

    def __init__(
        self, seconds: int = 300, *, window: int = 5, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._window = window
        self._clock = clock
        self._lock = threading.Lock()
        # Rows enough for the window of the oldest second, and for the second that is not over.
        rows = seconds + window + 1
        self._counts = np.zeros((rows, len(_COUNTED)), dtype=np.int64)
        self._latencies = np.zeros((rows, _BINS), dtype=np.int64)
        self._now = int(clock())
        self.totals = dict.fromkeys(_COUNTED, 0)

    def add(self, what: str, count: int) -> None:
        """Count something that happened now: `"documents"`, `"tokens"`, `"rejected"`, ..."""
        with self._lock:
            self._counts[self._row(), _COUNTED.index(what)] += count
            self.totals[what] += count

    def answered(self, seconds: float) -> None:
        """Count a request that was answered now, after so many seconds."""
        place = np.log(max(seconds, _SHORTEST) / _SHORTEST) / np.log(_WIDTH)
        with self._lock:
            self._latencies[self._row(), min(int(place), _BINS - 1)] += 1
        self.add("requests", 1)

    def series(self) -> dict[str, list[Any]]:
        """Return what was, for each second that is over, oldest first.

        Returns:
            By name, as many values as seconds: for what is counted (`"requests"`, `"failed"`, `"rejected"`,
            `"documents"`, `"tokens"`, `"truncated"`) how many a second, over the window up to there; for
            `"p50"`, `"p95"` and `"p99"` the latency in seconds that so many per cent stay below, within a
            tenth, or None without requests.
        """
        with self._lock:
            newest = self._row()
            order = np.arange(newest + 1, newest + len(self._counts)) % len(self._counts)
            counts, latencies = self._counts[order], self._latencies[order]
        rates = self._moving(counts) / self._window
        found: dict[str, list[Any]] = {
            name: np.round(rates[:, i], 2).tolist() for i, name in enumerate(_COUNTED)
        }
        bins = self._moving(latencies)
        return found | {f"p{percent}": _percentile(bins, percent) for percent in _PERCENTILES}

    def _moving(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return sums over the window that ends at each second, [seconds, ...]."""
        sums = np.cumsum(values, axis=0)
        return (sums[self._window :] - sums[: -self._window])[-self._seconds :]

    def _row(self) -> int:
        """Return the row of this second, having emptied those of the seconds since the last call."""
        now = int(self._clock())
        for second in range(max(self._now + 1, now - len(self._counts) + 1), now + 1):
            self._counts[second % len(self._counts)] = 0
            self._latencies[second % len(self._counts)] = 0
        self._now = max(now, self._now)
        return self._now % len(self._counts)


def _percentile(bins: NDArray[np.int64], percent: int) -> list[float | None]:
    """Return the middle of the bin where so many per cent are reached, of each row; None of an empty one."""
    reached = np.cumsum(bins, axis=1)
    total = reached[:, -1]
    place = (reached >= np.maximum(total * percent / 100, 1)[:, None]).argmax(axis=1)
    middles = _SHORTEST * _WIDTH ** (place + 0.5)
    return [float(np.round(middle, 5)) if n else None for middle, n in zip(middles, total, strict=True)]
