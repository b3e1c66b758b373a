"""One loaded engine for equal settings, however many scorers ask for it, until the last lets go."""

import logging
import os
import threading
from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch

from rerank_plugins.errors import InvalidInputError, ModelError
from rerank_plugins.scoring.budget import BATCH_COST, cpu_batch_tokens, cuda_batch_tokens
from rerank_plugins.scoring.cache import ContentCache
from rerank_plugins.scoring.dispatch import Worker
from rerank_plugins.scoring.engines.base import Engine
from rerank_plugins.scoring.engines.choice import choose_engine, computes, runs_on_cpu_alone
from rerank_plugins.scoring.engines.factory import engine_notes, make_engine
from rerank_plugins.scoring.engines.precision import cpu_dtype, cuda_dtype
from rerank_plugins.scoring.flight import Row
from rerank_plugins.scoring.loading import canonical_name, find_model
from rerank_plugins.scoring.pairs import PairEncoder
from rerank_plugins.scoring.protocol import ScorerInfo
from rerank_plugins.settings import ScorerSettings

__all__ = ["Held", "Loaded", "acquire", "default_device", "loaded_models"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """A model that is ready: tokenising, the worker with its engine, and what was chosen."""

    encoder: PairEncoder
    worker: Worker
    info: ScorerInfo
    scores: ContentCache[Row]
    # Tokenises for async callers where the worker does not, off the event loop; one thread fills all cores.
    tokenizing: Executor

    def close(self) -> None:
        """Stop both threads and free the weights."""
        # What waits there is tokenised, and then told that the worker is closed: asyncio would take what is
        # cancelled for a cancelled task.
        self.tokenizing.shutdown(wait=False)
        self.worker.close()


@dataclass(eq=False)
class Held:
    """A model that some scorers use; `release` gives it back.

    Attributes:
        key: The settings under which others find it.
        process: Where it is: a forked child has neither its threads nor anything to free.
        lock: Held while it is loaded.
        users: How many there are.
        loaded: None until it is.
    """

    key: ScorerSettings
    process: int = field(default_factory=os.getpid)
    lock: threading.Lock = field(default_factory=threading.Lock)
    users: int = 0
    loaded: Loaded | None = None

    @property
    def ended(self) -> bool:
        """Whether it scores no more, though it is still held: an engine's thread came to its end."""
        return self.loaded is not None and self.loaded.worker.closed

    def release(self) -> None:
        """Give the model back; the last user's release closes it."""
        if self.process != os.getpid():
            return
        with _guard:
            self.users -= 1
            if self.users:
                return
            if _held.get(self.key) is self:
                del _held[self.key]
        if self.loaded is not None:
            self.loaded.close()


_held: dict[ScorerSettings, Held] = {}
# Reentrant: garbage collection may release a scorer in the middle of an acquire.
_guard = threading.RLock()


def _forget() -> None:
    """Start afresh in a forked child: threads do not survive a fork."""
    global _guard
    _guard = threading.RLock()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def acquire(settings: ScorerSettings) -> tuple[Held, Loaded]:
    """Return a model and what to release it with, loading it unless an equal one is loaded.

    Raises:
        ModelError: If the model cannot be loaded.
        InvalidInputError: If the device is not there.
    """
    key, reasons = _resolve(settings)
    with _guard:
        held = _held.get(key)
        if held is None or held.ended:
            held = _held[key] = Held(key)
        held.users += 1
    try:
        # Held while loading: others who want the same model wait for it instead of loading again.
        with held.lock:
            if held.loaded is None:
                held.loaded = _load(key, reasons)
            return held, held.loaded
    except BaseException:
        held.release()
        raise


def loaded_models() -> list[ScorerInfo]:
    """Return what is loaded in this process now."""
    with _guard:
        return [held.loaded.info for held in _held.values() if held.loaded is not None]


def default_device() -> str:
    """Return the device that `"auto"` is here."""
    return "cuda:0" if torch.cuda.is_available() else "cpu"


def _resolve(settings: ScorerSettings) -> tuple[ScorerSettings, dict[str, str]]:
    """Return settings with the model's canonical name and no "auto" in devices and dtype, and why."""
    reasons = {}
    dtype: str = settings.dtype
    if settings.device == "auto" and settings.devices is None:
        devices: tuple[str, ...] = (default_device(),)
        reasons["device"] = f"auto: torch {torch.__version__} sees {torch.cuda.device_count()} GPUs"
        cpu_alone = runs_on_cpu_alone(settings)
        if cpu_alone:
            devices, reasons["device"] = ("cpu",), f"auto: {cpu_alone} runs there alone"
    else:
        devices = tuple(_existing(name) for name in _asked(settings))
    if dtype == "auto":
        dtype, reasons["dtype"] = cpu_dtype() if devices[0] == "cpu" else cuda_dtype()
        if settings.engine != "auto" and not computes(settings.engine, dtype):
            dtype, reasons["dtype"] = "float32", f"auto: engine {settings.engine!r} has no {dtype} here"
    chosen = {
        "model": canonical_name(settings.model),
        "device": devices[0],
        "devices": devices if len(devices) > 1 else None,  # one is one, however it was given
        "dtype": dtype,
    }
    return settings.model_copy(update=chosen), reasons


def _asked(settings: ScorerSettings) -> tuple[str, ...]:
    """Return the devices that were asked for."""
    if settings.devices is None:
        return (settings.device,)
    if settings.device != "auto":
        msg = f"give either device or devices, but got {settings.device!r} and {settings.devices}"
        raise InvalidInputError(msg)
    if len({name.split(":")[0] for name in settings.devices}) > 1:
        msg = f"devices must be of one kind, but got {settings.devices}; make a scorer for each kind"
        raise InvalidInputError(msg)
    return settings.devices


def _existing(device: str) -> str:
    """Return a device's name with its number, after a look whether it is there."""
    if device == "cpu":
        return device
    name = device if ":" in device else f"{device}:0"
    if int(name.split(":")[1]) >= torch.cuda.device_count():
        msg = (
            f"device must be one torch can use, but got {device!r} and torch "
            f"{torch.__version__} sees {torch.cuda.device_count()} CUDA devices; use "
            'device="auto" to fall back to the CPU, or install a torch with CUDA'
        )
        raise InvalidInputError(msg)
    return name


def _load(settings: ScorerSettings, reasons: dict[str, str]) -> Loaded:
    found = find_model(settings)
    engine_name, why = choose_engine(settings, found.config)
    settings = settings.model_copy(update={"engine": engine_name})
    max_length = _limit(settings.max_length, found.max_length)
    encoder = PairEncoder(
        found.tokenizer,
        max_length=max_length,
        max_query_tokens=settings.max_query_tokens,
        cache_bytes=settings.token_cache_bytes,
    )
    devices = settings.devices or (settings.device,)
    engines: list[Engine] = []
    with ExitStack() as made:  # what was made gives its memory back if the rest fails
        try:
            for name in devices:
                engines.append(make_engine(settings.model_copy(update={"device": name}), found))
                made.callback(engines[-1].close)
        except torch.OutOfMemoryError as error:
            msg = (
                f"{found.model} must fit into the free memory of {', '.join(devices)}, but did not "
                f"({error}); free some, or choose another device or a smaller dtype"
            )
            raise ModelError(msg) from error
        max_batch_tokens = min(
            _batch_tokens(settings, name, found.config, engine.memory, max_length)
            for name, engine in zip(devices, engines, strict=True)
        )
        worker = Worker(
            engines,
            max_batch_tokens,
            encoder,
            batch_cost=BATCH_COST[devices[0].split(":")[0]],
            max_queue_tokens=settings.max_queue_tokens,
        )
        made.pop_all()
    info = ScorerInfo(
        model=found.model,
        revision=found.revision,
        device=",".join(devices),
        dtype=settings.dtype,
        engine=engines[0].name,
        max_length=max_length,
        max_query_tokens=encoder.max_query_tokens,
        max_batch_tokens=max_batch_tokens,
        memory=sum(engine.memory for engine in engines),
        reasons=reasons | found.notes | {"engine": why} | engine_notes(settings, found.config),
    )
    chosen = (
        f"{what} {getattr(info, what)}" + (f" ({info.reasons[what]})" if what in info.reasons else "")
        for what in ("engine", "device", "dtype")
    )
    logger.info("loaded %s: %s, %.1f MB", info.model, ", ".join(chosen), info.memory / 1e6)
    tokenizing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rerank-tokenizer")
    # Equal settings share this too: a remembered score is of this model, revision and precision.
    return Loaded(encoder, worker, info, ContentCache(settings.score_cache_size), tokenizing)


def _batch_tokens(
    settings: ScorerSettings, device: str, config: Mapping[str, Any], weights: int, max_length: int
) -> int:
    if settings.max_batch_tokens is not None:
        return settings.max_batch_tokens
    if device == "cpu":
        return cpu_batch_tokens(config, torch.get_num_threads())
    free, _ = torch.cuda.mem_get_info(device)
    dtype = getattr(torch, settings.dtype)
    limit = settings.max_device_memory
    return cuda_batch_tokens(config, dtype, free=free, limit=limit, weights=weights, least=max_length)


def _limit(wanted: int | None, possible: int) -> int:
    if wanted is not None and wanted > possible:
        msg = f"max_length must be at most {possible} for this model, but got {wanted}"
        raise InvalidInputError(msg)
    return wanted or possible
