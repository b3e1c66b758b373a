"""What surrounds attention: chosen with a reason, and the kernels compute what they replace."""

import os
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from rerank_plugins.scoring.engines.operators import PLAIN, choose_operators

CUDA = torch.device("cuda")


@pytest.mark.parametrize(
    ("device", "dtype", "activation", "capability", "reason"),
    [
        (torch.device("cpu"), torch.float16, "gelu", (9, 0), "for CUDA"),
        (CUDA, torch.float32, "gelu", (9, 0), "for half precision"),
        (CUDA, torch.float16, "relu", (9, 0), "this model relu"),
        (CUDA, torch.float16, "gelu", (7, 5), "compute capability 8.0"),
    ],
)
def test_torchs_own_where_the_kernels_do_not_serve(
    device, dtype, activation, capability, reason, monkeypatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    chosen, why = choose_operators(device, dtype, activation)
    assert chosen is PLAIN
    assert reason in why


def test_torchs_own_without_triton(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setitem(sys.modules, "triton.runtime", None)
    chosen, why = choose_operators(CUDA, torch.bfloat16, "gelu")
    assert chosen is PLAIN
    assert "Triton cannot be imported" in why


def test_torchs_own_where_triton_cannot_compile(monkeypatch) -> None:
    class Driver:
        @property
        def active(self) -> object:
            raise RuntimeError("Failed to find C compiler.")  # as Triton 3.6 says

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setitem(sys.modules, "triton", ModuleType("triton"))
    monkeypatch.setitem(sys.modules, "triton.runtime", SimpleNamespace(driver=Driver()))
    chosen, why = choose_operators(CUDA, torch.float16, "gelu")
    assert chosen is PLAIN
    assert "Failed to find C compiler" in why


INTERPRETED = """
import torch
from torch.nn.functional import layer_norm
from rerank_plugins.scoring.engines.kernels import add_norm

torch.manual_seed(0)
for dtype, bound in ((torch.float32, 1e-5), (torch.float16, 5e-3)):
    for rows, width in ((1, 128), (7, 384), (131, 384)):
        x, y = torch.randn(2, rows, width).to(dtype)
        norm = torch.nn.LayerNorm(width, eps=1e-12).to(dtype)
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
        first, second = torch.randint(0, rows, (2, 50))
        cases = ((x, y, None), (x[first], y[second], (first.int(), second)))
        for left, right, taken in cases:
            total = left.float() + right.float()
            wanted = layer_norm(total, (width,), norm.weight.float(), norm.bias.float(), norm.eps)
            found = add_norm(x, y, norm, taken)
            assert (found.float() - wanted).abs().max() < bound, (dtype, rows, width, taken is None)
"""


def test_sum_and_norm_in_triton_s_interpreter() -> None:
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("gathers", [True, False])
def test_kernels_compile_for_the_cards_they_are_for(capability: int, gathers: bool) -> None:
    """The interpreter takes what the compiler refuses, such as annotations; compiling needs no card."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from rerank_plugins.scoring.engines.kernels import _add_norm

    arrays = dict.fromkeys(("x", "y", "weight", "bias", "out"), "*fp16")
    rows = {"x_rows": "*i32", "y_rows": "*i64"} if gathers else {"x_rows": "*fp16", "y_rows": "*fp16"}
    constants = {"width": 384, "gathers": gathers, "ROWS": 4, "COLUMNS": 512}
    types = arrays | rows | {"rows": "i32", "eps": "fp32"} | dict.fromkeys(constants, "constexpr")
    source = ASTSource(_add_norm, {name: types[name] for name in _add_norm.arg_names}, constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    assert f"sm_{capability}" in compiled.asm["ptx"]
