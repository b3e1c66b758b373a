"""Our BERT in torch, on CPU."""

import numpy as np
import torch
from numpy.typing import NDArray

from rerank_plugins.scoring.engines.base import PaddingEngine
from rerank_plugins.scoring.engines.batches import pad
from rerank_plugins.scoring.engines.bert import BertNetwork
from rerank_plugins.scoring.pairs import EncodedPairs

__all__ = ["TorchEngine"]


class TorchEngine(PaddingEngine):
    """Runs a `BertNetwork` on padded token-budget batches, on CPU; on CUDA see `PackedEngine`.

    Args:
        network: The network, in its precision.
    """

    name = "torch"

    def __init__(self, network: BertNetwork) -> None:
        self._network = network
        self.memory = network.memory

    @torch.inference_mode()
    def forward(self, pairs: EncodedPairs, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return float32 logits [len(indices)] of the pairs at `indices`."""
        batch = pad(pairs, indices, self._network.config.pad_id)
        ids, mask, types = batch.tensors()
        logits: NDArray[np.float32] = self._network(ids, mask, types).squeeze(-1).numpy()
        return logits

    def close(self) -> None:
        """Free the weights."""
        self.__dict__.clear()
