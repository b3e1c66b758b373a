"""Measure a model on test sets it was never trained on, and write the figures.

python training/evaluate.py --data ../shared/data --output training/figures.json
"""

import datetime
import gzip
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import bm25s
import ir_measures
import typer
from ir_measures import ScoredDoc, nDCG

from rerank_plugins import CrossEncoderScorer

logger = logging.getLogger("evaluate")

Hits = dict[str, tuple[str, list[tuple[str, str]]]]  # query id -> query, (document id, text) in order


def trec(data: Path, track: str) -> tuple[Hits, list[ir_measures.Qrel]]:
    """Read BM25's top 100 of a TREC Deep Learning track."""
    with gzip.open(data / f"trec-dl/BM25.{track}.top100.json.gz", "rt") as file:
        rows = json.load(file)
    hits = {
        str(row["hits"][0]["qid"]): (
            row["query"],
            [(str(hit["docid"]), hit["content"]) for hit in row["hits"]],
        )
        for row in rows
        if row["hits"]
    }
    qrels = ir_measures.read_trec_qrels(str(data / f"trec-dl/qrels.{track}-passage.txt"))
    return hits, list(qrels)


def scifact(data: Path) -> tuple[Hits, list[ir_measures.Qrel]]:
    """Retrieve BM25's top 100 for SciFact's test claims."""
    folder = data / "scifact"
    with gzip.open(folder / "corpus.jsonl.gz", "rt") as file:
        corpus = [json.loads(line) for line in file]
    texts = [f"{row['title']} {row['text']}" for row in corpus]
    retriever = bm25s.BM25()
    retriever.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
    lines = (folder / "queries.test.jsonl").read_text().splitlines()
    queries = [json.loads(line) for line in lines]
    tokens = bm25s.tokenize([query["text"] for query in queries], stopwords="en", show_progress=False)
    found, _ = retriever.retrieve(tokens, k=100, show_progress=False)
    hits = {
        query["_id"]: (query["text"], [(corpus[i]["_id"], texts[i]) for i in ranks])
        for query, ranks in zip(queries, found, strict=True)
    }
    rows = (line.split() for line in (folder / "qrels.test.tsv").read_text().splitlines()[1:])
    return hits, [ir_measures.Qrel(query, doc, int(grade)) for query, doc, grade in rows]


def measure(qrels: list[ir_measures.Qrel], run: Iterable[ScoredDoc]) -> float:
    """Return nDCG@10, rounded as it is published."""
    return round(ir_measures.calc_aggregate([nDCG @ 10], qrels, run)[nDCG @ 10], 4)


def compare(scorer: CrossEncoderScorer, hits: Hits, qrels: list[ir_measures.Qrel]) -> dict[str, Any]:
    """Return nDCG@10 of the first stage and of the reranked hits."""
    judged = {qrel.query_id for qrel in qrels}
    before, after = [], []
    for query_id, (query, documents) in hits.items():
        if query_id in judged:
            scores = scorer.score(query, [text for _, text in documents])
            for rank, ((doc, _), score) in enumerate(zip(documents, scores.tolist(), strict=True)):
                before.append(ScoredDoc(query_id, doc, -rank))
                after.append(ScoredDoc(query_id, doc, score))
    return {
        "queries": len(judged),
        "bm25": measure(qrels, before),
        "reranked": measure(qrels, after),
    }


def main(
    data: Annotated[Path, typer.Option(help="Folder of the test sets.")] = Path("../shared/data"),
    model: Annotated[str, typer.Option(help="Model to measure.")] = "bundled",
    sets: Annotated[str, typer.Option(help="Which, by comma.")] = "dl19,dl21,scifact",
    output: Annotated[Path | None, typer.Option(help="Where to write the figures.")] = None,
) -> None:
    """Print nDCG@10 before and after reranking BM25's top 100."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    figures: dict[str, Any] = {}
    with CrossEncoderScorer(model, device="cpu") as scorer:
        for name in sets.split(","):
            hits, qrels = scifact(data) if name == "scifact" else trec(data, name)
            figures[name] = compare(scorer, hits, qrels)
            logger.info("%s: %s", name, figures[name])
    if output is not None:
        facts = {
            "model": model,
            "measure": "nDCG@10",
            "first_stage": "BM25 top 100",
            "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        }
        output.write_text(json.dumps(facts | figures, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
