"""`Direct`: what a caller launched on an idle device by itself, and fetches by itself.

The worker's thread would cost two changes of thread, and Python's lock at each: as much as the device takes
for some tens of passages.
"""

import threading
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.scoring.jobs import Scored, rows_of
from rerank_plugins.scoring.pairs import EncodedPairs

__all__ = ["Direct"]


class Direct:
    """Scores on their way from the device.

    Args:
        pairs: What was launched.
        collect: Waits for float32 logits [n]; called once, by the thread that asks.
        slot: Released when they have come, or nobody wants them any more.
    """

    def __init__(
        self, pairs: EncodedPairs, collect: Callable[[], NDArray[np.float32]], slot: threading.Semaphore
    ) -> None:
        self._pairs = pairs
        self._collect = collect
        self._slot: threading.Semaphore | None = slot
        self._began = time.perf_counter()

    def result(self) -> Scored:
        """Wait for the scores; once.

        Raises:
            ScoringError: If the engine fails.
        """
        try:
            logits = self._collect()
        finally:
            self.cancel()
        spent = (time.perf_counter() - self._began) * 1000
        rows = rows_of(self._pairs)
        rows["logits"] = logits
        return Scored(rows, self._pairs.known_cost, queue_ms=0.0, compute_ms=spent)

    def cancel(self) -> None:
        """Let them go. The device finishes what it was given."""
        if self._slot:
            self._slot.release()
            self._slot = None
