"""Measure a model on test sets: an adapted one, or one on the way.

    python training/evaluate.py --model FOLDER --sets scifact --data DATA

The bundled model's own figures are benchmarks/quality.py's, which also fuses and calibrates.
"""

import datetime
import json
import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from rerank_plugins import CrossEncoderScorer
from rerank_plugins.evaluation import Topics, evaluate, load_beir, load_hits, retrieve

logger = logging.getLogger("evaluate")

MEASURE = "nDCG@10"


def load(data: Path, name: str, depth: int) -> Topics:
    """Return BM25's top of a TREC Deep Learning track, or of SciFact."""
    if name == "scifact":
        return retrieve(load_beir(data / "scifact"), "bm25s", depth=depth)
    folder = data / "trec-dl"
    return load_hits(folder / f"BM25.{name}.top100.json.gz", folder / f"qrels.{name}-passage.txt")


def main(
    data: Annotated[Path, typer.Option(help="Folder of the test sets.")] = Path("../shared/data"),
    model: Annotated[str, typer.Option(help="Model to measure.")] = "bundled",
    sets: Annotated[str, typer.Option(help="Which, by comma.")] = "dl19,dl21,scifact",
    depth: Annotated[int, typer.Option(help="Candidates a query.")] = 100,
    queries: Annotated[int | None, typer.Option(help="Only the first queries of each set.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens read of a pair.")] = None,
    device: Annotated[str, typer.Option(help="Where to score.")] = "cpu",
    output: Annotated[Path | None, typer.Option(help="Where to write the figures.")] = None,
) -> None:
    """Print nDCG@10 before and after reranking BM25's top."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    figures: dict[str, Any] = {}
    with CrossEncoderScorer(model, device=device, max_length=max_length) as scorer:
        for name in sets.split(","):
            found = evaluate(load(data, name, depth).limit(queries), {model: scorer}, depths=(depth,))
            best = found.best.comparison
            figures[name] = {
                "queries": len(found.queries),
                "bm25": round(found.first.mean[MEASURE], 4),
                "reranked": round(found.best.measured.mean[MEASURE], 4),
                "difference_95": [round(end, 4) for end in (best.low, best.high) if end is not None],
            }
            logger.info("%s: %s", name, figures[name])
    if output is not None:
        facts = {
            "model": model,
            "measure": MEASURE,
            "first_stage": f"BM25 top {depth}",
            "max_length": scorer.info.max_length,
            "device": scorer.info.device,
            "precision": scorer.info.dtype,
            "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        }
        output.write_text(json.dumps(facts | figures, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
