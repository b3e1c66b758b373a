"""Which precision a CPU is fastest in, found by measuring once."""

import functools
import time

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody reads

__all__ = ["cpu_dtype", "cuda_dtype", "has_avx512", "has_vnni", "tf32_note"]

# A feed-forward matmul of MiniLM on a small batch.
_TOKENS, _HIDDEN, _INTERMEDIATE = 512, 384, 1536
# What bfloat16 must win on the matmul, since the rest of the network gains less.
_WORTHWHILE = 1.25


@functools.cache
def cpu_dtype() -> tuple[str, str]:
    """Return the default precision on this CPU, `"bfloat16"` or `"float32"`, and why."""
    if not _has_bfloat16():
        return "float32", "auto: this CPU has no bfloat16 instructions"
    gain = _matmul_seconds(torch.float32) / _matmul_seconds(torch.bfloat16)
    chosen = "bfloat16" if gain >= _WORTHWHILE else "float32"
    return chosen, f"auto: bfloat16 matmuls measured {gain:.1f} times as fast as float32 on this CPU"


def cuda_dtype() -> tuple[str, str]:
    """Return the default precision on CUDA, and why.

    The distance to float32 was measured on CPU, with the bundled model on the demo's passages: 0.003 at most
    for float16, 0.024 for bfloat16 (benchmarks/accuracy.py --queries 1). A model whose activations
    overflow float16 is refused by the check of its logits.
    """
    return "float16", "auto: on an H200 as fast as bfloat16 within a twentieth, and closer to float32"


def tf32_note() -> str:
    """Say whether float32 matmuls on CUDA are TF32, which is the process's setting and not ours to change."""
    matmul = torch.backends.cuda.matmul
    # Newer torch has a second switch; where a process used that, asking the first one raises.
    precision = getattr(matmul, "fp32_precision", None)
    tf32 = matmul.allow_tf32 if precision is None else precision == "tf32"
    if tf32:
        return "on, by torch.backends.cuda.matmul in this process: float32 is not exact"
    return 'off; torch.set_float32_matmul_precision("high") turns it on for the whole process'


def has_avx512() -> bool:
    """Say whether the CPU computes on 512 bits at once."""
    return bool(torch.cpu._is_avx512_supported())


def has_vnni() -> bool:
    """Say whether the CPU multiplies int8 in one instruction (AVX-512 VNNI, and so AMX)."""
    return bool(torch.cpu._is_vnni_supported())


def _has_bfloat16() -> bool:
    """Say whether oneDNN has bfloat16 kernels for this CPU: AVX-512 BF16, AMX, Arm BF16."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@torch.inference_mode()
def _matmul_seconds(dtype: torch.dtype, repeats: int = 8) -> float:
    """Return the best time of a matmul, which is the one least disturbed."""
    x = torch.randn(_TOKENS, _HIDDEN).to(dtype)
    weight = torch.randn(_INTERMEDIATE, _HIDDEN).to(dtype)
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        F.linear(x, weight)
        best = min(best, time.perf_counter() - started)
    return best
