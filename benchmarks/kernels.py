"""What a layer's parts cost on a GPU, and which ways to write them pay.

    python benchmarks/kernels.py [--device cuda:0] [--output FOLDER]

One batch of MS MARCO's lengths is on the device; every variant runs on it by turns. Speed is of
MiniLM-L12's shape with random weights, the distance to float32 of the bundled model on the demo's passages.
"""

import copy
import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from cuda import checkpoint, show
from rich.console import Console
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from rerank_plugins import CrossEncoderScorer, ScorerSettings
from rerank_plugins.bench.flops import matmul_peak, needed_flops
from rerank_plugins.bench.workload import LENGTHS, make_topics
from rerank_plugins.demo.data import load_passages, load_queries
from rerank_plugins.scoring.engines.attention import choose_attention
from rerank_plugins.scoring.engines.batches import pack
from rerank_plugins.scoring.engines.bert import BertLayer, BertNetwork
from rerank_plugins.scoring.engines.operators import PLAIN, Operators, choose_operators
from rerank_plugins.scoring.engines.packed import PackedNetwork
from rerank_plugins.scoring.loading import find_model, load_weights
from rerank_plugins.scoring.pairs import EncodedPairs

MEMBER = "ms-marco-MiniLM-L12-v2"
TOKENS = 65_536
ROUNDS = 15


def exact(layer: BertLayer, x: Tensor, mixed: Tensor) -> Tensor:
    """Fuse sums and norms, and leave GELU as it is."""
    from rerank_plugins.scoring.engines.kernels import add_norm

    x = add_norm(x, layer.out(mixed), layer.attention_norm)
    return add_norm(x, layer.down(layer.activation(layer.up(x))), layer.output_norm)


class Fp8Linear(nn.Module):
    """A linear layer in float8 (e4m3): weights scaled a tensor, activations as they are."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.abs().amax().float() / 448
        self.weight = (linear.weight.float() / scale).to(torch.float8_e4m3fn)
        self.scale, self.one = scale, torch.ones_like(scale)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """Return [rows, out features]."""
        narrow = x.clamp(-448, 448).to(torch.float8_e4m3fn)
        product: Tensor = torch._scaled_mm(
            narrow, self.weight.t(), self.one, self.scale, bias=self.bias, out_dtype=x.dtype
        )
        return product


def to_fp8(network: BertNetwork) -> BertNetwork:
    """Return a copy whose full layers multiply in float8."""
    network = copy.deepcopy(network)
    for layer in network.encoder.layers:
        for name in ("qkv", "out", "up", "down"):
            setattr(layer, name, Fp8Linear(getattr(layer, name)))
    return network


def variants(device: torch.device, dtype: torch.dtype) -> dict[str, tuple[Operators, bool]]:
    """Return what surrounds attention, by name, and whether products are float8's."""
    found: dict[str, tuple[Operators, bool]] = {"torch's own": (PLAIN, False)}
    shipped, _ = choose_operators(device, dtype, "gelu")
    if shipped is not PLAIN:
        sums = Operators(shipped.look_up, exact)
        found |= {
            "sums and norms": (sums, False),
            "and GELU by tanh in the product: shipped": (shipped, False),
            "sums and norms, float8": (sums, True),
        }
    compiled = torch.compile(BertLayer.feed_forward, dynamic=True)
    return found | {"torch.compile": (Operators(PLAIN.look_up, compiled), False)}


class Batch:
    """A batch on the device."""

    def __init__(self, pairs: EncodedPairs, device: torch.device) -> None:
        packed = pack(pairs, np.arange(len(pairs)))
        self.array = torch.from_numpy(packed.array).to(device)
        self.shape, self.longest = packed.shape, packed.longest

    def run(self, network: PackedNetwork) -> Tensor:
        """Return the logits."""
        with torch.inference_mode():
            logits: Tensor = network(self.array, self.shape, self.longest)
        return logits


def load(model: str, dtype: torch.dtype, device: torch.device) -> BertNetwork:
    """Return a network on the device."""
    found = find_model(ScorerSettings(model=model))
    return BertNetwork(found.config, load_weights(found.folder), dtype).to(device)


def make(network: BertNetwork, operators: Operators, *, fp8: bool) -> PackedNetwork:
    """Return a variant of a network."""
    parameter = next(network.encoder.parameters())
    size = network.config.hidden_size // network.config.heads
    attention, _ = choose_attention(parameter.device, parameter.dtype, size)
    return PackedNetwork(to_fp8(network) if fp8 else network, attention, operators).to(parameter.device)


def encode(model: str, topics: Sequence[tuple[str, Sequence[str]]]) -> EncodedPairs:
    """Return token ids."""
    with CrossEncoderScorer(model, device="cpu", engine="torch", dtype="float32") as scorer:
        return scorer._loaded.encoder.encode([(query, text) for query, texts in topics for text in texts])


def milliseconds(work: Callable[[], Any], device: torch.device) -> float:
    """Return the time on the device."""
    if device.type != "cuda":
        import time

        started = time.perf_counter()
        work()
        return 1000 * (time.perf_counter() - started)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    work()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


def compare(folder: Path, dtype: torch.dtype, device: torch.device, tokens: int) -> list[dict[str, Any]]:
    """Return time, share of the card's rate, and distance to float32 of every variant."""
    model = checkpoint(MEMBER, folder)
    pairs = encode(model, make_topics(LENGTHS["msmarco"], queries=1, candidates=tokens // 60, seed=1))
    pairs = pairs.take(np.flatnonzero(np.cumsum(pairs.lengths) <= tokens))
    batch = Batch(pairs, device)
    config = json.loads((Path(model) / "config.json").read_text())
    floor = 1000 * needed_flops(config, pairs.lengths) / (1e9 * matmul_peak(dtype, str(device)))
    texts = [passage.text for passage in load_passages()]
    real = Batch(encode("bundled", [(query.text, texts) for query in load_queries()[:4]]), device)
    exact = real.run(make(load("bundled", torch.float32, device), PLAIN, fp8=False))
    large, small = load(model, dtype, device), load("bundled", dtype, device)
    rows, networks = [], {}
    for name, (operators, fp8) in variants(device, dtype).items():
        try:
            networks[name] = make(large, operators, fp8=fp8)
            distance = (real.run(make(small, operators, fp8=fp8)) - exact).abs().max().item()
            for _ in range(3):
                batch.run(networks[name])
            rows.append({"variant": name, "ms": 0.0, "distance to float32": distance})
        except Exception as error:  # noqa: BLE001 - the others still count
            networks.pop(name, None)
            rows.append({"variant": name, "failed": f"{type(error).__name__}: {error}"[:200]})
    times: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(ROUNDS):
        for name, network in networks.items():
            times[name].append(milliseconds(lambda network=network: batch.run(network), device))
    for row in rows:
        if row["variant"] in times:
            row["ms"] = statistics.median(times[row["variant"]])
            row["share of peak"] = floor / row["ms"]
            row["tokens"] = int(pairs.lengths.sum())
    return rows


def products(dtype: torch.dtype, device: torch.device, tokens: int) -> list[dict[str, Any]]:
    """Return what the products of a layer cost each."""
    shapes = {"qkv": (384, 1152), "out": (384, 384), "up": (384, 1536), "down": (1536, 384)}
    rows = []
    for name, (inner, columns) in shapes.items():
        x = torch.randn(tokens, inner, device=device, dtype=dtype)
        linear = nn.Linear(inner, columns, device=device, dtype=dtype)
        ways: dict[str, Callable[[], Any]] = {name: lambda x=x, linear=linear: linear(x)}
        if name == "up":
            ways["up, then GELU"] = lambda x=x, linear=linear: nn.functional.gelu(linear(x))
            ways["up with GELU by tanh"] = lambda x=x, linear=linear: torch._addmm_activation(
                linear.bias, x, linear.weight.t(), use_gelu=True
            )
        for way, work in ways.items():
            try:
                with torch.inference_mode():
                    for _ in range(3):
                        work()
                    took = statistics.median(milliseconds(work, device) for _ in range(ROUNDS))
            except Exception as error:  # noqa: BLE001 - the others still count
                rows.append({"product": way, "failed": f"{type(error).__name__}: {error}"[:120]})
                continue
            flops = 2 * tokens * inner * columns
            rows.append({"product": way, "ms": took, "TFLOP/s": flops / took / 1e9})
    return rows


def where_it_goes(folder: Path, dtype: torch.dtype, device: torch.device) -> str:
    """Return the time of one batch by kernel, as shipped."""
    pairs = encode(str(folder / MEMBER), make_topics(LENGTHS["msmarco"], queries=1, candidates=800, seed=2))
    batch = Batch(pairs, device)
    shipped, _ = choose_operators(device, dtype, "gelu")
    network = make(load(str(folder / MEMBER), dtype, device), shipped, fp8=False)
    batch.run(network)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        batch.run(network)
        if device.type == "cuda":
            torch.cuda.synchronize()
    order = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    table: str = profiler.key_averages().table(sort_by=order, row_limit=18, max_name_column_width=60)
    return table


def main(
    device: Annotated[str, typer.Option(help="Where to run.")] = "cuda:0",
    tokens: Annotated[int, typer.Option(help="Of the batch.")] = TOKENS,
    output: Annotated[Path | None, typer.Option(help="Folder for JSON and the profile.")] = None,
) -> None:
    """Measure, print, and write."""
    console = Console(width=150)
    place = torch.device(device)
    card = torch.cuda.get_device_name(place) if place.type == "cuda" else "CPU"
    found: dict[str, Any] = {"card": card, "torch": torch.__version__}
    with tempfile.TemporaryDirectory() as folder:
        for dtype in (torch.float16, torch.bfloat16):
            name = str(dtype).removeprefix("torch.")
            found[f"products, {name}"] = products(dtype, place, tokens)
            show(console, f"{card}: products, {name}", found[f"products, {name}"])
            found[name] = compare(Path(folder), dtype, place, tokens)
            show(console, f"{card}: {MEMBER}, {name}", found[name])
            if output:
                output.mkdir(parents=True, exist_ok=True)
                (output / "kernels.json").write_text(json.dumps(found, indent=2) + "\n")
        profiled = where_it_goes(Path(folder), torch.float16, place)
        console.print(profiled, markup=False)
        if output:
            (output / "kernels-profile.txt").write_text(profiled + "\n")


if __name__ == "__main__":
    typer.run(main)
