"""Strings to scores: this library against sentence-transformers' CrossEncoder, same weights, one run.

    python benchmarks/strings_to_scores.py [--model bundled] [--data ../shared/data]

Both start from Python strings and end with scores. Rounds are interleaved, so that whatever else the
machine does hits both alike; medians are compared. Passages are the demo's, or TREC DL 2019's with --data.
"""

import gzip
import json
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from rerank_plugins import CrossEncoderScorer, ScorerSettings
from rerank_plugins.demo.data import load_passages, load_queries
from rerank_plugins.scoring.loading import find_model, load_weights

Topic = tuple[str, list[str]]


def demo_topics() -> list[Topic]:
    """Return the demo's queries, each with all its passages."""
    texts = [passage.text for passage in load_passages()]
    return [(query.text, texts) for query in load_queries()]


def trec_topics(data: Path) -> list[Topic]:
    """Return TREC DL 2019's queries with BM25's top 100."""
    with gzip.open(data / "trec-dl/BM25.dl19.top100.json.gz", "rt") as file:
        return [(row["query"], [hit["content"] for hit in row["hits"]]) for row in json.load(file)]


def make_peer(model: str, folder: Path) -> Callable[[str, Sequence[str]], np.ndarray]:
    """Return sentence-transformers' scorer on the same weights, fp32, its default batch of 32."""
    from sentence_transformers import CrossEncoder
    from transformers import BertConfig, BertForSequenceClassification

    found = find_model(ScorerSettings(model=model))
    peer = BertForSequenceClassification(BertConfig.from_pretrained(found.folder))
    peer.load_state_dict(load_weights(found.folder))
    peer.save_pretrained(folder)
    for path in found.folder.glob("tokenizer*.json"):
        shutil.copy(path, folder)
    encoder = CrossEncoder(
        str(folder), device="cpu", activation_fn=torch.nn.Identity(), local_files_only=True
    )

    def score(query: str, documents: Sequence[str]) -> np.ndarray:
        pairs = [(query, document) for document in documents]
        return np.asarray(encoder.predict(pairs, show_progress_bar=False))

    return score


def main(
    model: Annotated[str, typer.Option(help="A BERT of one logit.")] = "bundled",
    data: Annotated[Path | None, typer.Option(help="Folder with trec-dl/.")] = None,
    topics: Annotated[int, typer.Option(help="Queries a round.")] = 2,
    rounds: Annotated[int, typer.Option(help="Interleaved rounds.")] = 7,
    dtype: Annotated[str, typer.Option(help="Our precision; the peer runs float32.")] = "float32",
    output: Annotated[Path | None, typer.Option(help="Where to write JSON.")] = None,
) -> None:
    """Print documents per second of both, and their ratio."""
    work = (trec_topics(data) if data else demo_topics())[:topics]
    documents = sum(len(texts) for _, texts in work)
    with (
        tempfile.TemporaryDirectory() as folder,
        CrossEncoderScorer(model, device="cpu", dtype=dtype) as scorer,
    ):
        contestants = {
            "rerank-plugins": scorer.score,
            "sentence-transformers": make_peer(model, Path(folder)),
        }
        times: dict[str, list[float]] = {name: [] for name in contestants}
        tokens = sum(scorer.score_detailed(query, texts).tokens for query, texts in work) / documents
        apart = max(
            float(
                np.abs(scorer.score(query, texts) - contestants["sentence-transformers"](query, texts)).max()
            )
            for query, texts in work
        )
        for i in range(rounds):
            # The order alternates, so that none always runs on a warmer machine.
            for name in sorted(contestants, reverse=bool(i % 2)):
                started = time.perf_counter()
                for query, texts in work:
                    contestants[name](query, texts)
                times[name].append(time.perf_counter() - started)
    rates = {name: documents / statistics.median(spent) for name, spent in times.items()}
    paired = zip(times["sentence-transformers"], times["rerank-plugins"], strict=True)
    report = {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "model": model,
        "dtype": dtype,
        "documents": documents,
        "tokens_per_pair": round(tokens, 1),
        "docs_per_second": {name: round(rate, 1) for name, rate in rates.items()},
        "ratio": round(statistics.median(theirs / ours for theirs, ours in paired), 2),
        "largest_logit_difference": round(apart, 6),
    }
    table = Table(title=f"{model}, {documents} documents of {tokens:.0f} tokens a pair, {rounds} rounds")
    table.add_column("")
    table.add_column("documents/s (median)", justify="right")
    for name, rate in rates.items():
        table.add_row(name, f"{rate:.1f}")
    console = Console()
    console.print(table)
    console.print(
        f"ratio {report['ratio']} (median of paired rounds); {report['machine']}; logits {apart:.1e} apart"
    )
    if output:
        output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
