"""What each part of the recipe is worth: the same small training, without one part at a time.

    python training/ablate.py --work training/work --steps 200

Runs on the passages, queries and lists that `run.py` left in `--work`. Each variant takes the same number
of steps from the same start and is measured on the same held-out queries. Finished variants are kept, so the
command goes on where it was interrupted.
"""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from config import Config, read_config
from files import read_rows, write_rows
from measure import by_source, choose_held_out
from train import make_trainer

logger = logging.getLogger("ablate")

ONE_HOT = 30.0  # a label's logit at which nothing else counts


def variants(config: Config) -> dict[str, Config]:
    """Return the settings of each variant that keeps all sources."""
    teaching = config.teach
    return {
        "recipe": config,
        "labels only": replace(config, teach=replace(teaching, scale=0.0, label=ONE_HOT)),
        "teacher only": replace(config, teach=replace(teaching, label=0.0)),
        "without hard negatives": replace(config, teach=replace(teaching, hard=0)),
    }


def lists_for(config: Config, recipe: Config, without: str | None, work: Path, folder: Path) -> None:
    """Put a variant's lists and passages into its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "passages.jsonl").unlink(missing_ok=True)
    (folder / "passages.jsonl").symlink_to((work / "passages.jsonl").resolve())
    rows = read_rows(work / "lists.jsonl")
    if config.teach.hard != recipe.teach.hard:
        rows = [row if row["held_out"] else without_hard(row) for row in rows]
        rows = [row for row in rows if len(row["passages"]) > 1]
    write_rows(folder / "lists.jsonl", (r for r in rows if r["held_out"] or r["source"] != without))


def without_hard(row: dict[str, Any]) -> dict[str, Any]:
    """Leave out a list's hard negatives, which come right behind its positive.

    Raises:
        typer.BadParameter: If the list does not say how many they are.
    """
    if "hard" not in row:
        msg = "lists.jsonl must say how many passages are hard, but is too old; delete it and run run.py"
        raise typer.BadParameter(msg)
    first = int(row["labelled"])
    kept = {name: row[name][:first] + row[name][first + row["hard"] :] for name in ("passages", "teacher")}
    return row | kept


def teacher_figures(work: Path, queries: int) -> dict[str, float]:
    """Return how well the teacher orders the held-out lists."""
    tests = choose_held_out(read_rows(work / "lists.jsonl"), queries)
    return by_source(tests, [torch.tensor(row["teacher"]) for row in tests])


def read_table(path: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the table so far, or one of nothing but the facts that all its figures share.

    Raises:
        typer.BadParameter: If there are figures that were measured with others.
    """
    if not path.exists():
        return facts
    table: dict[str, Any] = json.loads(path.read_text())
    before = {name: table.get(name) for name in facts}
    if before != facts:
        msg = f"{path} must be of {facts}, but is of {before}; give another --output"
        raise typer.BadParameter(msg)
    return table


def main(
    config: Annotated[Path, typer.Option(help="Settings.")] = Path("training/config.toml"),
    work: Annotated[Path, typer.Option(help="Work folder of run.py.")] = Path("training/work"),
    steps: Annotated[int, typer.Option(help="Steps of each variant.")] = 200,
    lists: Annotated[int | None, typer.Option(help="Queries a step; default: the settings'.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    device: Annotated[str, typer.Option(help="Where they train: cpu or cuda.")] = "cpu",
    only: Annotated[str, typer.Option(help="Names of variants, by comma; all by default.")] = "",
    output: Annotated[Path | None, typer.Option(help="The table; default: WORK/ablations.json.")] = None,
) -> None:
    """Train every variant and write its held-out nDCG@10."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    settings = read_config(config)
    lists = lists or settings.train.lists
    short = replace(settings.train, steps=steps, lists=lists, evaluate_every=10**9, decay=0.5)
    settings = replace(settings, train=short)
    facts = {"steps": steps, "lists": lists, "device": device, "queries": short.evaluate_queries}
    output = output or work / "ablations.json"
    table = read_table(output, facts)
    table["teacher"] = teacher_figures(work, short.evaluate_queries)
    runs = [(name, variant, None) for name, variant in variants(settings).items()]
    runs += [(f"without {source}", settings, source) for source in settings.prepare.queries]
    for name, variant, without in runs:
        if only and name not in only.split(","):
            continue
        if name in table:
            logger.info("%s is in %s already; take it out there to measure it anew", name, output)
            continue
        folder = work / "ablations" / name.replace(" ", "-")
        lists_for(variant, settings, without, work, folder)
        table[name] = make_trainer(folder, folder, variant, threads, device).run()
        shutil.rmtree(folder)
        output.write_text(json.dumps(table, indent=2) + "\n")
        logger.info("%s: %s", name, table[name])


if __name__ == "__main__":
    typer.run(main)
