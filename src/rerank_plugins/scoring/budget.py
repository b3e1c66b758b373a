"""How many tokens a batch may have on a device, and what a batch costs besides them."""

from collections.abc import Mapping
from typing import Any

import torch

from rerank_plugins.errors import InvalidInputError

__all__ = ["BATCH_COST", "cpu_batch_tokens", "cuda_batch_tokens", "token_bytes"]

# What a batch costs besides its tokens, in tokens. On CPU measured from 10 (MiniLM-L6, ONNX Runtime) to
# 140 (MiniLM-L2, torch); on CUDA a guess, to be measured, for engines that pad there.
BATCH_COST = {"cpu": 48, "cuda": 4096}

# On CPU, numbers of the widest activation that a core's cache holds: 512 tokens a core for MiniLM.
# Measured on MiniLM-L6 with 1 MiB of cache: a third faster than 2,048.
_CPU_ACTIVATIONS = 512 * 1536
_LEAST_CPU_TOKENS = 512
# Beyond this a GPU gains nothing, and who comes next waits longer. A guess, to be measured.
_MOST_CUDA_TOKENS = 65536


def cpu_batch_tokens(config: Mapping[str, Any], threads: int) -> int:
    """Return the tokens of a batch on CPU.

    Args:
        config: The parsed `config.json`.
        threads: How many the engine computes with.
    """
    return max(_LEAST_CPU_TOKENS, _CPU_ACTIVATIONS * threads // _widest(config))


def cuda_batch_tokens(
    config: Mapping[str, Any], dtype: torch.dtype, *, free: int, limit: int | None, weights: int, least: int
) -> int:
    """Return the tokens of a batch on a CUDA device whose weights are loaded.

    Args:
        config: The parsed `config.json`.
        dtype: Precision of the body.
        free: Bytes that are free on the device now.
        limit: Bytes that weights and a batch may take together; None: half of `free` for the batch.
        weights: Bytes of the weights.
        least: Tokens of the longest pair, for which there must be memory.

    Raises:
        InvalidInputError: If there is no memory for `least` tokens.
    """
    room = free // 2 if limit is None else min(free, limit - weights)
    tokens = min(_MOST_CUDA_TOKENS, room // token_bytes(config, dtype))
    if tokens < least:
        need = (least * token_bytes(config, dtype) + weights) / 1e6
        what = f"{free / 1e6:.0f} MB are free" if limit is None else f"max_device_memory={limit}"
        msg = (
            f"the device must have memory for weights and one pair of {least} tokens, about "
            f"{need:.0f} MB, but {what}; free memory there, raise the limit, or lower max_length"
        )
        raise InvalidInputError(msg)
    return tokens


def token_bytes(config: Mapping[str, Any], dtype: torch.dtype) -> int:
    """Return the bytes that a token of a batch needs at most, by the arrays that live at once.

    The feed-forward layer's before and after its activation, or Q, K, V and the two times three copies
    that attention may make; besides them the layer's input, its sum, and a norm's float32 copy.
    """
    hidden = int(config.get("hidden_size", 768))
    numbers = max(2 * _widest(config), 9 * hidden) + 4 * hidden
    return numbers * dtype.itemsize


def _widest(config: Mapping[str, Any]) -> int:
    return int(config.get("intermediate_size") or 4 * config.get("hidden_size", 768))
