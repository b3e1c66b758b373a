"""Cost against the number of candidates, order of the input, memory, and what the token cache saves.

    python benchmarks/scaling.py [--engine onnx] [--output benchmarks/results/scaling.json]

Measured on TinyBERT-L2-v2's shape with random weights, the member where everything but the engine weighs
most, on passages of MS MARCO's lengths.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from rerank_plugins import CrossEncoderScorer
from rerank_plugins.bench.models import make_random_checkpoint
from rerank_plugins.bench.report import machine
from rerank_plugins.bench.workload import LENGTHS, make_topics
from rerank_plugins.scoring import family

MEMBER = "ms-marco-TinyBERT-L2-v2"
STATUS = Path("/proc/self/status")
app = typer.Typer(add_completion=False)


def documents(count: int, seed: int) -> list[str]:
    """Return distinct passages, in no order of length."""
    return make_topics(LENGTHS["msmarco"], queries=1, candidates=count, seed=seed)[0][1]


def rate(scorer: CrossEncoderScorer, texts: list[str]) -> float:
    """Return documents per second of one call."""
    started = time.perf_counter()
    scorer.score("how do I reset my router?", texts)
    return len(texts) / (time.perf_counter() - started)


def measure_linearity(folder: str, engine: str, rounds: int) -> dict[str, Any]:
    """Return median documents per second by number of candidates, and for sorted input."""
    rates: dict[str, list[float]] = {}
    with CrossEncoderScorer(folder, device="cpu", engine=engine, token_cache_bytes=0) as scorer:
        for number in range(rounds + 1):
            texts = documents(10_000, number)
            turns = {f"{n:,}": texts[:n] for n in (10, 100, 1_000, 10_000)}
            turns["1,000 sorted by length"] = sorted(texts[:1_000], key=len)
            turns["1,000 sorted, longest first"] = turns["1,000 sorted by length"][::-1]
            for name, chosen in turns.items():
                # Short calls are repeated on other texts, so that every turn takes about as long.
                n = len(chosen)
                starts = range(0, 2_000, max(n, 100)) if n < 1_000 else range(1)
                found = [rate(scorer, texts[i : i + n] if n < 1_000 else chosen) for i in starts]
                if number:  # the first round warms up
                    rates.setdefault(name, []).append(statistics.median(found))
    return {name: round(statistics.median(found)) for name, found in rates.items()}


def measure_tokenising(folder: str, engine: str, rounds: int) -> dict[str, Any]:
    """Return the share of a call spent tokenising, for new texts and for the same ones with new queries."""
    shares: dict[str, list[float]] = {"new documents": [], "the same documents, another query": []}
    with CrossEncoderScorer(folder, device="cpu", engine=engine) as scorer:
        for number in range(rounds + 1):
            texts = documents(100, 10_000 + number)
            for name in shares:
                started = time.perf_counter()
                scores = scorer.score_detailed(f"{name} {number}", texts)
                total = 1000 * (time.perf_counter() - started)
                if number:
                    shares[name].append(scores.tokenize_ms / total)
    return {name: round(statistics.median(found), 3) for name, found in shares.items()}


def peak_mib() -> float:
    """Return the most memory that this process has held, in MiB.

    Not by getrusage, whose peak outlives exec on Linux, so that a process starts with that of its parent.
    """
    [line] = [line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


@app.command(hidden=True)
def peak(folder: str, engine: str, count: int) -> None:
    """Stream documents through one call in this fresh process; print MiB at the peak before and after."""

    def stream() -> Iterator[str]:
        for start in range(0, count, 1000):
            yield from documents(min(1000, count - start), start)

    with CrossEncoderScorer(folder, device="cpu", engine=engine) as scorer:
        # What any call needs: the engine's buffers for the longest batches.
        scorer.score("warm up", ["word " * 600] * 3 + documents(1000, 77))
        before = peak_mib()
        scorer.score("how do I reset my router?", stream())
        after = peak_mib()
    sys.stdout.write(json.dumps({"before": before, "after": after}))


def measure_memory(folder: str, engine: str) -> dict[str, Any]:
    """Return MiB at the peak by number of documents streamed through one call."""
    if not STATUS.exists():
        return {"not measured": f"this system has no {STATUS}"}
    found = {}
    for count in (10, 1_000, 10_000, 100_000):
        command = [sys.executable, __file__, "peak", folder, engine, str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
        found[f"{count:,}"] = {k: round(v) for k, v in json.loads(done.stdout.splitlines()[-1]).items()}
    return found


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    engine: Annotated[str, typer.Option(help="Engine of ours.")] = "auto",
    rounds: Annotated[int, typer.Option(help="Rounds that count.")] = 5,
    output: Annotated[Path | None, typer.Option(help="Where to write JSON.")] = None,
) -> None:
    """Measure and print."""
    if context.invoked_subcommand:
        return
    shape = family.find(MEMBER)
    assert shape is not None  # noqa: S101 - a name of ours
    with tempfile.TemporaryDirectory() as folder:
        model = str(make_random_checkpoint(shape, Path(folder) / "model"))
        with CrossEncoderScorer(model, device="cpu", engine=engine) as scorer:
            info = asdict(scorer.info)
        report = {
            "model": MEMBER,
            "engine": f"{info['engine']}:{info['dtype']}",
            "docs_per_second": measure_linearity(model, engine, rounds),
            "share_of_time_tokenising": measure_tokenising(model, engine, 4 * rounds),
            "peak_mib_of_one_streamed_call": measure_memory(model, engine),
            "machine": machine(),
        }
    console = Console(width=116)
    for name in ("docs_per_second", "share_of_time_tokenising", "peak_mib_of_one_streamed_call"):
        table = Table(
            "", "", title=f"{MEMBER}, {report['engine']}: {name.replace('_', ' ')}", title_justify="left"
        )
        for key, value in report[name].items():
            table.add_row(key, str(value))
        console.print(table)
    if output:
        output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    app()
