"""Everything docs/performance.md says of a GPU, in one command and under ten minutes on an H200.

    python benchmarks/cuda.py [--device cuda:0] [--topics topics.jsonl] [--output FOLDER]

Needs sentence-transformers and scipy. Weights are random where a member is named: speed does not depend on
values. `--topics` adds runs on texts of your own, each new: `benchmarks/real_topics.py` writes such a file.
`--device cpu --quick` runs the same code on small numbers, to try the script where there is no GPU.
"""

import asyncio
import gc
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity, profile

from rerank_plugins import CrossEncoderScorer
from rerank_plugins.bench.flops import matmul_peak, needed_flops
from rerank_plugins.bench.measure import Load, measure_callers, measure_tasks
from rerank_plugins.bench.models import make_random_checkpoint
from rerank_plugins.bench.report import machine, tables
from rerank_plugins.bench.run import Plan, run_benchmark
from rerank_plugins.bench.workload import LENGTHS, make_topics
from rerank_plugins.scoring import family
from rerank_plugins.scoring.engines.base import Launched
from rerank_plugins.scoring.engines.packed import PackedEngine
from rerank_plugins.scoring.pairs import EncodedPairs

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
PEER_BATCH_SIZE, OTHER_BATCH_SIZES = 256, (32, 1000)
WITHOUT_CUDNN = "peer without cuDNN's attention"
QUERY = "how do I reset my router?"
# Requests at once where token ids are in hand, and calls one after the other where strings are.
AT_ONCE, CALLS = 8, 5
# In this order: what memory takes is the process's peak, so nothing comes before it.
PARTS = ("memory_mib", "floor", "callers", "runs", "summary", "parity", "out_of_memory", "profile")
CALLER_DOCUMENTS, CALLER_REQUESTS, CALLER_ROUNDS = 20, 40, 5

Row = dict[str, Any]


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
    topics: Path | None = None


def full(device: str) -> Size:
    """Return what the page shows."""
    return Size(device, ("torch:float32", "torch:bfloat16", "torch:float16"), MEMBERS, 1000, 3, 64, 100_000)


def quick(device: str) -> Size:
    """Return as little as runs every line."""
    ours = ("torch:float32",) if device == "cpu" else ("torch:float32", "torch:float16")
    return Size(device, ours, MEMBERS[:2], 40, 1, 4, 500)


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
        peer_batch_size=PEER_BATCH_SIZE,
    )


def plans(size: Size) -> Iterator[tuple[str, Plan]]:
    """Yield names and plans: throughput, latency, callers, the peer's settings; what matters most first."""
    *small, interactive, last = size.members
    yield from throughput(size, [last, interactive])
    for member in (last, interactive) if size.topics else ():
        yield f"{member}, real texts", replace(base_plan(size, member), lengths=str(size.topics))
    plan = base_plan(size, interactive)
    fastest = replace(plan, ours=size.ours[-1:])
    yield (
        f"{interactive}, latency, documents seen before",
        replace(fastest, peers=PEERS[::2], candidates=(20, 50, 100), queries=25, repeat_documents=True),
    )
    cached = replace(base_plan(size, last), repeat_documents=True, peers=())
    yield f"{last}, documents seen before", cached
    for member in (last, interactive):
        yield f"{member}, {WITHOUT_CUDNN}", replace(base_plan(size, member), ours=size.ours[-1:])
    for batch_size in OTHER_BATCH_SIZES:
        yield f"{interactive}, peer's batch size {batch_size}", replace(fastest, peer_batch_size=batch_size)
    yield from throughput(size, small[::-1])


def throughput(size: Size, members: Sequence[str]) -> Iterator[tuple[str, Plan]]:
    """Yield strings to scores of members, on both distributions of lengths."""
    for member in members:
        for lengths in LENGTHS:
            yield f"{member}, {lengths}", replace(base_plan(size, member), lengths=lengths)


def run(name: str, plan: Plan) -> Any:
    """Run a plan; where its name says so, torch's attention may not be cuDNN's.

    cuDNN seems to plan each new shape anew, and peers that pad to the longest of a batch meet new ones all
    the time.
    """
    torch.backends.cuda.enable_cudnn_sdp(WITHOUT_CUDNN not in name)
    try:
        return run_benchmark(plan)
    finally:
        torch.backends.cuda.enable_cudnn_sdp(enabled=True)


def texts(count: int, seed: int = 0) -> list[str]:
    """Return distinct passages of MS MARCO's lengths."""
    return make_topics(LENGTHS["msmarco"], queries=1, candidates=count, seed=seed)[0][1]


def scorers(model: str, size: Size) -> Iterator[tuple[str, CrossEncoderScorer]]:
    """Yield precisions of ours, each with a scorer, one open at a time."""
    for spec in size.ours:
        engine, _, dtype = spec.partition(":")
        with CrossEncoderScorer(model, device=size.device, engine=engine, dtype=dtype) as scorer:
            yield dtype, scorer


def measure_parity(folder: Path, size: Size) -> list[Row]:
    """Return how far logits are from transformers' float32; alone and shuffled, from those of one batch."""
    documents = texts(min(size.candidates, 100), 3)
    order = np.random.default_rng(0).permutation(len(documents))
    rows = []
    for member in size.members:
        model = checkpoint(member, folder)
        exact = transformers_logits(model, documents, size.device)
        for dtype, scorer in scorers(model, size):
            together = scorer.score(QUERY, documents)
            shuffled = scorer.score(QUERY, [documents[i] for i in order])
            alone = [float(scorer.score(QUERY, [text])[0]) for text in documents[:20]]
            rows.append(
                {
                    "model": member,
                    "precision": dtype,
                    "from transformers": float(np.abs(together - exact).max()),
                    "shuffled": float(np.abs(shuffled - together[order]).max()),
                    "alone": float(np.abs(alone - together[:20]).max()),
                }
            )
    return rows


@torch.inference_mode()
def transformers_logits(model: str, documents: list[str], device: str) -> NDArray[np.float32]:
    """Return the logits of `transformers`, eager, in float32, a pair at a time: nothing is padded."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForSequenceClassification.from_pretrained(
        model, attn_implementation="eager", dtype=torch.float32
    ).to(device)
    logits = []
    for text in documents:
        inputs = tokenizer(QUERY, text, truncation="only_second", max_length=512, return_tensors="pt").to(
            device
        )
        logits.append(network.eval()(**inputs).logits.item())
    return np.array(logits, dtype=np.float32)


def measure_floor(model: str, size: Size) -> list[Row]:
    """Return milliseconds for one query's candidates: of the needed arithmetic, and measured.

    The floor is the arithmetic at the matmul rate measured here. From token ids: a request among several at
    once. From strings: one call after the other, on documents seen before and on new ones.
    """
    config = json.loads((Path(model) / "config.json").read_text())
    rows = []
    for dtype, scorer in scorers(model, size):
        peak = 1e9 * matmul_peak(getattr(torch, dtype), size.device)
        for name, lengths in LENGTHS.items():
            topics = make_topics(lengths, queries=CALLS + 2, candidates=size.candidates, seed=7)
            (query, documents), another, *others = topics
            ids = scorer._loaded.encoder.encode([(query, text) for text in documents])
            floor = 1000 * needed_flops(config, ids.lengths) / peak
            from_ids = from_token_ids(scorer, ids)
            rows.append(
                {
                    "precision": dtype,
                    "lengths": name,
                    "floor ms": floor,
                    "from ids ms": from_ids,
                    "share of peak": floor / from_ids,
                    "seen before ms": milliseconds(scorer, [(query, documents)] * CALLS),
                    "new ms": milliseconds(scorer, others),
                    "of it tokenising": scorer.score_detailed(*another).tokenize_ms,
                }
            )
    return rows


def from_token_ids(scorer: CrossEncoderScorer, ids: EncodedPairs) -> float:
    """Return milliseconds a request, the best of a few times several at once."""
    worker = scorer._loaded.worker
    best = float("inf")
    for _ in range(CALLS):
        started = time.perf_counter()
        for answer in [worker.submit(ids) for _ in range(AT_ONCE)]:
            answer.result()
        best = min(best, time.perf_counter() - started)
    return 1000 * best / AT_ONCE


def milliseconds(scorer: CrossEncoderScorer, topics: list[tuple[str, list[str]]]) -> float:
    """Return the median of a call."""
    spent = []
    for query, documents in topics:
        started = time.perf_counter()
        scorer.score(query, documents)
        spent.append(time.perf_counter() - started)
    return 1000 * statistics.median(spent)


def measure_many_callers(model: str, size: Size) -> list[Row]:
    """Return what callers of 20 new documents get together, against calls of many in the same rounds.

    Callers are threads, or tasks of one event loop.
    """
    engine, _, dtype = size.ours[-1].partition(":")
    requests = size.callers * CALLER_REQUESTS
    topics = make_topics(LENGTHS["msmarco"], queries=requests, candidates=CALLER_DOCUMENTS, seed=11)
    large = make_topics(LENGTHS["msmarco"], queries=CALLS, candidates=size.candidates, seed=12)
    options = {"device": size.device, "engine": engine, "dtype": dtype, "token_cache_bytes": 0}
    with CrossEncoderScorer(model, **options) as scorer:

        def threads(callers: int) -> Load:
            return measure_callers(scorer.score, topics[: callers * CALLER_REQUESTS], callers)

        ways: dict[str, Callable[[], Load]] = {
            "1 thread": lambda: threads(1),
            f"{size.callers} threads": lambda: threads(size.callers),
            f"{size.callers} tasks": lambda: asyncio.run(measure_tasks(scorer.ascore, topics, size.callers)),
        }
        loads: dict[str, list[Load]] = {way: [] for way in ways}
        rates = []
        for number in range(CALLER_ROUNDS + 1):
            rate = 1000 * size.candidates / milliseconds(scorer, large)
            found = {way: ask() for way, ask in ways.items()}
            if number:  # the first warms up
                rates.append(rate)
                for way, load in found.items():
                    loads[way].append(load)
    return [
        {
            "callers": way,
            "docs/s": statistics.median(load.rate for load in some),
            "share of large calls": statistics.median(
                load.rate / rate for load, rate in zip(some, rates, strict=True)
            ),
            "p50 ms": 1000 * statistics.median(load.p50 for load in some),
            "p99 ms": 1000 * statistics.median(load.p99 for load in some),
            "large calls' docs/s": statistics.median(rates),
        }
        for way, some in loads.items()
    ]


def checkpoint(member: str, folder: Path) -> str:
    """Return a random checkpoint of a member's shape."""
    shape = family.find(member)
    assert shape is not None  # noqa: S101 - a name of ours
    return str(make_random_checkpoint(shape, folder / member))


def release() -> None:
    """Free what others left on the device."""
    gc.collect()
    torch.cuda.empty_cache()


def measure_memory(model: str, size: Size) -> Row:
    """Return MiB allocated at the peak for 1,000 documents and for many, reserved, and left after closing."""
    if not size.device.startswith("cuda"):
        return {"not run": "no CUDA device"}
    found = {}
    release()
    before = torch.cuda.memory_reserved(size.device)
    with CrossEncoderScorer(model, device=size.device) as scorer:
        for count in (1_000, size.streamed):
            torch.cuda.reset_peak_memory_stats(size.device)
            documents = (text for start in range(0, count, 1000) for text in texts(1000, start))
            scorer.score(QUERY, documents)
            found[f"{count:,} documents"] = torch.cuda.max_memory_allocated(size.device) / 2**20
    found["reserved at the peak"] = torch.cuda.max_memory_reserved(size.device) / 2**20
    found["left after close"] = (torch.cuda.memory_reserved(size.device) - before) / 2**20
    return {name: round(value, 1) for name, value in found.items()}


def survive_out_of_memory(model: str, size: Size) -> list[Row]:
    """Return what it cost and changed that memory ran out: once, injected, and for want of it."""
    if not size.device.startswith("cuda"):
        return [{"not run": "no CUDA device"}]
    documents = texts(4_000, 5)
    failures = iter([torch.OutOfMemoryError("injected")])
    launch = PackedEngine.launch

    def failing(engine: PackedEngine, pairs: EncodedPairs, indices: NDArray[np.int64]) -> Launched:
        for failure in failures:
            raise failure
        return launch(engine, pairs, indices)

    release()
    with CrossEncoderScorer(model, device=size.device, cuda_graphs="off") as scorer:
        expected = scorer.score(QUERY, documents)
        with patch.object(PackedEngine, "launch", failing):
            injected = scorer.score_detailed(QUERY, documents)
    total = torch.cuda.get_device_properties(size.device).total_memory
    with CrossEncoderScorer(model, device=size.device, cuda_graphs="off", max_batch_tokens=2**20) as greedy:
        # Room for the weights and about a tenth of what the batches ask for.
        room = torch.cuda.memory_reserved(size.device) + 2**28
        torch.cuda.set_per_process_memory_fraction(room / total, size.device)
        try:
            real = greedy.score_detailed(QUERY, documents)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, size.device)
    return [
        {
            "out of memory": kind,
            "batches halved": scores.out_of_memory,
            "largest difference of logits": float(np.abs(scores.logits - expected).max()),
        }
        for kind, scores in (("injected", injected), ("real", real))
    ]


def profile_a_call(model: str, size: Size) -> str:
    """Return where the time of one call goes, by kernel."""
    cuda = size.device.startswith("cuda")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    documents = texts(size.candidates, 9)
    with CrossEncoderScorer(model, device=size.device) as scorer:
        scorer.score("warm up", documents)
        # The engine has a thread of its own.
        everywhere = _ExperimentalConfig(profile_all_threads=True)
        with profile(activities=activities, experimental_config=everywhere) as profiler:
            started = time.perf_counter()
            scorer.score(QUERY, documents)
            seconds = time.perf_counter() - started
    order = "self_device_time_total" if cuda else "self_cpu_time_total"
    table: str = profiler.key_averages().table(sort_by=order, row_limit=25)
    return f"{size.candidates} documents in {1000 * seconds:.1f} ms\n{table}"


def summary(runs: dict[str, Any], size: Size) -> list[Row]:
    """Return documents a second of ours and of the best peer in the same run, beside the V100's."""
    rows = []
    for member in size.members:
        for lengths in LENGTHS:
            results = runs[f"{member}, {lengths}"].get("results", {})
            for found in results.values():
                ours, peer = (
                    max(
                        (row for row in found if row["name"].startswith("rerank-plugins") is own),
                        key=lambda row: row["docs_per_second"],
                        default={"name": "none ran", "docs_per_second": float("nan")},
                    )
                    for own in (True, False)
                )
                rows.append(
                    {
                        "model": member,
                        "lengths": lengths,
                        "ours": ours["name"].removeprefix("rerank-plugins "),
                        "docs/s": ours["docs_per_second"],
                        "best peer": peer["name"],
                        "its docs/s": peer["docs_per_second"],
                        "times": ours["docs_per_second"] / peer["docs_per_second"],
                        "another card: V100, model card": V100_DOCUMENTS_PER_SECOND[member],
                    }
                )
    return rows


def show(console: Console, title: str, findings: Any) -> None:
    """Print findings, rows as a table; rows may lack columns that others have."""
    console.print(f"\n[bold]{title}[/]")
    if not isinstance(findings, list) or not findings:
        console.print(findings, markup=False)
        return
    columns = list(dict.fromkeys(name for row in findings for name in row))
    table = Table(*columns)
    for row in findings:
        values = (row.get(column, "") for column in columns)
        table.add_row(*(f"{value:,.4g}" if isinstance(value, float) else str(value) for value in values))
    console.print(table)


def guarded(part: Callable[..., Any], *arguments: Any) -> Any:
    """Return a part's findings, or the error in their place: the other parts still count."""
    try:
        return part(*arguments)
    except Exception as error:  # noqa: BLE001 - the other parts still count
        return {"failed": f"{type(error).__name__}: {error}"}


def measure_runs(
    size: Size, console: Console, runs: dict[str, Any], keep: Callable[[], None]
) -> dict[str, Any]:
    """Let all contestants score; print, add to `runs` and keep what each run gave."""
    for name, plan in plans(size):
        started = time.perf_counter()
        report = guarded(run, name, plan)
        console.print(f"\n[bold]{name}[/] ({time.perf_counter() - started:.0f} s)")
        if isinstance(report, dict):
            console.print(report)
            runs[name] = report
        else:
            console.print(*tables(report), sep="\n")
            runs[name] = json.loads(report.to_json())
        keep()
    return runs


def measure(size: Size, output: Path | None = None, parts: Sequence[str] = PARTS) -> None:
    """Measure, print, and write what is found as it comes."""
    # A graph that is captured in the middle of a round would be its slowest call.
    os.environ.setdefault("RERANK_CUDA_GRAPHS", "load")
    console = Console(width=130)
    card = torch.cuda.get_device_name(size.device) if size.device.startswith("cuda") else "CPU"
    console.print(f"[bold]{card}[/], torch {torch.__version__}")
    found: dict[str, Any] = {"card": card, "machine": machine()}

    def keep() -> None:
        if output:
            write(found, output)

    with tempfile.TemporaryDirectory() as folder:
        interactive, model = (checkpoint(member, Path(folder)) for member in size.members[-2:])
        with CrossEncoderScorer(model, device=size.device) as scorer:
            found["info"] = asdict(scorer.info) | {"model": size.members[-1]}
            console.print(scorer.info.reasons)
        work: dict[str, Callable[[], Any]] = {
            "memory_mib": lambda: measure_memory(model, size),
            "floor": lambda: measure_floor(model, size),
            "callers": lambda: measure_many_callers(interactive, size),
            "runs": lambda: measure_runs(size, console, found.setdefault("runs", {}), keep),
            "summary": lambda: summary(found.get("runs", {}), size),
            "parity": lambda: measure_parity(Path(folder), size),
            "out_of_memory": lambda: survive_out_of_memory(model, size),
            "profile": lambda: profile_a_call(model, size),
        }
        for part in parts:
            found[part] = guarded(work[part])
            if part != "runs":
                show(console, part, found[part])
            keep()


def write(found: dict[str, Any], output: Path) -> None:
    """Write what was found so far."""
    output.mkdir(parents=True, exist_ok=True)
    found = dict(found)
    profile = found.pop("profile", None)
    (output / "cuda.json").write_text(json.dumps(found, indent=2) + "\n")
    if profile:
        (output / "cuda-profile.txt").write_text(f"{profile}\n")


def main(
    device: Annotated[str, typer.Option(help="cuda:N, or cpu with --quick.")] = "cuda:0",
    small: Annotated[bool, typer.Option("--quick", help="Small numbers, to try the script.")] = False,
    part: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(PARTS)}; again for more.")] = None,
    topics: Annotated[Path | None, typer.Option(help="JSONL of query, documents: a topic a round.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for JSON and the profile.")] = None,
) -> None:
    """Measure, print, and write."""
    if unknown := set(part or ()) - set(PARTS):
        msg = f"no such part: {', '.join(sorted(unknown))}"
        raise typer.BadParameter(msg)
    size = quick(device) if small else full(device)
    measure(replace(size, topics=topics), output, part or PARTS)


if __name__ == "__main__":
    typer.run(main)
