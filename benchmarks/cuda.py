"""Everything docs/performance.md says of a GPU, in one command and under ten minutes on an H200.

    python benchmarks/cuda.py [--device cuda:0] [--output FOLDER]

Needs sentence-transformers and scipy. Weights are random where a member is named: speed does not depend on
values. `--device cpu --quick` runs the same code on small numbers, to try the script where there is no
GPU.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch.profiler import ProfilerActivity, profile

from rerank_plugins import CrossEncoderScorer, RerankError
from rerank_plugins.bench.models import make_random_checkpoint
from rerank_plugins.bench.report import machine, tables
from rerank_plugins.bench.run import Plan, run_benchmark
from rerank_plugins.bench.workload import LENGTHS, make_topics
from rerank_plugins.scoring import family

MEMBERS = (
    "ms-marco-TinyBERT-L2-v2",
    "ms-marco-MiniLM-L2-v2",
    "ms-marco-MiniLM-L4-v2",
    "ms-marco-MiniLM-L6-v2",
    "ms-marco-MiniLM-L12-v2",
)
# Of the model cards (huggingface.co/cross-encoder), on a V100: another card's.
V100_DOCUMENTS_PER_SECOND = dict(zip(MEMBERS, (9000, 4100, 2500, 1800, 960), strict=True))
PEERS = ("sentence-transformers", "sentence-transformers bf16", "sentence-transformers fp16")
# Tried for the peer, which has no default for a GPU; its best counts.
PEER_BATCH_SIZES = (32, 256)


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    device: str
    ours: tuple[str, ...]
    members: tuple[str, ...]
    candidates: int
    rounds: int
    callers: int
    streamed: int


def full(device: str) -> Size:
    """Return what the page shows."""
    return Size(device, ("torch:float32", "torch:bfloat16", "torch:float16"), MEMBERS, 1000, 5, 64, 100_000)


def quick(device: str) -> Size:
    """Return as little as runs every line."""
    ours = ("torch:float32",) if device == "cpu" else ("torch:float32", "torch:float16")
    return Size(device, ours, MEMBERS[:1], 40, 1, 4, 500)


def base_plan(size: Size, member: str) -> Plan:
    """Return strings to scores against sentence-transformers, on a member's shape."""
    return Plan(
        model=member,
        ours=size.ours,
        peers=PEERS,
        candidates=(size.candidates,),
        rounds=size.rounds,
        random_weights=True,
        device=size.device,
        peer_batch_size=PEER_BATCH_SIZES[-1],
    )


def plans(size: Size) -> Iterator[tuple[str, Plan]]:
    """Yield names and plans: throughput, the peer's batch size, latency, callers."""
    for member in size.members:
        for lengths in LENGTHS:
            yield f"{member}, {lengths}", replace(base_plan(size, member), lengths=lengths)
    last = size.members[-1]
    cached = replace(base_plan(size, last), repeat_documents=True, peers=())
    yield f"{last}, documents seen before", cached
    interactive = size.members[min(3, len(size.members) - 1)]
    plan = base_plan(size, interactive)
    for batch_size in PEER_BATCH_SIZES[:-1]:
        yield f"{interactive}, peer's batch size {batch_size}", replace(plan, peer_batch_size=batch_size)
    yield (
        f"{interactive}, latency, documents seen before",
        replace(plan, candidates=(20, 50, 100), queries=20, repeat_documents=True),
    )
    yield (
        f"{interactive}, callers",
        replace(plan, ours=size.ours[-1:], peers=(), callers=(1, size.callers), requests=20),
    )


def texts(count: int, seed: int = 0) -> list[str]:
    """Return distinct passages of MS MARCO's lengths."""
    return make_topics(LENGTHS["msmarco"], queries=1, candidates=count, seed=seed)[0][1]


def measure_memory(model: str, size: Size) -> dict[str, Any]:
    """Return MiB at the device's peak for 1,000 documents and for many, and what closing leaves."""
    if not size.device.startswith("cuda"):
        return {"not run": "no CUDA device"}
    found = {}
    before = torch.cuda.memory_reserved(size.device)
    with CrossEncoderScorer(model, device=size.device) as scorer:
        for count in (1_000, size.streamed):
            torch.cuda.reset_peak_memory_stats(size.device)
            documents = (text for start in range(0, count, 1000) for text in texts(1000, start))
            scorer.score("how do I reset my router?", documents)
            found[f"{count:,} documents"] = torch.cuda.max_memory_allocated(size.device) / 2**20
    found["left after close"] = (torch.cuda.memory_reserved(size.device) - before) / 2**20
    return {name: round(value, 1) for name, value in found.items()}


def survive_out_of_memory(model: str, size: Size) -> dict[str, Any]:
    """Return what a call cost and changed whose batches are too large for the memory there is."""
    if not size.device.startswith("cuda"):
        return {"not run": "no CUDA device"}
    documents = texts(4_000, 5)
    with CrossEncoderScorer(model, device=size.device, cuda_graphs="off") as scorer:
        expected = scorer.score("how do I reset my router?", documents)
    total = torch.cuda.get_device_properties(size.device).total_memory
    with CrossEncoderScorer(model, device=size.device, cuda_graphs="off", max_batch_tokens=2**20) as greedy:
        # Room for the weights and about a tenth of what the batches ask for.
        room = torch.cuda.memory_reserved(size.device) + 2**28
        torch.cuda.set_per_process_memory_fraction(room / total, size.device)
        try:
            scores = greedy.score_detailed("how do I reset my router?", documents)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, size.device)
    return {
        "batches halved": scores.out_of_memory,
        "largest difference of logits": float(abs(scores.logits - expected).max()),
    }


def profile_a_call(model: str, size: Size) -> str:
    """Return where the time of one call goes, by kernel."""
    cuda = size.device.startswith("cuda")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    documents = texts(size.candidates, 9)
    with CrossEncoderScorer(model, device=size.device) as scorer:
        scorer.score("warm up", documents)
        with profile(activities=activities) as profiler:
            started = time.perf_counter()
            scorer.score("how do I reset my router?", documents)
            seconds = time.perf_counter() - started
    order = "self_device_time_total" if cuda else "self_cpu_time_total"
    table: str = profiler.key_averages().table(sort_by=order, row_limit=25)
    return f"{size.candidates} documents in {1000 * seconds:.1f} ms\n{table}"


def guarded(part: Callable[..., Any], *arguments: Any) -> Any:
    """Return a part's findings, or the error in their place: the other parts still count."""
    try:
        return part(*arguments)
    except (RerankError, RuntimeError) as error:
        return {"failed": f"{type(error).__name__}: {error}"}


def main(
    device: Annotated[str, typer.Option(help="cuda:N, or cpu with --quick.")] = "cuda:0",
    small: Annotated[bool, typer.Option("--quick", help="Small numbers, to try the script.")] = False,
    output: Annotated[Path | None, typer.Option(help="Folder for JSON and the profile.")] = None,
) -> None:
    """Measure, print, and write."""
    size = quick(device) if small else full(device)
    console = Console(width=130)
    card = torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"
    console.print(f"[bold]{card}[/], torch {torch.__version__}; model cards on a V100, documents a second:")
    console.print({name: V100_DOCUMENTS_PER_SECOND[name] for name in size.members})
    found: dict[str, Any] = {"card": card, "machine": machine(), "runs": {}}
    with tempfile.TemporaryDirectory() as folder:
        last = family.find(size.members[-1])
        assert last is not None  # noqa: S101 - a name of ours
        model = str(make_random_checkpoint(last, Path(folder) / "model"))
        with CrossEncoderScorer(model, device=device) as scorer:
            found["info"] = asdict(scorer.info)
            console.print(scorer.info.reasons)
        for name, plan in plans(size):
            report = guarded(run_benchmark, plan)
            console.print(f"\n[bold]{name}[/]")
            if isinstance(report, dict):
                console.print(report)
                found["runs"][name] = report
                continue
            for table in tables(report):
                console.print(table)
            found["runs"][name] = json.loads(report.to_json())
        for key, part in (("memory_mib", measure_memory), ("out_of_memory", survive_out_of_memory)):
            found[key] = guarded(part, model, size)
            console.print(key, found[key])
        table = guarded(profile_a_call, model, size)
        console.print(table, markup=False)
    if output:
        output.mkdir(parents=True, exist_ok=True)
        (output / "cuda.json").write_text(json.dumps(found, indent=2) + "\n")
        (output / "cuda-profile.txt").write_text(f"{table}\n")


if __name__ == "__main__":
    typer.run(main)
