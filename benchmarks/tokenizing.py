"""Tokenising pairs: texts that are met for the first time and again, beside the checkpoint's own tokenizer.

    python benchmarks/tokenizing.py [--topics topics.jsonl] [--output benchmarks/results/tokenizing.json]

On a GPU this is most of a call of strings. `topics.jsonl` is real text, from `benchmarks/real_topics.py`;
without it, texts are drawn from the demo's words, nearly all of which are known after the first call.
"""

import json
import statistics
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from rerank_plugins.bench.report import machine
from rerank_plugins.bench.workload import LENGTHS, Topic, make_topics, read_topics
from rerank_plugins.scoring.pairs import Pair, PairEncoder

MAX_LENGTH = 512


def measure(topics: list[Topic], rounds: int) -> dict[str, list[float]]:
    """Return milliseconds for each topic, the least of the rounds; every round begins with nothing known.

    Raises:
        RuntimeError: If ids are not those of the checkpoint's tokenizer.
    """
    reference = Tokenizer.from_file(str(files("rerank_plugins") / "bundled" / "model" / "tokenizer.json"))
    reference.no_padding()
    reference.enable_truncation(MAX_LENGTH, strategy="only_second")

    def whole(pairs: list[Pair]) -> NDArray[np.int32]:
        encodings = reference.encode_batch_fast(pairs)
        return np.concatenate([np.array(encoding.ids, dtype=np.int32) for encoding in encodings])

    found: dict[str, list[list[float]]] = {}
    for _ in range(rounds):
        ours = PairEncoder(reference, max_length=MAX_LENGTH)

        def encode(pairs: list[Pair], ours: PairEncoder = ours) -> NDArray[np.int32]:
            return ours.encode(pairs).ids

        times: dict[str, list[float]] = {}
        for query, documents in topics:
            pairs = [(query, document) for document in documents]
            ways: dict[str, Callable[[list[Pair]], NDArray[np.int32]]]
            ways = {
                "the checkpoint's tokenizer": whole,
                "ours, new texts": encode,
                "ours, words known": encode,
            }
            expected: NDArray[np.int32] | None = None
            for name, way in ways.items():
                started = time.perf_counter()
                ids = way(pairs)
                times.setdefault(name, []).append(1000 * (time.perf_counter() - started))
                expected = ids if expected is None else expected
                if not np.array_equal(ids, expected):
                    msg = f"ids of {name} must be those of the checkpoint's tokenizer, but are not"
                    raise RuntimeError(msg)
        for name, some in times.items():
            found.setdefault(name, []).append(some)
    return {name: [min(some) for some in zip(*every, strict=True)] for name, every in found.items()}


def main(
    topics: Annotated[Path | None, typer.Option(help="JSONL of queries and documents.")] = None,
    rounds: Annotated[int, typer.Option(help="How often to begin anew.")] = 5,
    output: Annotated[Path | None, typer.Option(help="Where to write the figures.")] = None,
) -> None:
    """Measure, print, and write."""
    made = (
        read_topics(topics) if topics else make_topics(LENGTHS["msmarco"], queries=8, candidates=1000, seed=0)
    )
    times = measure(made, rounds)
    table = Table(title=f"milliseconds for {len(made[0][1]):,} pairs", title_justify="left")
    for heading in ("", "first call", "median", "last call"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, some in times.items():
        table.add_row(name, *(f"{value:.1f}" for value in (some[0], statistics.median(some), some[-1])))
    Console(width=100).print(table)
    if output:
        report = {
            "machine": machine(),
            "texts": topics.name if topics else "drawn",
            "pairs": len(made[0][1]),
            "milliseconds": {name: [round(value, 2) for value in some] for name, some in times.items()},
        }
        output.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    typer.run(main)
