"""The one interface every engine has, and the padding they share."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rerank_plugins.scoring.pairs import EncodedPairs

__all__ = ["Engine", "PaddedBatch", "free_cached_memory", "pad"]


_CPU = torch.device("cpu")


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


def free_cached_memory() -> None:
    """Give the device memory that torch keeps for later back to the driver; nothing on CPU."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
