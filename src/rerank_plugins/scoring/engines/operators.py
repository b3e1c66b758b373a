"""What surrounds attention: torch's own operators, or kernels that move less memory."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rerank_plugins.scoring.engines.bert import BertEmbeddings, BertLayer

__all__ = ["PLAIN", "Operators", "choose_operators"]


class Operators(NamedTuple):
    """The two parts of the network that have more than one implementation.

    Attributes:
        look_up: `BertEmbeddings.look_up`: (embeddings, word ids, rows of places) to [tokens, hidden].
        feed_forward: `BertLayer.feed_forward`: (layer, its input, what attention mixed) to its output,
            [tokens, hidden] each.
    """

    look_up: Callable[[BertEmbeddings, Tensor, Tensor], Tensor]
    feed_forward: Callable[[BertLayer, Tensor, Tensor], Tensor]


PLAIN = Operators(BertEmbeddings.look_up, BertLayer.feed_forward)


def choose_operators(device: torch.device, dtype: torch.dtype, activation: str) -> tuple[Operators, str]:
    """Return the operators for a device, a precision and an activation, and why these."""
    obstacle = _kernels_obstacle(device, dtype, activation)
    if obstacle is not None:
        return PLAIN, f"torch's own: {obstacle}"
    from rerank_plugins.scoring.engines import kernels

    return (
        Operators(kernels.look_up, kernels.feed_forward),
        "sums and norms in one pass by Triton; GELU by tanh, within half precision's rounding, by cuBLAS",
    )


def _kernels_obstacle(device: torch.device, dtype: torch.dtype, activation: str) -> str | None:
    """Say why our kernels cannot be used, or None if they can."""
    if device.type != "cuda":
        return "the kernels are for CUDA"
    if dtype not in (torch.float16, torch.bfloat16):
        return "the kernels are for half precision"
    if activation not in ("gelu", "gelu_new", "gelu_pytorch_tanh"):
        return f"the kernels have GELU for an activation, and this model {activation}"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "the kernels need compute capability 8.0"
    if not hasattr(torch, "_addmm_activation"):
        return f"torch {torch.__version__} offers no product with an activation"
    try:
        from triton.runtime import driver
    except ImportError as error:
        return f"Triton cannot be imported ({error})"
    try:
        _ = driver.active  # builds a module in C once, as each kernel's launcher does
    except Exception as error:  # noqa: BLE001 - whatever a compiler that is missing leads to
        return f"Triton needs a C compiler and Python's headers ({type(error).__name__}: {error})"
    return None
