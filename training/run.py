"""Train the bundled model, from public data to the folder that ships.

    python training/run.py --config training/config.toml --data DATA

Each step is left out when its output is there; `--work` holds them all, and checkpoints. Start the command
again after an interruption, or with more steps in the configuration, and it goes on.
"""

import json
import logging
from pathlib import Path
from typing import Annotated

import typer

from config import read_config
from export import export
from prepare import prepare
from teach import teach
from train import make_trainer

logger = logging.getLogger("run")


def main(
    config: Annotated[Path, typer.Option(help="Settings.")] = Path("training/config.toml"),
    data: Annotated[Path, typer.Option(help="Folder with train/ and scifact/.")] = Path("../shared/data"),
    work: Annotated[Path, typer.Option(help="Folder of what is made on the way.")] = Path("training/work"),
    output: Annotated[Path | None, typer.Option(help="Folder to export to; default: WORK/export.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    device: Annotated[str, typer.Option(help="Where the student trains: cpu or cuda.")] = "cpu",
) -> None:
    """Prepare, teach, train, export."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    settings = read_config(config)
    if not (work / "queries.jsonl").exists():
        prepare(data, work, settings.prepare, settings.seed)
    if not (work / "lists.jsonl").exists():
        teach(work, settings.teach, settings.seed, threads)
    figures = make_trainer(work, work, settings, threads, device).run()
    (work / "held-out.json").write_text(json.dumps(figures, indent=2) + "\n")
    export(work / "model", work, output or work / "export")


if __name__ == "__main__":
    typer.run(main)
