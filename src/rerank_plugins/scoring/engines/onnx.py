"""Our BERT as an ONNX file, and through ONNX Runtime.

The file is for people who deploy elsewhere (Vespa, OpenSearch, Triton, browsers): inputs `input_ids`,
`attention_mask` and `token_type_ids`, int64 [batch, length]; output `logits`, float32 [batch, 1]. The
engine runs the same file.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from rerank_plugins.scoring.engines.base import PaddingEngine
from rerank_plugins.scoring.engines.batches import PaddedBatch, pad
from rerank_plugins.scoring.engines.bert import BertNetwork
from rerank_plugins.scoring.pairs import EncodedPairs

__all__ = ["VERSION", "OnnxEngine", "save_graph"]

VERSION = onnx.__version__

_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_OPSET = 17  # the first with LayerNormalization


def save_graph(network: BertNetwork, path: Path, calibration: Sequence[PaddedBatch] | None = None) -> None:
    """Write a network as one ONNX file, int8 if calibrated."""
    ids = torch.ones(2, 16, dtype=torch.int64)
    mask = (torch.arange(16) < torch.tensor([[16], [9]])).long()
    axes = {name: {0: "batch", 1: "length"} for name in _INPUTS} | {"logits": {0: "batch"}}
    with warnings.catch_warnings():
        # torch's newer exporter names nodes by number, and its graph ran a tenth slower when measured:
        # quantisation finds the matmuls by the modules in their names.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (ids, mask, torch.zeros_like(ids)),
            str(path),
            input_names=list(_INPUTS),
            output_names=["logits"],
            dynamic_axes=axes,
            opset_version=_OPSET,
            dynamo=False,
        )
    if calibration is not None:
        from rerank_plugins.scoring.engines.quantize import quantize

        model = onnx.load(path)
        names = [node.name for node in model.graph.node]
        onnx.save(quantize(model, names, [_inputs(batch) for batch in calibration]), path)


class OnnxEngine(PaddingEngine):
    """Runs an ONNX file on padded token-budget batches, on CPU.

    Args:
        graph: What `save_graph` wrote.
        pad_id: What fills the ids of a padded batch.
    """

    name = "onnx"

    def __init__(self, graph: Path, pad_id: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._pad_id = pad_id
        self.memory = graph.stat().st_size

    def forward(self, pairs: EncodedPairs, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return float32 logits [len(indices)] of the pairs at `indices`."""
        batch = pad(pairs, indices, self._pad_id)
        logits: NDArray[np.float32] = self._session.run(["logits"], _inputs(batch))[0].squeeze(-1)
        return logits

    def close(self) -> None:
        """Free the session."""
        self.__dict__.clear()


def _inputs(batch: PaddedBatch) -> dict[str, NDArray[np.int64]]:
    return dict(zip(_INPUTS, (batch.ids, batch.mask, batch.types), strict=True))
