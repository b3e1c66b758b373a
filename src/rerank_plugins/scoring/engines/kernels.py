"""What surrounds attention on a GPU in half precision, where a layer waits for memory, not for arithmetic.

Sums are written only to be read again by the norm behind them: Triton kernels do both in one pass, in float32
inside. The feed-forward layer before its activation is the largest array there is: cuBLAS applies GELU before
it writes. Its GELU is the approximation by tanh, which is 0.0005 from the exact one at most, about what half
precision rounds. No row depends on another. Measured on an H200: docs/performance.md.

Imported only where `choose_operators` finds Triton, which torch's CUDA builds for Linux bring.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from rerank_plugins.scoring.engines.bert import BertEmbeddings, BertLayer

__all__ = ["add_norm", "feed_forward", "look_up"]

_ROWS = 4  # rows that a block of threads takes
_WARPS = 4


# `rows` changes with every batch: were it specialised, kernels would be compiled in the middle of requests.
# Triton reads annotations, and takes none but its own.
@triton.jit(do_not_specialize=["rows"])  # type: ignore[untyped-decorator]
def _add_norm(  # type: ignore[no-untyped-def]
    x,
    y,
    x_rows,
    y_rows,
    weight,
    bias,
    out,
    rows,
    eps,
    width: tl.constexpr,
    gathers: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = row < rows
    x_row, y_row = row, row
    if gathers:
        x_row = tl.load(x_rows + row, mask=there, other=0).to(tl.int64)
        y_row = tl.load(y_rows + row, mask=there, other=0).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    inside = there[:, None] & (column < width)[None, :]
    total = tl.load(x + x_row[:, None] * width + column[None, :], mask=inside, other=0.0).to(tl.float32)
    total += tl.load(y + y_row[:, None] * width + column[None, :], mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(total, axis=1) / width
    centred = tl.where(inside, total - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, axis=1) / width
    normed = centred * tl.rsqrt(variance + eps)[:, None]
    scale = tl.load(weight + column, mask=column < width, other=0.0).to(tl.float32)
    shift = tl.load(bias + column, mask=column < width, other=0.0).to(tl.float32)
    result = normed * scale[None, :] + shift[None, :]
    tl.store(out + row[:, None] * width + column[None, :], result.to(out.dtype.element_ty), mask=inside)


def add_norm(x: Tensor, y: Tensor, norm: nn.LayerNorm, rows: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Return `norm(x + y)`, or `norm(x[rows[0]] + y[rows[1]])`.

    Args:
        x: [rows, width], contiguous.
        y: [rows, width], contiguous.
        norm: Over the width.
        rows: Integers [rows out] each: which rows to take; None: all, in order.
    """
    width = x.shape[1]
    x_rows, y_rows = rows or (x, y)  # not read where nothing is gathered
    count = len(x_rows)
    out = x.new_empty(count, width)
    _add_norm[(triton.cdiv(count, _ROWS),)](
        x,
        y,
        x_rows,
        y_rows,
        norm.weight,
        norm.bias,
        out,
        count,
        norm.eps,
        width,
        rows is not None,
        ROWS=_ROWS,
        COLUMNS=triton.next_power_of_2(width),
        num_warps=_WARPS,
    )
    return out


def look_up(embeddings: BertEmbeddings, ids: Tensor, rows: Tensor) -> Tensor:
    """Return what `BertEmbeddings.look_up` does, [tokens, hidden]."""
    return add_norm(embeddings.words, embeddings.places, embeddings.norm, (ids, rows))


def feed_forward(layer: BertLayer, x: Tensor, mixed: Tensor) -> Tensor:
    """Return what `BertLayer.feed_forward` does, [rows, hidden], with GELU by tanh."""
    x = add_norm(x, layer.out(mixed), layer.attention_norm)
    inner = torch._addmm_activation(layer.up.bias, x, layer.up.weight.t(), use_gelu=True)
    return add_norm(x, layer.down(inner), layer.output_norm)
