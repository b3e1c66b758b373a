"""Accuracy beside speed: what each engine and precision changes, on TREC DL 2019's BM25 top 100.

    python benchmarks/accuracy.py --data ../shared/data [--ours openvino:float32 --ours onnx:int8 ...]

The data is NIST's judgements with BM25's hits (see training/README.md); without it, the demo's 13 queries
are compared and nDCG is left out. bfloat16 and float16 are very slow on CPUs without them.
"""

import json
import statistics
from pathlib import Path
from typing import Annotated

import ir_measures
import numpy as np
import torch
import typer
from ir_measures import ScoredDoc, nDCG
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau

from rerank_plugins import CrossEncoderScorer, RerankError, ScorerSettings
from rerank_plugins.demo.data import load_passages, load_queries
from rerank_plugins.evaluation import load_hits
from rerank_plugins.scoring.loading import find_model

Topics = dict[str, tuple[str, dict[str, str]]]  # query id -> query, texts by document id

REFERENCE = "torch:float32"
DEFAULT = ("openvino:float32", "onnx:float32", "openvino:bfloat16", "openvino:int8", "onnx:int8")


def trec_topics(data: Path) -> Topics:
    """Return the judged queries of TREC DL 2019 with BM25's top 100."""
    found = load_hits(data / "trec-dl/BM25.dl19.top100.json.gz", data / "trec-dl/qrels.dl19-passage.txt")
    return {topic.id: (topic.query, {c.id: c.text for c in topic.candidates}) for topic in found}


def demo_topics() -> Topics:
    """Return the demo's queries, each with all its passages."""
    texts = {passage.id: passage.text for passage in load_passages()}
    return {query.id: (query.text, texts) for query in load_queries()}


def logits_of(spec: str, model: str, topics: Topics) -> tuple[list[np.ndarray], float]:
    """Return float32 logits [documents] of each topic, and the logit of one pair scored alone, less here."""
    engine, _, dtype = spec.partition(":")
    with CrossEncoderScorer(model, device="cpu", engine=engine, dtype=dtype) as scorer:
        logits = [scorer.score(query, list(texts.values())) for query, texts in topics.values()]
        query, texts = next(iter(topics.values()))
        alone = scorer.score(query, [next(iter(texts.values()))]).item()
    return logits, abs(alone - float(logits[0][0]))


def ndcg(topics: Topics, logits: list[np.ndarray], data: Path) -> float:
    """Return nDCG@10 of the reranked run."""
    qrels = ir_measures.read_trec_qrels(str(data / "trec-dl/qrels.dl19-passage.txt"))
    run = [
        ScoredDoc(query_id, document, score)
        for (query_id, (_, texts)), scores in zip(topics.items(), logits, strict=True)
        for document, score in zip(texts, scores.tolist(), strict=True)
    ]
    return float(ir_measures.calc_aggregate([nDCG @ 10], qrels, run)[nDCG @ 10])


def main(
    model: Annotated[str, typer.Option(help="A cross-encoder.")] = "bundled",
    data: Annotated[Path | None, typer.Option(help="Folder with trec-dl/.")] = None,
    ours: Annotated[list[str] | None, typer.Option(help="engine:dtype, repeatable.")] = None,
    queries: Annotated[int | None, typer.Option(help="Only the first; half precision may be slow.")] = None,
    output: Annotated[Path | None, typer.Option(help="Where to write JSON.")] = None,
) -> None:
    """Print largest distance of logits, Kendall's tau and nDCG@10 beside float32's."""
    topics = dict(list((trec_topics(data) if data else demo_topics()).items())[:queries])
    exact, _ = logits_of(REFERENCE, model, topics)
    rows = []
    for spec in [REFERENCE, *(ours or DEFAULT)]:
        try:
            logits, alone = logits_of(spec, model, topics)
        except RerankError as error:
            Console(stderr=True).print(f"{spec} not run: {error}")
            continue
        apart = np.concatenate(logits) - np.concatenate(exact)
        taus = [kendalltau(a, b).statistic for a, b in zip(logits, exact, strict=True)]
        rows.append(
            {
                "engine": spec,
                "largest_difference": float(np.abs(apart).max()),
                "mean_difference": float(apart.mean()),
                "kendall_tau": float(statistics.mean(taus)),
                "ndcg_at_10": round(ndcg(topics, logits, data), 4) if data and queries is None else None,
                "one_alone_differs": alone,
            }
        )
    spread = float(np.concatenate(exact).std())
    table = Table(title=f"{model}: {sum(map(len, exact))} pairs, logits of spread {spread:.2f}")
    for heading in rows[0]:
        table.add_column(heading.replace("_", " "), justify="left" if heading == "engine" else "right")
    for row in rows:
        table.add_row(*(f"{x:.4g}" if isinstance(x, float) else str(x or "") for x in row.values()))
    Console(width=116).print(table)
    if output:
        revision = find_model(ScorerSettings(model=model)).revision
        report = {"model": model, "revision": revision, "queries": len(topics), "spread": spread}
        report |= {"torch": torch.__version__}
        output.write_text(json.dumps(report | {"rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
