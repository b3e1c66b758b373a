"""Our BERT in torch, on CPU or CUDA by the same code."""

import numpy as np
import torch
from numpy.typing import NDArray

from rerank_plugins.scoring.engines.base import free_cached_memory, pad
from rerank_plugins.scoring.engines.bert import BertNetwork
from rerank_plugins.scoring.pairs import EncodedPairs

__all__ = ["TorchEngine"]


class TorchEngine:
    """Runs a `BertNetwork` on padded token-budget batches.

    Args:
        network: The network, in its precision; moved to `device`.
        device: Where to run.
    """

    name = "torch"

    def __init__(self, network: BertNetwork, device: torch.device) -> None:
        self._network = network.to(device)
        self._device = device
        self.memory = network.memory

    @torch.inference_mode()
    def forward(self, pairs: EncodedPairs, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return float32 logits [len(indices)] of the pairs at `indices`."""
        batch = pad(pairs, indices, self._network.config.pad_id)
        ids, mask, types = batch.tensors(self._device)
        logits: NDArray[np.float32] = self._network(ids, mask, types).squeeze(-1).cpu().numpy()
        return logits

    def close(self) -> None:
        """Free the weights, and give cached device memory back."""
        self.__dict__.clear()
        free_cached_memory()
