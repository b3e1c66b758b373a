"""Labelling through Ray Data against one process, and a job that is killed half-way.

    python benchmarks/labelling.py [--pairs 200000] [--workers 2] [--output benchmarks/results/labelling.json]

With TinyBERT-L2-v2's shape and random weights, the member where everything but the engine weighs most. The
job is killed (-9) when half of the shards are there, then continued; its labels are compared, pair by pair,
with the scores of plain processes. Speed is that of the second half: each worker's pairs a second against
processes that have as many threads and score beside as many others, before and after, since cores that share
caches, clock and other users are slower together.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from numpy.typing import NDArray
from rich.console import Console

from rerank_plugins import CrossEncoderScorer
from rerank_plugins.bench.models import make_random_checkpoint
from rerank_plugins.bench.report import machine
from rerank_plugins.bench.workload import LENGTHS, make_topics
from rerank_plugins.labelling import label
from rerank_plugins.scoring import family
from rerank_plugins.scoring.threads import limit_threads

MEMBER = "ms-marco-TinyBERT-L2-v2"
# Beginnings of passages of MS MARCO's lengths: about 25 tokens a pair.
WORDS = 12
DTYPE = "float32"
# Of a shard: the default.
ROWS = 10_000
app = typer.Typer(add_completion=False)


def make_pairs(path: Path, count: int) -> None:
    """Write `count` distinct pairs as Parquet."""

    def rows() -> Iterator[dict[str, Any]]:
        for start in range(0, count, 1_000):
            size = min(1_000, count - start)
            ((query, documents),) = make_topics(
                LENGTHS["msmarco"], queries=1, candidates=size, seed=start // 1_000
            )
            for i, document in enumerate(documents):
                text = " ".join([str(start + i), *document.split()[:WORDS]])
                yield {"id": start + i, "query": query, "document": text}

    pq.write_table(pa.Table.from_pylist(list(rows())), path, row_group_size=50_000)


@app.command(hidden=True)
def alone(model: str, path: Path, first: int, count: int, begin: float, logits: Path) -> None:
    """Score a range of the pairs in this process with one thread; print pairs a second."""
    limit_threads(1)
    table = pq.read_table(path).slice(first, count)
    pairs = list(zip(table["query"].to_pylist(), table["document"].to_pylist(), strict=True))
    with CrossEncoderScorer(model, device="cpu", dtype=DTYPE) as scorer:
        scorer.score_pairs(pairs[:1_000])  # warm
        time.sleep(max(0.0, begin - time.time()))  # those beside this one are warm too
        started = time.perf_counter()
        found = scorer.score_pairs(pairs)
        seconds = time.perf_counter() - started
    np.save(logits, found)
    sys.stdout.write(json.dumps(count / seconds) + "\n")


def in_processes(model: str, path: Path, count: int, processes: int) -> tuple[list[float], NDArray[Any]]:
    """Return pairs a second of each of some processes beside each other, and all logits."""
    share = -(-count // processes)
    begin = time.time() + 20
    jobs = []
    for first in range(0, count, share):
        arguments = [model, str(path), str(first), str(min(share, count - first)), str(begin)]
        command = [sys.executable, __file__, "alone", *arguments, str(path.with_suffix(f".{first}.npy"))]
        jobs.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))  # noqa: S603
    rates = [float(json.loads(job.communicate()[0].splitlines()[-1])) for job in jobs]
    logits = [np.load(path.with_suffix(f".{first}.npy")) for first in range(0, count, share)]
    return rates, np.concatenate(logits)


def killed_half_way(model: str, path: Path, output: Path, shards: int, workers: int) -> int:
    """Start the job as users do, and kill it; return how many shards are there."""
    command = [sys.executable, "-m", "rerank_plugins", "label", "-i", str(path), "-o", str(output)]
    command += ["-m", model, "--dtype", DTYPE, "--workers", str(workers), "--address", "local"]
    with subprocess.Popen(command) as job:  # noqa: S603
        while len(list(output.glob("part-*"))) < shards // 2:
            if job.poll() is not None:
                raise RuntimeError("the job ended before it could be killed")
            time.sleep(0.05)
        job.kill()
    return len(list(output.glob("part-*")))


def labels_of(folder: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return ids and logits of all labels, in order."""
    table = pa.concat_tables([pq.read_table(part) for part in sorted(folder.glob("part-*"))])
    return table["id"].to_numpy(), table["logit"].to_numpy()


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    pairs: Annotated[int, typer.Option(help="Pairs to label.")] = 200_000,
    workers: Annotated[int, typer.Option(help="Workers, of one thread each.")] = 2,
    output: Annotated[Path | None, typer.Option(help="Where to write JSON.")] = None,
) -> None:
    """Measure and print."""
    if context.invoked_subcommand:
        return
    shape = family.find(MEMBER)
    assert shape is not None  # noqa: S101 - a name of ours
    options: dict[str, Any] = {"dtype": DTYPE, "workers": workers, "address": "local"}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = str(make_random_checkpoint(shape, folder / "model"))
        path = folder / "pairs.parquet"
        make_pairs(path, pairs)
        shards = -(-pairs // ROWS)
        before, logits = in_processes(model, path, pairs, workers)
        there = killed_half_way(model, path, folder / "labels", shards, workers)
        rest = label(path, folder / "labels", model=model, **options)
        # Once more, as a machine that others use does not stay the same.
        after, _ = in_processes(model, path, pairs // 4, workers)
        ids, labels = labels_of(folder / "labels")
    rates = [round(worker.rate, 1) for worker in rest.workers.values()]
    report = {
        "model": MEMBER,
        "engine": f"{rest.scorer.engine}:{rest.scorer.dtype}",
        "pairs": pairs,
        "workers": workers,
        "docs_per_second_in_process": [round(rate, 1) for rate in before + after],
        "docs_per_second_per_worker": rates,
        "killed": {
            "shards": shards,
            "shards_there_when_killed": there,
            "pairs_labelled_before": rest.before,
            "pairs_labelled_after": rest.pairs,
            "seconds_after": round(rest.seconds, 1),
        },
        "in_order": bool(np.array_equal(ids, np.arange(pairs))),
        "pairs_lost": pairs - len(np.unique(ids)),
        "pairs_doubled": len(ids) - len(np.unique(ids)),
        "largest_logit_difference": float(np.abs(labels - logits).max()),
        "machine": machine(),
    }
    Console(width=116).print_json(json.dumps(report))
    if output:
        output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    app()
