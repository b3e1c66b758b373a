"""Our BERT through OpenVINO: float32, bfloat16 where the CPU has it, int8 by choice.

The graph is traced from `BertNetwork` itself, so it makes the same savings. The pooler and the classifier
stay outside of it, in torch and float32: OpenVINO applies a precision to a whole graph.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rerank_plugins.errors import InvalidInputError
from rerank_plugins.scoring.engines.base import PaddingEngine
from rerank_plugins.scoring.engines.batches import PaddedBatch, pad
from rerank_plugins.scoring.pairs import EncodedPairs

__all__ = ["VERSION", "OpenVINOEngine", "check_precision", "save_graph"]

VERSION = ov.__version__

_HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}
# What a CPU must list among its capabilities to compute in a precision.
_CAPABILITIES = {"float32": "FP32", "bfloat16": "BF16", "int8": "INT8"}
# OpenVINO generates code for each shape it meets: multiples of 8 are few, and fit its kernels.
_LENGTH_MULTIPLE = 8


def check_precision(dtype: str) -> None:
    """Refuse a precision that OpenVINO would quietly replace by float32 on this CPU.

    Raises:
        InvalidInputError: If the CPU, or OpenVINO on a CPU, does not compute in `dtype`.
    """
    found = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if _CAPABILITIES.get(dtype) not in found:
        usable = [name for name, capability in _CAPABILITIES.items() if capability in found]
        msg = f"dtype must be one OpenVINO computes in on this CPU ({', '.join(usable)}), but got {dtype!r}"
        raise InvalidInputError(msg)


def _convert(module: nn.Module, output: str) -> ov.Model:
    """Trace a module of (input_ids, attention_mask, token_type_ids) into a graph of any shape."""
    ids = torch.ones(2, 16, dtype=torch.int64)
    mask = (torch.arange(16) < torch.tensor([[16], [9]])).long()
    model = ov.convert_model(
        module, example_input=(ids, mask, torch.zeros_like(ids)), input=[ov.PartialShape([-1, -1])] * 3
    )
    model.outputs[0].get_tensor().set_names({output})
    return model


def save_graph(
    module: nn.Module, output: str, path: Path, calibration: Sequence[PaddedBatch] | None = None
) -> None:
    """Write a module's graph as `path` (.xml, its weights in .bin beside), int8 if calibrated."""
    model = _convert(module, output)
    if calibration is not None:
        from rerank_plugins.scoring.engines.quantize import quantize

        names = [operation.get_friendly_name() for operation in model.get_ops()]
        model = quantize(model, names, [_inputs(batch) for batch in calibration])
    ov.save_model(model, path, compress_to_fp16=False)


class OpenVINOEngine(PaddingEngine):
    """Runs the graph of a `BertEncoder` on padded token-budget batches.

    Args:
        graph: What `save_graph` wrote for a network's encoder.
        head: The network's head: [batch, hidden] to float32 [batch, 1].
        pad_id: What fills the ids of a padded batch.
        dtype: `"float32"`, `"bfloat16"`, or `"int8"` for a graph that is quantised.
    """

    name = "openvino"

    def __init__(self, graph: Path, head: nn.Module, pad_id: int, dtype: str) -> None:
        check_precision(dtype)
        core = ov.Core()
        core.set_property({"CACHE_DIR": str(graph.parent)})
        hints: dict[str, Any] = {"INFERENCE_PRECISION_HINT": _HINTS[dtype], "PERFORMANCE_HINT": "LATENCY"}
        threads = torch.get_num_threads()
        if threads < (os.cpu_count() or 1):
            # OpenVINO would take all cores, where this process has a share; and pin its threads to the first
            # ones, as every process beside it does: measured, two of them get half of the speed each.
            hints |= {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
        self._request = core.compile_model(graph, "CPU", hints).create_infer_request()
        self._pad_id = pad_id
        self._head = head
        self.memory = graph.with_suffix(".bin").stat().st_size + sum(w.nbytes for w in head.parameters())

    @torch.inference_mode()
    def forward(self, pairs: EncodedPairs, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return float32 logits [len(indices)] of the pairs at `indices`."""
        batch = pad(pairs, indices, self._pad_id, multiple=_LENGTH_MULTIPLE)
        cls: Tensor = torch.from_numpy(self._request.infer(_inputs(batch), share_inputs=True)[0])
        logits: NDArray[np.float32] = self._head(cls).squeeze(-1).numpy()
        return logits

    def close(self) -> None:
        """Free the graph."""
        self.__dict__.clear()


def _inputs(batch: PaddedBatch) -> list[NDArray[Any]]:
    return [batch.ids, batch.mask, batch.types]
