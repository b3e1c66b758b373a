"""The one interface every engine has."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from rerank_plugins.scoring.engines.batches import Shape
from rerank_plugins.scoring.pairs import EncodedPairs

__all__ = ["Engine", "Launched", "PaddingEngine", "capturing", "free_cached_memory"]

# Held while a CUDA graph is captured: a process may capture one at a time, and torch frees nothing meanwhile.
capturing = threading.Lock()
_LONGEST_CAPTURE = 10.0  # seconds


@dataclass(frozen=True)
class Launched:
    """A batch that an engine works on.

    Attributes:
        collect: Waits for it, and returns its float32 logits [n].
        done: Whether there is nothing to wait for.
    """

    collect: Callable[[], NDArray[np.float32]]
    done: Callable[[], bool] = lambda: True


class Engine(Protocol):
    """Runs a model on one device. One thread at a time calls it; results may be collected meanwhile."""

    @property
    def name(self) -> str:
        """The name that `ScorerSettings.engine` takes."""
        ...

    @property
    def memory(self) -> int:
        """Bytes held by the weights, and by what was prepared of them so far."""
        ...

    @property
    def pads(self) -> bool:
        """Whether the pairs of a batch are padded to the longest, which then all cost alike."""
        ...

    @property
    def ahead(self) -> int:
        """How many full batches, or as much in smaller ones, may be in the air; 0 if launching waits."""
        ...

    @property
    def at_once(self) -> Shape | None:
        """The largest batch that any thread may launch in a moment; None if there is no such batch."""
        ...

    def takes_at_once(self, pairs: EncodedPairs) -> bool:
        """Whether these pairs, all together, are a batch of this kind now."""
        ...

    def launch(self, pairs: EncodedPairs, indices: NDArray[np.int64]) -> Launched:
        """Start on the pairs at `indices`, whose float32 logits [len(indices)] can be collected."""
        ...

    def close(self) -> None:
        """Free the weights."""
        ...


class PaddingEngine:
    """What engines share that pad a batch and are done with it when they return."""

    pads = True
    ahead = 0
    at_once: Shape | None = None

    def takes_at_once(self, pairs: EncodedPairs) -> bool:  # noqa: ARG002
        """Launching takes as long as scoring."""
        return False

    def forward(self, pairs: EncodedPairs, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return float32 logits [len(indices)] of the pairs at `indices`."""
        raise NotImplementedError

    def launch(self, pairs: EncodedPairs, indices: NDArray[np.int64]) -> Launched:
        """Score the pairs at `indices`."""
        logits = self.forward(pairs, indices)
        return Launched(lambda: logits)


def free_cached_memory() -> None:
    """Give the device memory that torch keeps for later back to the driver; nothing on CPU."""
    # Not for ever: garbage collection in the middle of a capture may close another scorer, and wait for it.
    if torch.cuda.is_available() and capturing.acquire(timeout=_LONGEST_CAPTURE):
        try:
            torch.cuda.empty_cache()
        finally:
            capturing.release()
