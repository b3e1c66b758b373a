"""Makes the engine that was chosen, with the graph it needs from the disk cache."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from rerank_plugins import __version__
from rerank_plugins.errors import ModelError, RerankError
from rerank_plugins.scoring.engines import artifacts, bert
from rerank_plugins.scoring.engines.attention import (
    Attention,
    Segments,
    VarlenAttention,
    choose_attention,
)
from rerank_plugins.scoring.engines.base import Engine
from rerank_plugins.scoring.engines.batches import PaddedBatch
from rerank_plugins.scoring.engines.bert import BertConfig, BertNetwork
from rerank_plugins.scoring.engines.calibration import calibration_batches, calibration_sources
from rerank_plugins.scoring.engines.operators import Operators, choose_operators
from rerank_plugins.scoring.engines.packed import PackedEngine
from rerank_plugins.scoring.engines.precision import tf32_note
from rerank_plugins.scoring.engines.torch import TorchEngine
from rerank_plugins.scoring.loading import ModelFiles, load_weights
from rerank_plugins.settings import ScorerSettings

__all__ = ["engine_notes", "make_engine"]


def make_engine(settings: ScorerSettings, found: ModelFiles) -> Engine:
    """Return the engine that settings name, ready; nothing in them is `"auto"`.

    Raises:
        ModelFormatError: If the checkpoint's weights do not fit.
        ModelError: If the engine cannot convert or load it.
    """
    makers = {"torch": _torch, "transformers": _transformers, "openvino": _openvino, "onnx": _onnx}
    with _explained(f"engine {settings.engine!r} could not load {found.model} from {found.folder}"):
        return makers[settings.engine](settings, found)


def engine_notes(settings: ScorerSettings, config: Mapping[str, Any]) -> dict[str, str]:
    """Return what an engine chose by itself for a model, and why, for `ScorerInfo.reasons`."""
    if settings.device == "cpu":
        return {}
    notes = {"tf32": tf32_note()} if settings.dtype == "float32" else {}
    if settings.engine == "torch":
        attention, notes["attention"] = _attention(settings, config)
        _, notes["operators"] = _operators(settings, config)
        notes["graphs"] = _graphs(settings, attention)
        if notes["graphs"] != settings.cuda_graphs:
            notes["graphs"] += ": padded attention cannot be captured"
    return notes


def _attention(
    settings: ScorerSettings, config: Mapping[str, Any]
) -> tuple[Callable[[Segments], Attention], str]:
    shape = BertConfig.of(config)
    device, dtype = torch.device(settings.device), getattr(torch, settings.dtype)
    return choose_attention(device, dtype, shape.hidden_size // shape.heads)


def _operators(settings: ScorerSettings, config: Mapping[str, Any]) -> tuple[Operators, str]:
    device, dtype = torch.device(settings.device), getattr(torch, settings.dtype)
    return choose_operators(device, dtype, BertConfig.of(config).activation)


def _graphs(settings: ScorerSettings, attention: Callable[[Segments], Attention]) -> str:
    # Shapes that depend on the batch cannot be captured.
    return settings.cuda_graphs if attention is VarlenAttention else "off"


def _torch(settings: ScorerSettings, found: ModelFiles) -> Engine:
    network = BertNetwork(found.config, load_weights(found.folder), getattr(torch, settings.dtype))
    if settings.device == "cpu":
        return TorchEngine(network)
    attention, _ = _attention(settings, found.config)
    operators, _ = _operators(settings, found.config)
    return PackedEngine(
        network,
        torch.device(settings.device),
        attention,
        graphs=_graphs(settings, attention),
        operators=operators,
    )


def _transformers(settings: ScorerSettings, found: ModelFiles) -> Engine:
    from rerank_plugins.scoring.engines.transformers import TransformersEngine

    return TransformersEngine(found.folder, torch.device(settings.device), getattr(torch, settings.dtype))


def _openvino(settings: ScorerSettings, found: ModelFiles) -> Engine:
    from rerank_plugins.scoring.engines import openvino

    network = BertNetwork(found.config, load_weights(found.folder))

    def make(folder: Path) -> None:
        openvino.save_graph(network.encoder, "cls", folder / "graph.xml", _calibration(settings, found))

    folder = _graph_folder(settings, found, Path(openvino.__file__), openvino.VERSION, make)
    with _explained(f"openvino could not load {folder}; delete it, and it is made again"):
        return openvino.OpenVINOEngine(
            folder / "graph.xml", network.head, network.config.pad_id, settings.dtype
        )


def _onnx(settings: ScorerSettings, found: ModelFiles) -> Engine:
    from rerank_plugins.scoring.engines import onnx

    def make(folder: Path) -> None:
        network = BertNetwork(found.config, load_weights(found.folder))
        onnx.save_graph(network, folder / "graph.onnx", _calibration(settings, found))

    folder = _graph_folder(settings, found, Path(onnx.__file__), onnx.VERSION, make)
    with _explained(f"onnxruntime could not load {folder}; delete it, and it is made again"):
        return onnx.OnnxEngine(folder / "graph.onnx", BertConfig.of(found.config).pad_id)


def _graph_folder(
    settings: ScorerSettings, found: ModelFiles, module: Path, version: str, make: Callable[[Path], None]
) -> Path:
    """Return the folder of the engine's graph, made now unless it is on disk."""
    # A graph is as good as the code that made it and what it was calibrated on: others make it again.
    sources = [path.read_text() for path in (module, module.with_name("quantize.py"), Path(bert.__file__))]
    precision = "int8" if settings.dtype == "int8" else "float"
    if precision == "int8":
        sources += calibration_sources(found)
    key = artifacts.fingerprint(
        found.folder, settings.engine, precision, version, torch.__version__, __version__, *sources
    )
    with _explained(f"{settings.engine} could not convert {found.model}; engine='torch' needs no conversion"):
        return artifacts.artifact(settings.engine_cache_dir, key, make)


@contextmanager
def _explained(message: str) -> Iterator[None]:
    """Turn whatever another library stumbles over into an error of ours that names the way around it."""
    try:
        yield
    except (RerankError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        msg = f"{message}: {error}"
        raise ModelError(msg) from error


def _calibration(settings: ScorerSettings, found: ModelFiles) -> list[PaddedBatch] | None:
    if settings.dtype != "int8":
        return None
    return calibration_batches(found, BertConfig.of(found.config).pad_id)
