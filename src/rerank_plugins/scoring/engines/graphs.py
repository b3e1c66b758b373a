"""CUDA graphs for small batches, whose time is that of launching kernels.

A graph replays kernels on fixed addresses and shapes, so batches are filled up to one of a few shapes: at
most twice the tokens, which costs little where launching is the limit. Each shape is captured once; all
share one pool of memory, as one runs at a time.
"""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from rerank_plugins.scoring.engines.base import capturing
from rerank_plugins.scoring.engines.batches import Shape

__all__ = ["SHAPES", "Graphs"]

logger = logging.getLogger(__name__)

_TOKENS = (256, 512, 1024, 2048, 4096, 8192, 16384)
_SEGMENTS = (8, 32, 128, 512)
# From small to large; pairs of less than 16 tokens on average are not worth shapes of their own.
SHAPES = tuple(Shape(tokens, n) for tokens in _TOKENS for n in _SEGMENTS if tokens >= 16 * n)

Network = Callable[[Tensor, Shape, int], Tensor]


class Graphs:
    """Graphs of a packed network, by shape.

    Args:
        network: Called with a batch's array, its shape, and the longest pair.
        device: Where it runs.
        longest: Tokens of a pair at most; a graph must serve any.
        stream: Where graphs are captured, and nobody else ever computes: graphs keep the address of the
            workspace that cuBLAS has there, and torch frees it with any graph of that stream. None, on CPU:
            nothing is captured, the network runs on the filled-up shape, so that tests cover all but
            the capture itself.

    Attributes:
        memory: Bytes that torch reserved while capturing.
    """

    def __init__(
        self, network: Network, device: torch.device, longest: int, stream: torch.cuda.Stream | None = None
    ) -> None:
        self._network = network
        self._device = device
        self._longest = longest
        self._replays: dict[Shape, Callable[[Tensor], Tensor]] = {}
        self._stream = stream
        self._pool = None if stream is None else torch.cuda.graph_pool_handle()
        self.memory = 0

    @property
    def captured(self) -> int:
        """How many shapes have a graph."""
        return len(self._replays)

    @staticmethod
    def shape_for(needed: Shape) -> Shape | None:
        """Return the smallest shape that holds `needed`, or None if it is too large for a graph."""
        fitting = (s for s in SHAPES if s.tokens >= needed.tokens and s.segments >= needed.segments)
        return next(fitting, None)

    def has(self, needed: Shape) -> bool:
        """Whether a shape that holds `needed` is captured."""
        return self.shape_for(needed) in self._replays

    def replay(self, array: Tensor, shape: Shape) -> Tensor:
        """Return logits [segments] of a batch filled up to `shape`; the next replay overwrites them.

        Args:
            array: The batch's, on the device or in pinned memory.
            shape: One of `SHAPES`.
        """
        if shape not in self._replays:
            self._replays[shape] = self._capture(shape)
        return self._replays[shape](array)

    @torch.inference_mode()
    def capture_all(self) -> None:
        """Capture every shape now, the largest first, so that the others fit into its memory."""
        for shape in reversed(SHAPES):
            self._replays[shape] = self._capture(shape)

    def _capture(self, shape: Shape) -> Callable[[Tensor], Tensor]:
        array = torch.zeros(shape.size, dtype=torch.int32, device=self._device)
        if self._stream is None:
            return lambda given: self._network(array.copy_(given), shape, self._longest)
        # Libraries set themselves up on a first call, which must not happen in a capture.
        self._network(array, shape, self._longest)
        graph = torch.cuda.CUDAGraph()
        capture = torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local")
        with capturing, capture:
            before = torch.cuda.memory_reserved(self._device)  # now, as what was cached has been freed
            logits = self._network(array, shape, self._longest)
        self.memory += torch.cuda.memory_reserved(self._device) - before
        logger.debug("captured %s; graphs take %.1f MB", shape, self.memory / 1e6)

        def replay(given: Tensor) -> Tensor:
            array.copy_(given, non_blocking=True)
            graph.replay()
            return logits

        return replay
