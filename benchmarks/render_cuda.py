"""The GPU's tables, for render.py, from what benchmarks/cuda.py and benchmarks/kernels.py wrote."""

import statistics
from collections.abc import Callable, Iterable
from typing import Any

Table = Callable[[Iterable[str], Iterable[Iterable[object]]], str]


def listing(table: Table, rows: Iterable[dict[str, Any]], columns: dict[str, tuple[str, str]]) -> str:
    """Return rows as they were written: by heading, which value, and its format."""
    return table(columns, ([format(row[key], spec) for key, spec in columns.values()] for row in rows))


def blocks(table: Table, read: Callable[[str], dict[str, Any]]) -> dict[str, Callable[..., str]]:
    """Return the blocks by name, made with functions that write a table and read a result file."""

    def cuda(name: str, *members: str) -> str:
        """Strings to scores: each of ours, and the best of the peers in the same rounds."""
        lines = []
        for row in read(name)["summary"]:
            model = row["model"].removeprefix("ms-marco-")
            if members and model not in members:
                continue
            (results,) = read(name)["runs"][f"{row['model']}, {row['lengths']}"]["results"].values()
            rates = {one["name"]: one["rounds"] for one in results}
            theirs = rates[row["best peer"]]
            cells = [model, row["lengths"]]
            for dtype in ("float32", "bfloat16", "float16"):
                ours = rates[f"rerank-plugins torch:{dtype}"]
                times = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
                cells.append(f"{statistics.median(ours):,.0f} ({times:.1f}x)")
            peer = row["best peer"].removeprefix("sentence-transformers").strip() or "fp32"
            cells.append(f"{row['its docs/s']:,.0f} ({peer})")
            lines.append([*cells, f"{row['another card: V100, model card']:,}"])
        head = ["model", "lengths", "ours, float32", "bfloat16", "float16", "best of sentence-transformers"]
        return table([*head, "another card: V100, by the model card"], lines)

    def cuda_runs(name: str, *words: str) -> str:
        """The rows of the runs whose names hold some words."""
        wanted = " ".join(words)
        lines = [
            [
                f"{run.removeprefix('ms-marco-')}, {candidates}",
                row["name"],
                f"{row['docs_per_second']:,.0f}",
                f"{row['p50_ms']:,.2f}",
                f"{row['p99_ms']:,.2f}",
                f"{row['ratio']:.1f}",
            ]
            for run, report in read(name)["runs"].items()
            if wanted in run
            for candidates, rows in report["results"].items()
            for row in rows
        ]
        head = ["run, candidates", "", "docs/s", "p50 ms", "p99 ms", "times sentence-transformers in float32"]
        return table(head, lines)

    def cuda_floor(name: str) -> str:
        """The arithmetic's floor, and what was measured."""
        return listing(
            table,
            read(name)["floor"],
            {
                "precision": ("precision", ""),
                "lengths": ("lengths", ""),
                "floor, ms": ("floor ms", ".1f"),
                "from token ids, ms": ("from ids ms", ".1f"),
                "of the card's matmul rate": ("share of peak", ".0%"),
            },
        )

    def cuda_callers(name: str) -> str:
        """Callers of 20 documents at once, against calls of 1,000."""
        return listing(
            table,
            read(name)["callers"],
            {
                "callers": ("callers", ""),
                "docs/s together": ("docs/s", ",.0f"),
                "of calls of 1,000": ("share of large calls", ".0%"),
                "p50 ms": ("p50 ms", ".1f"),
                "p99 ms": ("p99 ms", ".1f"),
            },
        )

    def cuda_parity(name: str) -> str:
        """How far logits are apart."""
        lines = [
            [row["model"].removeprefix("ms-marco-"), row["precision"]]
            + [f"{row[key]:.1e}" for key in ("from transformers", "alone", "shuffled")]
            for row in read(name)["parity"]
        ]
        head = ["model", "precision", "from transformers' float32", "alone, from in a batch", "shuffled"]
        return table(head, lines)

    def kernels(dtype: str) -> str:
        """What surrounds attention, written in several ways."""
        return listing(
            table,
            read("kernels")[dtype],
            {
                dtype: ("variant", ""),
                "ms": ("ms", ".2f"),
                "of the card's matmul rate": ("share of peak", ".0%"),
                "largest distance to float32, bundled model": ("distance to float32", ".4f"),
            },
        )

    return {
        "cuda": cuda,
        "cuda_runs": cuda_runs,
        "cuda_floor": cuda_floor,
        "cuda_callers": cuda_callers,
        "cuda_parity": cuda_parity,
        "kernels": kernels,
    }
