"""What each part of the recipe is worth: the same small training, without one part at a time.

    python training/ablate.py --work training/work --steps 150

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
from teach import teach
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


def lists_for(
    config: Config, recipe: Config, without: str | None, work: Path, folder: Path, threads: int
) -> None:
    """Put a variant's lists and passages into its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in (work / "passages.jsonl", work / "queries.jsonl", work / "encoded"):
        (folder / path.name).unlink(missing_ok=True)
        (folder / path.name).symlink_to(path.resolve())
    if config.teach.hard != recipe.teach.hard:
        teach(folder, config.teach, config.seed, threads)
        return
    rows = read_rows(work / "lists.jsonl")
    write_rows(folder / "lists.jsonl", (r for r in rows if r["held_out"] or r["source"] != without))


def teacher_figures(work: Path, queries: int) -> dict[str, float]:
    """Return how well the teacher orders the held-out lists."""
    tests = choose_held_out(read_rows(work / "lists.jsonl"), queries)
    return by_source(tests, [torch.tensor(row["teacher"]) for row in tests])


def main(
    config: Annotated[Path, typer.Option(help="Settings.")] = Path("training/config.toml"),
    work: Annotated[Path, typer.Option(help="Work folder of run.py.")] = Path("training/work"),
    steps: Annotated[int, typer.Option(help="Steps of each variant.")] = 150,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    output: Annotated[Path, typer.Option(help="Where to write the table.")] = Path("training/ablations.json"),
) -> None:
    """Train every variant and write its held-out nDCG@10."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    settings = read_config(config)
    short = replace(settings.train, steps=steps, evaluate_every=10**9, decay=0.5)
    settings = replace(settings, train=short)
    table: dict[str, Any] = json.loads(output.read_text()) if output.exists() else {}
    table["teacher"] = teacher_figures(work, short.evaluate_queries)
    runs = [(name, variant, None) for name, variant in variants(settings).items()]
    runs += [(f"without {source}", settings, source) for source in settings.prepare.queries]
    for name, variant, without in runs:
        if name in table:
            continue
        folder = work / "ablations" / name.replace(" ", "-")
        lists_for(variant, settings, without, work, folder, threads)
        table[name] = make_trainer(folder, folder, variant, threads).run()
        shutil.rmtree(folder)
        output.write_text(json.dumps({"steps": steps} | table, indent=2) + "\n")
        logger.info("%s: %s", name, table[name])


if __name__ == "__main__":
    typer.run(main)
