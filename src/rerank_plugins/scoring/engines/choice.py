"""Which engine runs a checkpoint, and why."""

import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any

from rerank_plugins.errors import InvalidInputError, MissingExtraError, RerankError
from rerank_plugins.scoring.engines.bert import BertConfig
from rerank_plugins.scoring.engines.precision import has_avx512, has_vnni
from rerank_plugins.settings import ScorerSettings

__all__ = ["choose_engine", "computes", "runs_on_cpu_alone"]

# The packages that an engine imports, and the precisions it computes in.
_PACKAGES = {
    "openvino": ("openvino",),
    "onnx": ("onnx", "onnxruntime"),
    "torch": (),
    "transformers": ("transformers",),
}
_DTYPES = {
    "openvino": {"float32", "bfloat16", "int8"},
    "onnx": {"float32", "int8"},
    "torch": {"float32", "bfloat16", "float16"},
    "transformers": {"float32", "bfloat16", "float16"},
}
_CPU_ONLY = {"openvino", "onnx"}


def choose_engine(settings: ScorerSettings, config: Mapping[str, Any]) -> tuple[str, str]:
    """Return the engine for settings whose device and dtype are chosen, and why this one.

    Raises:
        InvalidInputError: If the engine asked for cannot run this model, device or precision.
        MissingExtraError: If its packages are not installed.
    """
    if settings.engine != "auto":
        obstacle = _obstacle(settings.engine, settings, config)
        if obstacle is not None:
            raise obstacle
        return settings.engine, "as asked"
    obstacles: list[RerankError] = []
    for name, advantage in _preferences(settings):
        obstacle = _obstacle(name, settings, config)
        if obstacle is None:
            return name, "; ".join(["auto: " + advantage, *map(str, obstacles)])
        obstacles.append(obstacle)
    raise obstacles[0]  # the preferred engine's: it names the extra, or what does not fit


def computes(engine: str, dtype: str) -> bool:
    """Say whether an engine computes in a precision on this CPU; one that is not installed: on any."""
    if dtype not in _DTYPES[engine]:
        return False
    missing = any(importlib.util.find_spec(package) is None for package in _PACKAGES[engine])
    return missing or engine != "openvino" or _openvino_obstacle(dtype) is None


def runs_on_cpu_alone(settings: ScorerSettings) -> str | None:
    """Return which setting asks for what only a CPU runs, if one does."""
    if settings.dtype == "int8":
        return "dtype 'int8'"
    return f"engine {settings.engine!r}" if settings.engine in _CPU_ONLY else None


def _preferences(settings: ScorerSettings) -> Iterator[tuple[str, str]]:
    """Yield engines from the fastest to the most general, and what speaks for each."""
    dtype = settings.dtype
    if settings.device == "cpu" or dtype == "int8":
        # Measured on one CPU that has these instructions, and one that lacks them (docs/performance.md).
        openvino_first = has_vnni() if dtype == "int8" else has_avx512()
        graphs = ("openvino", "onnx") if openvino_first else ("onnx", "openvino")
        why = f"fastest in {dtype} on such a CPU, of what is installed"
        yield from ((name, why) for name in graphs if dtype in _DTYPES[name])
    if dtype == "int8":
        return
    yield "torch", "a BERT our engine reads"
    yield "transformers", "runs any one-logit classifier"


def _obstacle(name: str, settings: ScorerSettings, config: Mapping[str, Any]) -> RerankError | None:
    """Return the error that says why an engine cannot be used, or None if it can."""
    if name != "transformers" and (unsupported := BertConfig.why_unsupported(config)):
        return InvalidInputError(
            f"engine {name!r} must have a BERT it knows, but {unsupported}; use engine='auto'"
        )
    if name in _CPU_ONLY and settings.device != "cpu":
        return InvalidInputError(f"engine {name!r} must have device 'cpu', but got {settings.device!r}")
    if settings.dtype not in _DTYPES[name]:
        return InvalidInputError(
            f"dtype of engine {name!r} must be one of {sorted(_DTYPES[name])}, but got {settings.dtype!r}"
        )
    needed = [*_PACKAGES[name], *(["nncf"] if settings.dtype == "int8" else [])]
    missing = [package for package in needed if importlib.util.find_spec(package) is None]
    if missing:
        return MissingExtraError(
            f"engine {name!r} needs {', '.join(missing)}; "
            f'install it with: pip install "rerank-plugins[{name}]"'
        )
    return _openvino_obstacle(settings.dtype) if name == "openvino" else None


def _openvino_obstacle(dtype: str) -> InvalidInputError | None:
    from rerank_plugins.scoring.engines.openvino import check_precision

    try:
        check_precision(dtype)
    except InvalidInputError as error:
        return error
    return None
