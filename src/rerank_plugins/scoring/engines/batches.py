"""Pairs as the arrays that engines take: padded to one length, or packed end to end."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rerank_plugins.scoring.pairs import EncodedPairs

__all__ = ["PackedBatch", "PaddedBatch", "Shape", "pack", "pad"]

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class PaddedBatch:
    """Pairs padded to one length.

    Attributes:
        ids: int64 [batch, length] token ids.
        mask: int64 [batch, length], 1 where there is a token, 0 where there is padding.
        types: int64 [batch, length] token type ids.
    """

    ids: NDArray[np.int64]
    mask: NDArray[np.int64]
    types: NDArray[np.int64]

    def tensors(self, device: torch.device = _CPU) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return ids, mask and types on `device`; no mask if nothing is padded."""
        mask = None if self.mask.all() else _to_device(self.mask, device)
        return _to_device(self.ids, device), mask, _to_device(self.types, device)


def pad(pairs: EncodedPairs, indices: NDArray[np.int64], pad_id: int, *, multiple: int = 1) -> PaddedBatch:
    """Gather pairs into one padded batch, without a Python loop over documents.

    Args:
        pairs: All pairs.
        indices: int64 [batch], which of them.
        pad_id: What fills the ids.
        multiple: The length is the longest pair's, rounded up to a multiple of this. Engines that
            prepare code for each shape they meet then meet fewer.
    """
    lengths = pairs.lengths[indices]
    position = np.arange(-(-int(lengths.max()) // multiple) * multiple)
    mask = position < lengths[:, None]
    # Clipping keeps the gather in bounds where the last pairs are padded; those cells get pad_id.
    source = np.minimum(pairs.offsets[indices, None] + position, len(pairs.ids) - 1)
    types = np.where(mask & (position >= pairs.boundaries[indices, None]), pairs.document_type, 0)
    return PaddedBatch(
        ids=np.where(mask, pairs.ids[source], pad_id).astype(np.int64),
        mask=mask.astype(np.int64),
        types=types.astype(np.int64),
    )


def _to_device(array: NDArray[np.int64], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor


class Shape(NamedTuple):
    """What fixes the size of a packed batch's array: tokens, and segments."""

    tokens: int
    segments: int

    @property
    def size(self) -> int:
        """How many numbers the array holds."""
        return self.tokens + 2 * self.segments + 1


class PackedBatch(NamedTuple):
    """Pairs end to end, in one array so that one copy carries all.

    Attributes:
        array: int32 [shape.size]: token ids [tokens], starts [segments + 1], and where token type 1 begins
            in each pair [segments].
        shape: Tokens and segments; what pairs do not fill is padding behind them: id 0, empty segments.
        longest: The longest pair, in tokens.
    """

    array: NDArray[np.int32]
    shape: Shape
    longest: int


def pack(pairs: EncodedPairs, indices: NDArray[np.int64], shape: Shape | None = None) -> PackedBatch:
    """Gather pairs end to end, without a Python loop over documents.

    Args:
        pairs: All pairs.
        indices: int64 [batch], which of them.
        shape: At least what the pairs need; None: just that.
    """
    part = pairs.take(indices)
    shape = shape or Shape(len(part.ids), len(part))
    array = np.zeros(shape.size, dtype=np.int32)
    array[: len(part.ids)] = part.ids
    starts = array[shape.tokens :][: shape.segments + 1]
    starts[:] = len(part.ids)
    starts[: len(part.offsets)] = part.offsets
    never = shape.tokens  # where every token has the query's type
    boundaries = part.boundaries if pairs.document_type else never
    array[shape.tokens + shape.segments + 1 :][: len(part)] = boundaries
    return PackedBatch(array, shape, int(part.lengths.max()))
