"""How much arithmetic a score needs, and how much the machine can do."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["matmul_peak", "needed_flops"]


def needed_flops(config: Mapping[str, Any], lengths: NDArray[np.int64]) -> float:
    """Return the floating-point operations that the logits of BERT pairs need, at the least.

    Every layer but the last: Q, K, V, output and feed-forward of each token, and attention. The last:
    [CLS] alone, its keys and values absorbed (see `scoring.engines.bert`). Norms, activations and the
    head are left out.

    Args:
        config: A parsed `config.json`.
        lengths: int64 [n], tokens of each pair.
    """
    hidden, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    layers, heads = int(config["num_hidden_layers"]), int(config["num_attention_heads"])
    tokens, squares, pairs = float(lengths.sum()), float(np.square(lengths).sum()), len(lengths)
    per_token = 4 * hidden**2 + 2 * hidden * inner
    full = 2 * tokens * per_token + 4 * hidden * squares
    last = 2 * pairs * per_token + 4 * heads * hidden * tokens
    return (layers - 1) * full + last


@torch.inference_mode()
def matmul_peak(dtype: torch.dtype, seconds: float = 1.0) -> float:
    """Return the best GFLOP/s of a feed-forward matmul of MiniLM, over about `seconds`."""
    best = 0.0
    for tokens in (256, 512, 1024, 2048):
        x, weight = torch.randn(tokens, 384).to(dtype), torch.randn(1536, 384).to(dtype)
        until = time.perf_counter() + seconds / 4
        while time.perf_counter() < until:
            started = time.perf_counter()
            torch.nn.functional.linear(x, weight)
            best = max(best, 2 * tokens * 384 * 1536 / (time.perf_counter() - started) / 1e9)
    return best
