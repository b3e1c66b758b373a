"""How much arithmetic a score needs, and how much the machine can do."""

import functools
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


@functools.cache
@torch.inference_mode()
def matmul_peak(dtype: torch.dtype, device: str = "cpu", seconds: float = 1.0) -> float:
    """Return the best GFLOP/s of a matmul over about `seconds`: on CPU a feed-forward layer's of MiniLM.

    Measured once in a process.
    On CUDA a square one of 8,192, which a small layer does not come near to; numbers are random, as zeros
    draw less power and run faster.
    """
    sizes = [(tokens, 384, 1536) for tokens in (256, 512, 1024, 2048)]
    if device != "cpu":
        sizes = [(8192, 8192, 8192)]
    best = 0.0
    for rows, inner, columns in sizes:
        x = torch.randn(rows, inner, device=device).to(dtype)
        weight = torch.randn(columns, inner, device=device).to(dtype)
        until = time.perf_counter() + seconds / len(sizes)
        while time.perf_counter() < until:
            best = max(best, 2 * rows * inner * columns / _seconds(x, weight) / 1e9)
    return best


def _seconds(x: torch.Tensor, weight: torch.Tensor) -> float:
    """Return the time of one product; on CUDA of one among several, as the host is slower to ask."""
    if x.device.type == "cpu":
        started = time.perf_counter()
        torch.nn.functional.linear(x, weight)
        return time.perf_counter() - started
    repeats = 10
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    with torch.cuda.device(x.device):  # whose stream the events are for
        begin.record()
        for _ in range(repeats):
            torch.nn.functional.linear(x, weight)
        end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000 / repeats
