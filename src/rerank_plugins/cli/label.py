"""`rerank-plugins label`: a bar while it runs, and what was done."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from rerank_plugins.labelling import LabelReport
from rerank_plugins.labelling import label as run

__all__ = ["label"]


def label(inputs: Sequence[str], output: str, options: dict[str, Any]) -> None:
    """Label, show how far it is, and say what was done.

    Args:
        inputs: Files, folders or patterns.
        output: The folder of the labels.
        options: Arguments of `rerank_plugins.labelling.label`; None is not given.

    Raises:
        typer.Exit: 130, if it was interrupted.
    """
    # Ray started here answers to nobody else: it need not report its use, nor each of its steps.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    console = Console(stderr=True)
    given = {name: value for name, value in options.items() if value is not None}
    try:
        with _bar(console) as progress:
            report = run(inputs, output, progress=progress, **given)
    except KeyboardInterrupt:
        console.print("interrupted; the same command continues", highlight=False)
        raise typer.Exit(130) from None
    for line in _lines(report, output):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def _bar(console: Console) -> Iterator[Any]:
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("pairs"), TimeElapsedColumn())
    bar = Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal)
    with bar:
        task = bar.add_task("", total=None)
        yield lambda report: bar.update(task, completed=report.done, total=report.rows)


def _lines(report: LabelReport, output: str) -> Iterator[str]:
    scorer = report.scorer
    yield f"{scorer.model}, {scorer.engine}, {scorer.dtype}"
    rate = f", {report.pairs / report.seconds:,.0f} a second with the start" if report.pairs else ""
    yield f"{report.pairs:,} pairs in {report.seconds:,.1f} s{rate}; {report.before:,} were done before"
    for name, worker in sorted(report.workers.items()):
        yield f"worker {name}: {worker.pairs:,} pairs, {worker.rate:,.0f} a second"
    if report.truncated:
        yield f"{report.truncated:,} documents were longer than the model reads, and cut"
    if report.bad:
        yield f"{report.bad:,} rows had no text, and got null labels"
    yield f"wrote {output}"
