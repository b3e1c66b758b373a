"""Attention within the segments of a packed batch: the one call that differs between devices.

A packed batch is one stream of T tokens, cut into n segments. Queries, keys and values are [T, heads, size];
nothing attends across a segment's ends.
"""

import inspect
from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody reads
from torch import Tensor

__all__ = ["Attention", "PaddedAttention", "Segments", "VarlenAttention", "choose_attention"]

_LARGEST_HEAD = 256


class Segments:
    """Where the segments of a packed batch lie, on its device, without a word from the host.

    Args:
        starts: int32 [n + 1], where each segment begins; the last is where the last one ends. Segments may
            be empty, and tokens may follow the last one: shapes that are fixed beforehand have both.
        tokens: T, at least `starts[-1]`.
        longest: The longest segment's length, or more.
    """

    def __init__(self, starts: Tensor, tokens: int, longest: int) -> None:
        self.starts = starts
        self.longest = longest
        stream = torch.arange(tokens, device=starts.device, dtype=torch.int32)
        # The segment of each token; what follows the last segment counts to it, and is nobody's.
        self.owners = torch.searchsorted(starts[1:], stream, right=True).clamp(max=len(starts) - 2)
        self.positions = stream - starts[self.owners]
        # The first token of each segment, [CLS]; an empty one at the very end borrows the last token.
        self.firsts = starts[:-1].clamp(max=tokens - 1)


class Attention(Protocol):
    """Softmax attention within segments."""

    def all(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return [T, heads, size]: every token attends to its segment, scaled by size ** -0.5."""
        ...

    def firsts(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return [n, heads, size]: one query a segment, [n, heads, size], scaled already, attends."""
        ...


class VarlenAttention:
    """FlashAttention over the packed stream itself, by `torch.nn.attention.varlen`.

    The same sums whatever else is in the batch: no split along the keys, whose number depends on the longest.
    """

    def __init__(self, segments: Segments) -> None:
        from torch.nn.attention.varlen import varlen_attn

        self._varlen_attn = varlen_attn
        self._segments = segments
        n = len(segments.starts) - 1
        self._ones = torch.arange(n + 1, device=segments.starts.device, dtype=torch.int32)

    def all(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `Attention.all`."""
        starts, longest = self._segments.starts, self._segments.longest
        mixed: Tensor = self._varlen_attn(q, k, v, starts, starts, longest, longest)  # type: ignore[assignment]
        return mixed

    def firsts(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `Attention.firsts`."""
        starts, longest = self._segments.starts, self._segments.longest
        mixed: Tensor = self._varlen_attn(q, k, v, self._ones, starts, 1, longest, scale=1.0)  # type: ignore[assignment]
        return mixed


class PaddedAttention:
    """SDPA with the segments side by side, padded to the longest for this one call.

    For devices and precisions that FlashAttention does not serve. Batches hold pairs of like length, so
    little is padding; the rest of the network stays packed.
    """

    def __init__(self, segments: Segments) -> None:
        starts = segments.starts
        place = torch.arange(segments.longest, device=starts.device)
        tokens = len(segments.positions)
        self._source = (starts[:-1, None] + place).clamp(max=tokens - 1)  # [n, longest]
        self._mask = (place < starts.diff()[:, None])[:, None, None]  # [n, 1, 1, longest]
        # An empty segment attends to one token, whoever's: a softmax over nothing is not a number.
        self._mask = self._mask | (place == 0)
        inside = segments.positions.clamp(max=segments.longest - 1)
        self._back = segments.owners * segments.longest + inside  # [T]

    def all(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `Attention.all`."""
        q, k, v = (part[self._source].transpose(1, 2) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=self._mask)
        return mixed.transpose(1, 2).flatten(0, 1)[self._back]

    def firsts(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `Attention.firsts`."""
        k, v = (part[self._source].transpose(1, 2) for part in (k, v))
        mixed = F.scaled_dot_product_attention(q[:, :, None], k, v, attn_mask=self._mask, scale=1.0)
        return mixed[:, :, 0]


def choose_attention(
    device: torch.device, dtype: torch.dtype, size: int
) -> tuple[Callable[[Segments], Attention], str]:
    """Return the attention for a device, a precision and heads of a size, and why this one."""
    obstacle = _varlen_obstacle(device, dtype, size)
    if obstacle is None:
        return VarlenAttention, "varlen_attn: no padding at all"
    return PaddedAttention, f"padded SDPA: {obstacle}"


def _varlen_obstacle(device: torch.device, dtype: torch.dtype, size: int) -> str | None:
    """Say why `VarlenAttention` cannot be used, or None if it can."""
    if device.type != "cuda":
        return "varlen_attn needs CUDA"
    if dtype not in (torch.float16, torch.bfloat16):
        return "varlen_attn needs half precision"
    if size % 8 or size > _LARGEST_HEAD:
        return f"varlen_attn needs heads of a multiple of 8 up to {_LARGEST_HEAD}, and these have {size}"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "varlen_attn needs compute capability 8.0"
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return f"torch {torch.__version__} has no varlen_attn"
    if "scale" not in inspect.signature(varlen_attn).parameters:  # torch 2.10
        return f"varlen_attn of torch {torch.__version__} takes no scale"
    return None
