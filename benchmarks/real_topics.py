"""Write topics of real text for `rerank-plugins bench --lengths FILE` and `benchmarks/cuda.py --topics FILE`.

    python benchmarks/real_topics.py --data DATA --output topics.jsonl

Each document is a passage of BM25's top 100 for the TREC Deep Learning tracks, and comes once. So every call
meets words that it has not met before, which made texts of a small vocabulary do not show.
"""

import json
import random
from pathlib import Path
from typing import Annotated

import typer

from rerank_plugins.files import read_file, read_hits

HITS = ("BM25.dl19.top100.json.gz", "BM25.dl21.top100.json.gz")


def main(
    data: Annotated[Path, typer.Option(help="Folder with trec-dl/.")] = Path("../shared/data"),
    output: Annotated[Path, typer.Option(help="Where to write the topics.")] = Path("topics.jsonl"),
    candidates: Annotated[int, typer.Option(help="Documents a topic.")] = 1000,
) -> None:
    """Deal the passages out to topics, in an order drawn once."""
    queries: list[str] = []
    texts: dict[str, None] = {}
    for name in HITS:
        path = data / "trec-dl" / name
        for hits in read_hits(name, read_file(path)):
            queries.append(hits.query)
            texts |= {text: None for _, text in hits.documents}
    passages = list(texts)
    random.Random(0).shuffle(passages)  # noqa: S311 - no secret
    whole = len(passages) // candidates
    with output.open("w", encoding="utf-8") as file:
        for i in range(whole):
            documents = passages[i * candidates : (i + 1) * candidates]
            topic = {"query": queries[i % len(queries)], "documents": documents}
            file.write(json.dumps(topic, ensure_ascii=False) + "\n")
    typer.echo(f"{whole} topics of {candidates} documents in {output}")


if __name__ == "__main__":
    typer.run(main)
