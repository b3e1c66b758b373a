"""The one interface every engine has, and the padding that torch engines share."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rerank_plugins.scoring.pairs import EncodedPairs

__all__ = ["Engine", "PaddedBatch", "free_cached_memory", "pad"]


class Engine(Protocol):
    """Runs a model on one device. Only its worker's thread calls it."""

    @property
    def name(self) -> str:
        """The name that `ScorerSettings.engine` takes."""
        ...

    @property
    def memory(self) -> int:
        """Bytes held by the weights."""
        ...

    def forward(self, pairs: EncodedPairs, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return float32 logits [len(indices)] of the pairs at `indices`."""
        ...

    def close(self) -> None:
        """Free the weights."""
        ...


@dataclass(frozen=True)
class PaddedBatch:
    """Pairs padded to the longest of the batch.

    Attributes:
        ids: int64 [batch, length] token ids.
        types: int64 [batch, length] token type ids.
        mask: bool [batch, length], True where there is a token; None if nothing is padded.
    """

    ids: Tensor
    types: Tensor
    mask: Tensor | None


def pad(pairs: EncodedPairs, indices: NDArray[np.int64], device: torch.device, pad_id: int) -> PaddedBatch:
    """Gather pairs into one padded batch on `device`, without a Python loop over documents."""
    lengths = pairs.lengths[indices]
    position = np.arange(lengths.max())
    mask = position < lengths[:, None]
    # Clipping keeps the gather in bounds where the last pairs are padded; those cells get pad_id.
    source = np.minimum(pairs.offsets[indices, None] + position, len(pairs.ids) - 1)
    ids = np.where(mask, pairs.ids[source], pad_id)
    types = np.where(mask & (position >= pairs.boundaries[indices, None]), pairs.document_type, 0)
    return PaddedBatch(
        ids=_to_device(ids, device),
        types=_to_device(types, device),
        mask=None if mask.all() else _to_device(mask, device),
    )


def _to_device(array: NDArray[np.generic], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    if tensor.dtype != torch.bool:
        tensor = tensor.long()
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor


def free_cached_memory() -> None:
    """Give the device memory that torch keeps for later back to the driver; nothing on CPU."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
