"""How far half precision is from float32: logits and order, on real text, on this machine's CPU.

    python benchmarks/precision.py [--model bundled]

The order is compared over all pairs of passages of a query.
"""

from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from rerank_plugins import CrossEncoderScorer
from rerank_plugins.demo.data import load_passages, load_queries


def logits_of(model: str, dtype: str, queries: int) -> np.ndarray:
    """Return float32 [queries, passages], the demo's logits."""
    texts = [passage.text for passage in load_passages()]
    with CrossEncoderScorer(model, device="cpu", dtype=dtype) as scorer:
        return np.stack([scorer.score(query.text, texts) for query in load_queries()[:queries]])


def same_order(first: np.ndarray, second: np.ndarray) -> float:
    """Return the share of passage pairs that both order alike, over all queries."""
    above, below = np.triu_indices(first.shape[1], 1)
    agree = (first[:, above] - first[:, below]) * (second[:, above] - second[:, below]) > 0
    return float(agree.mean())


def main(
    model: Annotated[str, typer.Option(help="A cross-encoder.")] = "bundled",
    queries: Annotated[int, typer.Option(help="How many; half precision is slow on older CPUs.")] = 1,
) -> None:
    """Print the largest and mean distance to float32, and the share of pairs in the same order."""
    exact = logits_of(model, "float32", queries)
    table = Table(title=f"{model} against float32, {exact.size} pairs, logits of spread {exact.std():.2f}")
    for heading in ("dtype", "largest distance", "mean distance", "pairs in the same order"):
        table.add_column(heading, justify="left" if heading == "dtype" else "right")
    for dtype in ("bfloat16", "float16"):
        half = logits_of(model, dtype, queries)
        apart = np.abs(half - exact)
        table.add_row(dtype, f"{apart.max():.4f}", f"{apart.mean():.4f}", f"{same_order(exact, half):.2%}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
