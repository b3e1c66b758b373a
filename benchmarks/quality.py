"""Quality of a model on TREC DL 2019, 2021 and SciFact: alone, fused with BM25, and calibrated.

    python benchmarks/quality.py --data ../shared/data --reports reports

The data is NIST's judgements with BM25's hits and a BEIR folder (see training/README.md). Each set's figures
go into benchmarks/results/quality.json, where those of other sets stay; benchmarks/render.py makes the tables
of the pages and the model card from it. Every measure is compared with ir_measures called directly. SciFact
has 30,000 long pairs, which take half an hour of two cores.
"""

import datetime
import json
import math
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import ir_measures
import typer
from ir_measures import Qrel, ScoredDoc, nDCG
from rich.console import Console
from rich.progress import Progress

from rerank_plugins import CrossEncoderScorer
from rerank_plugins.evaluation import (
    Comparison,
    Evaluation,
    System,
    Topics,
    evaluate,
    load_beir,
    load_hits,
    retrieve,
    verdict,
    write_report,
)
from rerank_plugins.evaluation.measures import standard_measures

RESULTS = Path(__file__).parent / "results" / "quality.json"


class Set(StrEnum):
    """A test set."""

    dl19 = "dl19"
    dl21 = "dl21"
    scifact = "scifact"


# The lowest grade that is relevant, as the sets' makers say.
RELEVANT_FROM = {Set.dl19: 2, Set.dl21: 2, Set.scifact: 1}


def load(name: Set, data: Path) -> Topics:
    """Return a set with BM25's candidates."""
    if name is Set.scifact:
        return retrieve(load_beir(data / "scifact"), "bm25s", depth=100)
    year = name.removeprefix("dl")
    return load_hits(
        data / f"trec-dl/BM25.dl{year}.top100.json.gz", data / f"trec-dl/qrels.dl{year}-passage.txt"
    )


def measure(
    name: Set,
    topics: Topics,
    scorer: Any,
    model: str,
    depth: int,
    precision: float,
    timed_queries: int,
    progress: Callable[[str, int, int], None],
) -> Evaluation:
    """Evaluate a model on a set."""
    return evaluate(
        topics,
        {model: scorer},
        depths=sorted({10, 20, 50, 100} & set(range(depth)) | {depth}),
        relevant_from=RELEVANT_FROM[name],
        fusions=("rrf", "fit"),
        calibrate=True,
        precision=precision,
        timed_queries=timed_queries,
        progress=progress,
    )


def check(topics: Topics, system: System, relevant_from: int) -> float:
    """Compare a system's means with those of ir_measures called directly.

    Returns:
        nDCG@10 of the run as ir_measures orders it, which breaks ties by document id where we keep the first
        stage's order.

    Raises:
        AssertionError: If any differs.
    """
    qrels = [Qrel(topic.id, document, grade) for topic in topics for document, grade in topic.grades.items()]
    run, places = [], []
    for topic in topics:
        logits = system.logits[topic.id]
        lowest = min(logits, default=0.0)
        # What is not reranked stays below, in its order.
        below = [lowest - i for i in range(1, len(topic.candidates) - len(logits) + 1)]
        pairs = zip([*logits, *below], topic.candidates, strict=True)
        for place, (logit, candidate) in enumerate(sorted(pairs, key=lambda pair: -pair[0])):
            run.append(ScoredDoc(topic.id, candidate.id, logit))
            places.append(ScoredDoc(topic.id, candidate.id, -place))
    direct = ir_measures.calc_aggregate(standard_measures(relevant_from), qrels, places)
    for measure, value in direct.items():
        if not math.isclose(value, system.measured.mean[str(measure)], abs_tol=1e-9):
            msg = f"{measure} must be {value}, as ir_measures says, but got {system.measured.mean}"
            raise AssertionError(msg)
    return float(ir_measures.calc_aggregate([nDCG @ 10], qrels, run)[nDCG @ 10])


def row(evaluation: Evaluation) -> dict[str, Any]:
    """Return what the table shows of an evaluation."""
    plain, rrf, fitted = evaluation.systems
    cost = plain.cost
    return {
        "model": plain.name,
        "engine": f"{cost.engine}:{cost.dtype}" if cost else None,
        "depth": plain.depths[-1].depth,
        "queries": len(evaluation.queries),
        "first_stage": evaluation.first_stage,
        "first": evaluation.first.mean,
        "best_possible": evaluation.best_possible.mean,
        "alone": _system(plain),
        "rrf": _system(rrf),
        "fitted": _system(fitted),
        "calibrated": _calibrated(plain),
        "machine": evaluation.machine,
    }


def _system(system: System) -> dict[str, Any]:
    found: dict[str, Any] = {
        "mean": system.measured.mean,
        "against_first": _change(system.comparison),
        "depths": {str(one.depth): one.comparison.after for one in system.depths},
    }
    if system.fused:
        found |= {
            "fusion": system.fused.fusion,
            "fold_weights": system.fused.fold_weights,
            "against_alone": _change(system.fused.comparison),
        }
    return found


def _change(change: Comparison) -> dict[str, Any]:
    return {name: getattr(change, name) for name in ("delta", "low", "high", "p_value")}


def _calibrated(system: System) -> dict[str, Any] | None:
    if (found := system.calibrated) is None:
        return None
    return {
        "temperature": found.calibration.temperature,
        "offset": found.calibration.offset,
        "error_before": found.sigmoid.ece,
        "error_after": found.calibrated.ece,
        "wanted": found.wanted,
        "precision": found.precision,
        "precision_interval": [found.low, found.high],
        "recall": found.recall,
    }


def main(
    data: Annotated[Path, typer.Option(help="Folder with trec-dl/ and scifact/.")],
    sets: Annotated[list[Set] | None, typer.Option("--set", help="Repeatable. Default: all.")] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="A cross-encoder.")] = "bundled",
    engine: Annotated[str, typer.Option(help="Its engine.")] = "auto",
    device: Annotated[str, typer.Option(help="Its device.")] = "cpu",
    depth: Annotated[int, typer.Option(min=1, max=100, help="Candidates to rerank.")] = 100,
    precision: Annotated[float, typer.Option(help="That the threshold should reach.")] = 0.5,
    reports: Annotated[Path | None, typer.Option(help="Folder for full reports, one a set.")] = None,
    output: Annotated[Path, typer.Option(help="JSON to add to.")] = RESULTS,
) -> None:
    """Measure, print verdicts, and write figures."""
    found = json.loads(output.read_text()) if output.exists() else {}
    console = Console(stderr=True)
    timed = 20 if reports else 0
    with (
        CrossEncoderScorer(model, device=device, engine=engine, token_cache_bytes=0) as scorer,
        Progress(console=console) as bar,
    ):
        for name in sets or list(Set):
            task = bar.add_task(name)
            topics = load(name, data)
            evaluation = measure(
                *(name, topics, scorer, model, depth, precision, timed),
                lambda _, done, total, task=task: bar.update(task, completed=done, total=total),
            )
            for sentence in verdict(evaluation):
                bar.console.print(f"{name}: {sentence}", markup=False)
            if reports:
                write_report(evaluation, reports / name)
            by_ids = check(topics, evaluation.systems[0], RELEVANT_FROM[name])
            date = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
            found[name] = row(evaluation) | {
                "revision": scorer.info.revision,
                "ties_by_id": by_ids,
                "date": date,
            }
            output.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    typer.run(main)
