"""Adapt a cross-encoder to your own domain, with the pipeline that makes the bundled model.

    python training/adapt.py --pairs pairs.jsonl --documents documents.jsonl --output my-model

`pairs.jsonl` has {"query", "positive" (a text, or several), "negatives" (optional)} a line. `documents.jsonl`
has {"text", "title" (optional)}: more candidates, and queries made of titles and of sentences taken out of
their passage. Either file will do. A tenth of the queries is held out and measured before and after. What is
made on the way stands in the output's folder `.adapting` until all is done; the same command goes on from it.
"""

import json
import logging
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from config import Config, PrepareConfig, TrainConfig
from export import export
from files import read_rows, write_rows
from prepare import collect
from sources import Document, Question, cut, sentences
from teach import teach
from train import make_trainer

logger = logging.getLogger("adapt")

# A user's queries stay as they were typed.
PREPARE = PrepareConfig(per_document=2, held_out=0.1, vary=False)
BODY_RATE, HEAD_RATE = 5e-5, 5e-5  # gentler than from scratch: the model already ranks
EPOCHS = 2
WORK = ".adapting"
OURS = "made-by-adapt.txt"  # stands in a work folder, which may be removed


class PairsError(ValueError):
    """The user's file is not what `adapt` reads."""


def read_pairs(path: Path) -> Iterator[Document]:
    """Yield each query with its positives; texts are taken as they are, cut by tokens alone.

    Raises:
        PairsError: If a line lacks a field.
    """
    for number, row in enumerate(read_rows(path), start=1):
        try:
            query, positive = row["query"], row["positive"]
        except (KeyError, TypeError):
            msg = f'{path} line {number} must be an object with "query" and "positive", but got {row!r:.100}'
            raise PairsError(msg) from None
        positives = [positive] if isinstance(positive, str) else list(positive)
        negatives = list(row.get("negatives") or [])
        yield Document(
            positives + negatives,
            [
                Question(
                    query,
                    tuple(range(len(positives))),
                    negatives=tuple(range(len(positives), len(positives) + len(negatives))),
                )
            ],
        )


def read_documents(path: Path, seed: int) -> Iterator[Document]:
    """Yield documents in passages, asked for by title and by a sentence that is taken out.

    Raises:
        PairsError: If a line lacks its text.
    """
    rng = random.Random(seed)
    for number, row in enumerate(read_rows(path), start=1):
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            msg = f'{path} line {number} must be an object with "text", but got {row!r:.100}'
            raise PairsError(msg)
        passages = cut(row["text"])
        questions = [Question(row["title"], tuple(range(len(passages))))] if row.get("title") else []
        place = rng.randrange(len(passages)) if passages else 0
        rest = sentences(passages[place]) if passages else []
        if len(rest) >= 3:
            taken = rest.pop(rng.randrange(len(rest)))
            passages[place] = " ".join(rest)
            questions.append(Question(taken, (place,)))
        yield Document(passages, questions)


def hold_some_out(queries: list[dict[str, Any]]) -> None:
    """Hold out a labelled query, and those with the same positives, where chance has chosen none."""
    labelled = [row for row in queries if row["positives"]]
    if not any(row["held_out"] for row in labelled):
        alike = {r["query"] for r in labelled if not set(r["positives"]).isdisjoint(labelled[0]["positives"])}
        for row in queries:
            row["held_out"] = row["held_out"] or row["query"] in alike


def open_work(output: Path) -> Path:
    """Return the folder for what is made on the way: a new one, or that of an interrupted adaptation.

    Raises:
        typer.BadParameter: If a folder of that name was not made here.
    """
    work = output / WORK
    work.mkdir(parents=True, exist_ok=True)
    if any(work.iterdir()) and not (work / OURS).exists():
        msg = f"{work} must be new, or of an interrupted adaptation, but is not; give another --output"
        raise typer.BadParameter(msg)
    (work / OURS).touch()
    return work


def settings_for(start: str, queries: int, steps: int | None, max_tokens: int, seed: int) -> Config:
    """Return the settings of an adaptation: about two epochs unless told."""
    defaults = TrainConfig()
    wanted = steps or max(20, EPOCHS * queries // defaults.lists)
    train = replace(
        defaults,
        start=start,
        steps=wanted,
        body_rate=BODY_RATE,
        head_rate=HEAD_RATE,
        warm_up=max(1, wanted // 10),
        decay=0.9,
        max_tokens=max_tokens,
        evaluate_every=10**9,
    )
    return Config(seed=seed, prepare=PREPARE, train=train)


def main(
    output: Annotated[Path, typer.Option(help="Folder for the adapted model.")],
    pairs: Annotated[Path | None, typer.Option(help="JSONL of query, positive, negatives.")] = None,
    documents: Annotated[Path | None, typer.Option(help="JSONL of text, title.")] = None,
    start: Annotated[str, typer.Option(help="Model to adapt: bundled, folder or hub id.")] = "bundled",
    steps: Annotated[int | None, typer.Option(help="Steps of 8 queries; default: two epochs.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Longest pair.")] = 512,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    device: Annotated[str, typer.Option(help="Where to train: cpu or cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 1,
) -> None:
    """Adapt a model to pairs, documents or both; print held-out nDCG@10 before and after."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    sources: dict[str, Iterator[Document]] = {}
    if pairs:
        sources["pairs"] = read_pairs(pairs)
    if documents:
        sources["documents"] = read_documents(documents, seed)
    if not sources:
        msg = "give --pairs, --documents or both"
        raise typer.BadParameter(msg)
    work = open_work(output)
    passages, queries = collect(sources, PREPARE, seed)
    hold_some_out(queries)
    write_rows(work / "passages.jsonl", passages)
    write_rows(work / "queries.jsonl", queries)
    learning = sum(not row["held_out"] for row in queries)
    settings = settings_for(start, learning, steps, max_tokens, seed)
    teach(work, settings.teach, seed, threads)
    trainer = make_trainer(work, work, settings, threads, device)
    before: dict[str, Any] = trainer.evaluate()  # of the start, also after an interruption: run() resumes
    after = trainer.run()
    export(work / "model", work, output)
    (output / "held-out.json").write_text(json.dumps({"before": before, "after": after}, indent=2) + "\n")
    shutil.rmtree(work)
    logger.info("held-out nDCG@10 by source, before %s, after %s; the model is in %s", before, after, output)


if __name__ == "__main__":
    typer.run(main)
