"""`WorkerStats`: what a worker has scored, and how full its batches were."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["WorkerStats"]


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """What a worker has scored since it was made, and what waits for it now.

    Attributes:
        batches: Batches scored.
        pairs: Pairs in them.
        tokens: Tokens of these pairs, without padding.
        padded_tokens: The same, each pair padded to its batch's longest if the engine pads.
        capacity_tokens: Tokens that the batches had room for.
        waiting_tokens: Tokens that wait for an engine now.
    """

    batches: int = 0
    pairs: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    capacity_tokens: int = 0
    waiting_tokens: int = 0

    def plus(self, lengths: NDArray[np.int64], room: int, *, pads: bool) -> "WorkerStats":
        """Return the figures with one more batch.

        Args:
            lengths: int64 [n], tokens of its pairs; n is at least 1.
            room: Tokens that it had room for; a single pair may be longer.
            pads: Whether the engine pads.
        """
        tokens = int(lengths.sum())
        padded = len(lengths) * int(lengths.max()) if pads else tokens
        return replace(
            self,
            batches=self.batches + 1,
            pairs=self.pairs + len(lengths),
            tokens=self.tokens + tokens,
            padded_tokens=self.padded_tokens + padded,
            capacity_tokens=self.capacity_tokens + max(room, padded),
        )
