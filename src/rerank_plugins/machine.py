"""What of this machine matters to speed, for reports."""

import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

__all__ = ["cores_of", "machine"]

_LIBRARIES = (
    "rerank-plugins",
    "torch",
    "openvino",
    "onnxruntime",
    "transformers",
    "sentence-transformers",
    "rerankers",
    "bm25s",
    "ir-measures",
)
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "avx_vnni")


def machine() -> dict[str, Any]:
    """Return what of the machine matters to speed."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": [name for name in _INSTRUCTIONS if name in _cpu_flags()],
        "system": platform.platform(terse=True),
        "libraries": {name: found for name in _LIBRARIES if (found := _version(name))},
        "date": datetime.now(UTC).date().isoformat(),
    }


def cores_of(found: Mapping[str, Any]) -> str:
    """Return the processor that `machine` found, in words."""
    return f"{found['cores']} cores of {found['cpu']}"


def _cpu_info(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def _cpu_name() -> str:
    return _cpu_info("model name") or platform.processor() or platform.machine()


def _cpu_flags() -> set[str]:
    return set(_cpu_info("flags").split())


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
