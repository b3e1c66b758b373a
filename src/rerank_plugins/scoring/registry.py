"""One loaded engine for equal settings, however many scorers ask for it, until the last lets go."""

import logging
import os
import threading
from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from rerank_plugins.errors import InvalidInputError
from rerank_plugins.scoring.cache import ContentCache
from rerank_plugins.scoring.dispatch import Worker
from rerank_plugins.scoring.engines.choice import choose_engine
from rerank_plugins.scoring.engines.factory import make_engine
from rerank_plugins.scoring.engines.precision import cpu_dtype
from rerank_plugins.scoring.flight import Row
from rerank_plugins.scoring.loading import canonical_name, find_model
from rerank_plugins.scoring.pairs import PairEncoder
from rerank_plugins.scoring.protocol import ScorerInfo
from rerank_plugins.settings import ScorerSettings

__all__ = ["Loaded", "acquire", "loaded_models", "release"]

logger = logging.getLogger(__name__)

# Padded tokens of a batch. On CPU, numbers of the widest activation that a core's cache holds: 512
# tokens a core for MiniLM. Measured on MiniLM-L6 with 1 MiB of cache: a third faster than 2,048.
_CPU_ACTIVATIONS = 512 * 1536
_LEAST_BATCH_TOKENS = 512
_CUDA_BATCH_TOKENS = 65536
# What a batch costs besides its tokens, in tokens. On CPU measured from 10 (MiniLM-L6, ONNX Runtime) to
# 140 (MiniLM-L2, torch); on CUDA a guess, to be measured.
_BATCH_COST = {"cpu": 48, "cuda": 4096}


@dataclass(frozen=True)
class Loaded:
    """A model that is ready: tokenising, the worker with its engine, and what was chosen."""

    encoder: PairEncoder
    worker: Worker
    info: ScorerInfo
    scores: ContentCache[Row]
    # Tokenises for async callers, off the event loop; one thread is enough, it fills all cores.
    tokenizing: Executor

    def close(self) -> None:
        """Stop both threads and free the weights."""
        self.tokenizing.shutdown(wait=False, cancel_futures=True)
        self.worker.close()


@dataclass
class _Entry:
    lock: threading.Lock
    users: int = 0
    loaded: Loaded | None = None


_entries: dict[ScorerSettings, _Entry] = {}
# Reentrant: garbage collection may release a scorer in the middle of an acquire.
_guard = threading.RLock()


def _forget() -> None:
    """Start afresh in a forked child: threads do not survive a fork."""
    global _guard
    _guard = threading.RLock()
    _entries.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def acquire(settings: ScorerSettings) -> tuple[ScorerSettings, Loaded]:
    """Return the key to release with, and the model, loading it unless an equal one is loaded.

    Raises:
        ModelError: If the model cannot be loaded.
        InvalidInputError: If the device is not there.
    """
    key, reasons = _resolve(settings)
    with _guard:
        entry = _entries.setdefault(key, _Entry(threading.Lock()))
        entry.users += 1
    try:
        # Held while loading: others who want the same model wait for it instead of loading again.
        with entry.lock:
            if entry.loaded is None:
                entry.loaded = _load(key, reasons)
            return key, entry.loaded
    except BaseException:
        release(key)
        raise


def release(key: ScorerSettings) -> None:
    """Give a model back; the last user's release closes it."""
    with _guard:
        entry = _entries.get(key)
        if entry is None:  # a forked child starts without entries
            return
        entry.users -= 1
        if entry.users:
            return
        del _entries[key]
    if entry.loaded is not None:
        entry.loaded.close()


def loaded_models() -> list[ScorerInfo]:
    """Return what is loaded in this process now."""
    with _guard:
        return [entry.loaded.info for entry in _entries.values() if entry.loaded is not None]


def _resolve(settings: ScorerSettings) -> tuple[ScorerSettings, dict[str, str]]:
    """Return settings with the model's canonical name and no "auto" in device and dtype, and why."""
    reasons = {}
    device = settings.device
    dtype: str = settings.dtype
    if device == "auto":
        device = "cuda:0" if torch.cuda.is_available() else "cpu"
        reasons["device"] = f"auto: torch {torch.__version__} sees {torch.cuda.device_count()} GPUs"
    elif device.startswith("cuda"):
        device = device if ":" in device else "cuda:0"
        if int(device.split(":")[1]) >= torch.cuda.device_count():
            msg = (
                f"device must be one torch can use, but got {settings.device!r} and torch "
                f"{torch.__version__} sees {torch.cuda.device_count()} CUDA devices; use "
                'device="auto" to fall back to the CPU, or install a torch with CUDA'
            )
            raise InvalidInputError(msg)
    if dtype == "auto":
        default = cpu_dtype() if device == "cpu" else ("bfloat16", "auto: the default on CUDA")
        dtype, reasons["dtype"] = default
    chosen = {"model": canonical_name(settings.model), "device": device, "dtype": dtype}
    return settings.model_copy(update=chosen), reasons


def _load(settings: ScorerSettings, reasons: dict[str, str]) -> Loaded:
    found = find_model(settings)
    engine_name, why = choose_engine(settings, found.config)
    settings = settings.model_copy(update={"engine": engine_name})
    max_length = _limit(settings.max_length, found.max_length)
    max_query_tokens = settings.max_query_tokens or max_length * 3 // 4
    max_batch_tokens = settings.max_batch_tokens or _batch_tokens(settings.device, found.config)
    encoder = PairEncoder(
        found.tokenizer,
        max_length=max_length,
        max_query_tokens=max_query_tokens,
        cache_bytes=settings.token_cache_bytes,
    )
    engine = make_engine(settings, found)
    info = ScorerInfo(
        model=found.model,
        revision=found.revision,
        device=settings.device,
        dtype=settings.dtype,
        engine=engine.name,
        max_length=max_length,
        max_query_tokens=max_query_tokens,
        max_batch_tokens=max_batch_tokens,
        memory=engine.memory,
        reasons=reasons | found.notes | {"engine": why},
    )
    logger.info(
        "loaded %s: engine %s (%s), device %s, dtype %s, %.1f MB",
        *(info.model, info.engine, why, info.device, info.dtype, info.memory / 1e6),
    )
    tokenizing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rerank-tokenizer")
    worker = Worker(
        engine,
        max_batch_tokens,
        batch_cost=_BATCH_COST["cpu" if settings.device == "cpu" else "cuda"],
        max_queue_tokens=settings.max_queue_tokens,
    )
    # Equal settings share this too: a remembered score is of this model, revision and precision.
    return Loaded(encoder, worker, info, ContentCache(settings.score_cache_size), tokenizing)


def _batch_tokens(device: str, config: Mapping[str, Any]) -> int:
    if device != "cpu":
        return _CUDA_BATCH_TOKENS
    widest = int(config.get("intermediate_size") or 4 * config.get("hidden_size", 768))
    return max(_LEAST_BATCH_TOKENS, _CPU_ACTIVATIONS * torch.get_num_threads() // widest)


def _limit(wanted: int | None, possible: int) -> int:
    if wanted is not None and wanted > possible:
        msg = f"max_length must be at most {possible} for this model, but got {wanted}"
        raise InvalidInputError(msg)
    return wanted or possible
