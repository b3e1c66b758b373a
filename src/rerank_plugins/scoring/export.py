"""Write a model for other runtimes: Vespa, OpenSearch, Triton, browsers, OpenVINO Model Server."""

import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.demo.data import load_passages, load_queries
from rerank_plugins.errors import InvalidInputError, MissingExtraError
from rerank_plugins.files import written
from rerank_plugins.scoring.engines.batches import PaddedBatch, pad
from rerank_plugins.scoring.engines.bert import BertConfig, BertNetwork
from rerank_plugins.scoring.engines.calibration import calibration_batches
from rerank_plugins.scoring.loading import ModelFiles, find_model, load_weights
from rerank_plugins.scoring.pairs import PairEncoder
from rerank_plugins.settings import ScorerSettings

__all__ = ["Exported", "GraphFormat", "export_model"]

GraphFormat = Literal["onnx", "openvino"]

# Where sentence-transformers and optimum look for them.
_PLACES = {"onnx": "onnx/model.onnx", "openvino": "openvino/openvino_model.xml"}
_COMPANIONS = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
)


@dataclass(frozen=True)
class Exported:
    """What was written, and how well it agrees.

    Attributes:
        graph: Path of the graph; its inputs are `input_ids`, `attention_mask` and `token_type_ids`,
            int64 [batch, length], its output `logits`, float32 [batch, 1].
        megabytes: Size of the graph with its weights.
        largest_difference: Between its logits and float32's, over `pairs` pairs of the demo.
        pairs: How many pairs were compared.
    """

    graph: Path
    megabytes: float
    largest_difference: float
    pairs: int


def export_model(
    settings: ScorerSettings, folder: Path, *, graph_format: GraphFormat = "onnx", dtype: str = "float32"
) -> Exported:
    """Write a model of the BERT family with its tokenizer and config, and compare it with ours.

    Args:
        settings: Which model.
        folder: Where to write; made if missing.
        graph_format: `"onnx"` or `"openvino"`.
        dtype: `"float32"`, or `"int8"`, quantised with calibration on the demo's texts.

    Raises:
        InvalidInputError: If the model is no BERT of ours, or the format or dtype is unknown.
        MissingExtraError: If the format's packages are not installed.
        ModelError: If the model cannot be loaded.
    """
    if graph_format not in _PLACES or dtype not in {"float32", "int8"}:
        msg = f"an export must be onnx or openvino, float32 or int8, but got {graph_format!r}, {dtype!r}"
        raise InvalidInputError(msg)
    _check_packages(graph_format, dtype)
    found = find_model(settings)
    if unsupported := BertConfig.why_unsupported(found.config):
        msg = f"export must have a BERT it knows, but {unsupported}"
        raise InvalidInputError(msg)
    network = BertNetwork(found.config, load_weights(found.folder))
    calibration = calibration_batches(found, network.config.pad_id) if dtype == "int8" else None
    graph = folder / _PLACES[graph_format]
    with written("an export", graph.parent, "a folder"):
        graph.parent.mkdir(parents=True, exist_ok=True)
    _save(graph_format, network, graph, calibration)
    for name in _COMPANIONS:
        if (found.folder / name).exists() and not found.folder.samefile(folder):
            shutil.copy(found.folder / name, folder)
    batch = _check_batch(found, network.config.pad_id)
    expected = network(*batch.tensors()).numpy()
    size = sum(path.stat().st_size for path in graph.parent.glob(f"{graph.stem}.*"))
    apart = float(np.abs(_run(graph_format, graph, batch) - expected).max())
    return Exported(graph, size / 1e6, apart, len(expected))


def _check_packages(graph_format: str, dtype: str) -> None:
    needed = {"onnx": ["onnx", "onnxruntime"], "openvino": ["openvino"]}[graph_format]
    needed += ["nncf"] if dtype == "int8" else []
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        msg = (
            f"this export needs {', '.join(missing)}; "
            f'install it with: pip install "rerank-plugins[{graph_format}]"'
        )
        raise MissingExtraError(msg)


def _save(
    graph_format: GraphFormat, network: BertNetwork, graph: Path, calibration: list[PaddedBatch] | None
) -> None:
    if graph_format == "onnx":
        from rerank_plugins.scoring.engines import onnx

        onnx.save_graph(network, graph, calibration)
    else:
        from rerank_plugins.scoring.engines import openvino

        openvino.save_graph(network, "logits", graph, calibration)


def _check_batch(found: ModelFiles, pad_id: int) -> PaddedBatch:
    encoder = PairEncoder(
        found.tokenizer, max_length=found.max_length, max_query_tokens=found.max_length // 2
    )
    query, *_ = load_queries()
    pairs = encoder.encode([(query.text, passage.text) for passage in load_passages()[:24]])
    return pad(pairs, np.arange(len(pairs)), pad_id)


def _run(graph_format: GraphFormat, graph: Path, batch: PaddedBatch) -> NDArray[np.float32]:
    """Run the written file as its readers will: by itself, in its own runtime."""
    inputs = {"input_ids": batch.ids, "attention_mask": batch.mask, "token_type_ids": batch.types}
    logits: NDArray[np.float32]
    if graph_format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        (logits,) = session.run(["logits"], inputs)
    else:
        import openvino

        hints = {"INFERENCE_PRECISION_HINT": "f32"}
        logits = openvino.Core().compile_model(graph, "CPU", hints)(inputs)["logits"]
    return logits
