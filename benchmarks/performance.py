"""The speed figures of docs/performance.md: runs `rerank-plugins bench` on what the page shows.

    .venv-peers/bin/python benchmarks/performance.py [RUN ...] [--output FOLDER]

See benchmarks/peers.txt for the environment. Writes FOLDER/RUN.json, each run as it ends; all take half an
hour to an hour on two cores.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rerank_plugins.bench.contestants import PEERS
from rerank_plugins.bench.report import tables
from rerank_plugins.bench.run import Plan, run_benchmark

RESULTS = Path(__file__).parent / "results"

ALL = Plan(model="bundled", peers=tuple(PEERS), rounds=5)
SOME = replace(
    ALL,
    ours=(
        "torch:float32",
        "openvino:float32",
        "onnx:float32",
        "openvino:bfloat16",
        "openvino:int8",
        "onnx:int8",
    ),
    peers=tuple(name for name in PEERS if name.startswith("sentence-transformers")),
    random_weights=True,
    rounds=4,
)
FEW = replace(
    ALL,
    ours=("openvino:float32", "onnx:float32", "onnx:int8"),
    peers=("sentence-transformers", "sentence-transformers onnx", "sentence-transformers onnx int8"),
)
RUNS = {
    "L6-msmarco": ALL,
    "L6-rag": replace(ALL, lengths="rag", candidates=(40,), rounds=4),
    "L6-interactive": replace(ALL, candidates=(1, 10), queries=5, rounds=7),
    "L6-1000": replace(FEW, candidates=(1000,), rounds=2),
    "TinyBERT-msmarco": replace(SOME, model="ms-marco-TinyBERT-L2-v2", queries=3, rounds=9),
    "TinyBERT-rag": replace(SOME, model="ms-marco-TinyBERT-L2-v2", lengths="rag", rounds=9),
    "L2-msmarco": replace(SOME, model="ms-marco-MiniLM-L2-v2"),
    "L2-rag": replace(SOME, model="ms-marco-MiniLM-L2-v2", lengths="rag", candidates=(40,)),
    "L4-msmarco": replace(SOME, model="ms-marco-MiniLM-L4-v2", candidates=(60,)),
    "L4-rag": replace(SOME, model="ms-marco-MiniLM-L4-v2", lengths="rag", candidates=(30,)),
    "L12-msmarco": replace(SOME, model="ms-marco-MiniLM-L12-v2", candidates=(40,)),
    "L12-rag": replace(SOME, model="ms-marco-MiniLM-L12-v2", lengths="rag", candidates=(20,)),
    "L6-callers": replace(
        ALL, ours=("onnx:float32",), peers=(), rounds=3, callers=(1, 4, 16, 64), requests=2, background=10_000
    ),
}


def main(
    runs: Annotated[list[str] | None, typer.Argument(help="Which; default: all.")] = None,
    output: Annotated[Path, typer.Option(help="Where the JSON goes.")] = RESULTS,
) -> None:
    """Measure, print, and write JSON."""
    output.mkdir(parents=True, exist_ok=True)
    console = Console(width=116)
    for name in runs or RUNS:
        report = run_benchmark(RUNS[name])
        for table in tables(report):
            console.print(table)
        (output / f"{name}.json").write_text(report.to_json())


if __name__ == "__main__":
    typer.run(main)
