"""`rerank-plugins eval`: does reranking help on this data, with which model, at what cost."""

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as RichTable

from rerank_plugins._adapters import lazy_reranker
from rerank_plugins.cli.options import EvalFormat
from rerank_plugins.errors import InvalidInputError
from rerank_plugins.evaluation import (
    Topics,
    count_words,
    evaluate,
    load_beir,
    load_demo,
    load_hits,
    load_ir_dataset,
    load_jsonl,
    load_run,
    read_run,
    retrieve,
    verdict,
    write_report,
)
from rerank_plugins.evaluation.load import stem
from rerank_plugins.evaluation.report import to_json
from rerank_plugins.evaluation.tables import Table, facts, tables
from rerank_plugins.files import written
from rerank_plugins.reranker import Reranker
from rerank_plugins.settings import ScorerSettings

__all__ = ["fusions", "load", "run", "token_counter", "with_candidates"]

# A table of figures that is folded cannot be read; a narrow terminal wraps lines instead.
_LEAST_WIDTH = 140


def load(
    source: str,
    form: EvalFormat,
    qrels: Path | None,
    queries: Path | None,
    passages: Path | None,
    split: str,
) -> Topics:
    """Load the test set that `source` names.

    Raises:
        InvalidInputError: If it cannot be read, or lacks files that its format needs.
    """
    form = _guess(source) if form is EvalFormat.auto else form
    given = {"--qrels": qrels, "--queries": queries, "--passages": passages}
    needed = {EvalFormat.hits: ["--qrels"], EvalFormat.run: list(given)}.get(form, [])
    for name, path in given.items():
        if (path is None) == (name in needed):
            verb = "is needed" if path is None else "has no use"
            msg = f"{name} {verb} for a source of format {form}, as which {source} was taken; see --format"
            raise InvalidInputError(msg)
    if form is EvalFormat.hits and qrels is not None:
        return load_hits(source, qrels)
    if qrels is not None and queries is not None and passages is not None:
        return load_run(source, qrels, queries, passages)
    if form is EvalFormat.beir:
        return load_beir(source, split)
    if form is EvalFormat.jsonl:
        return load_jsonl(source)
    return load_demo() if form is EvalFormat.demo else load_ir_dataset(source)


def _guess(source: str) -> EvalFormat:
    path = Path(source)
    if path.is_dir():
        return EvalFormat.beir
    if path.is_file():
        suffix = Path(path.name.removesuffix(".gz")).suffix
        return {".jsonl": EvalFormat.jsonl, ".json": EvalFormat.hits}.get(suffix, EvalFormat.run)
    if source == "demo":
        return EvalFormat.demo
    if path.suffix or path.is_absolute():
        msg = f"{source} must be a file, a folder, an ir_datasets id or 'demo', but there is no such file"
        raise InvalidInputError(msg)
    return EvalFormat.dataset


def with_candidates(topics: Topics, first_stage: str | None, depth: int) -> Topics:
    """Return the topics with the candidates of the wanted first stage.

    Raises:
        InvalidInputError: If there are none, or the retriever cannot be imported.
    """
    if first_stage is None:
        first_stage = "bm25s" if topics.first_stage is None else "given"
    if first_stage == "given":
        return topics
    with _progress() as progress:
        if ":" not in first_stage:
            return retrieve(topics, first_stage, depth=depth, progress=progress)
        retriever = _import("--first-stage", first_stage)
        return retrieve(topics, retriever, depth=depth, name=first_stage, progress=progress)


def token_counter(name: str | None) -> Callable[[str], int]:
    """Return what counts a passage's tokens in a prompt: the function of that name, else words.

    Raises:
        InvalidInputError: If it cannot be imported, or does not count.
    """
    if name is None:
        return count_words
    count: Callable[[str], int] = _import("--count-tokens", name)
    try:
        counted = count("Goethe wrote Faust.")
    except Exception as error:
        msg = f"--count-tokens must name a function from a text to a number, but {name} raises {error!r}"
        raise InvalidInputError(msg) from error
    if not isinstance(counted, int):
        msg = f"--count-tokens must name a function that returns an integer, but {name} returns {counted!r}"
        raise InvalidInputError(msg)
    return count


def _import(option: str, name: str) -> Any:
    module, _, attribute = name.partition(":")
    # As python itself does, and to stay: what is imported may import its neighbours when it is first called.
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        msg = f"{option} must be module:name that can be imported, but {name}: {error}"
        raise InvalidInputError(msg) from error


def fusions(given: Sequence[str]) -> list[str]:
    """Return what to measure: a weight that is fitted is seen best beside `"rrf"`, which needs no fit."""
    return ["rrf", *given] if "fit" in given else list(given)


def run(
    topics: Topics,
    *,
    models: Sequence[str] | None,
    runs: Sequence[Path],
    options: Mapping[str, Any],
    arguments: Mapping[str, Any],
    output: Path | None,
    as_json: bool,
) -> None:
    """Evaluate, print verdict and tables, and write the reports where asked.

    Args:
        topics: With candidates.
        models: Models to evaluate; None: the one of the settings, unless there are runs.
        runs: TREC runs of other systems.
        options: Settings of scorers and rerankers; None is not given.
        arguments: Of `evaluate`.
        output: Folder of the reports.
        as_json: Print JSON, nothing else.
    """
    _make_folder(output)
    names: dict[str, str | None] = {name: name for name in models or ()}
    if not names and not runs:
        names = {"remote": None} if options.get("remote") else {ScorerSettings(**{}).model: None}
    with ExitStack() as stack:
        # All are loaded before the first is measured: what cannot be loaded should be known at once.
        systems: dict[str, Any] = {
            name: stack.enter_context(_measured(options, model)) for name, model in names.items()
        }
        for path in runs:
            name = stem(path)
            if name in systems:
                msg = f"systems must have names of their own, but {name!r} is there twice; rename {path}"
                raise InvalidInputError(msg)
            systems[name] = read_run(path)
        with _progress() as progress:
            evaluation = evaluate(topics, systems, progress=progress, **arguments)
    reports = write_report(evaluation, output) if output else []
    if as_json:
        sys.stdout.write(to_json(evaluation))
        return
    console = Console()
    console.width = max(console.width, _LEAST_WIDTH)
    for sentence in verdict(evaluation):
        console.print(sentence, markup=False, highlight=False)
    for table in tables(evaluation):
        console.print(_rich(table))
        if table.note:
            console.print(table.note, markup=False, highlight=False, style="dim")
    for fact in facts(evaluation):
        console.print(f"- {fact}", markup=False, highlight=False)
    for path in reports:
        console.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)


def _make_folder(output: Path | None) -> None:
    """Make the folder of the reports, or say that it cannot be, before anything is scored."""
    if output:
        with written("--output", output, "a folder"):
            output.mkdir(parents=True, exist_ok=True)


def _measured(options: Mapping[str, Any], model: str | None) -> Reranker:
    """Return a reranker whose latencies are those of new texts, errors are errors, and order is its own.

    What is fused is measured beside it, where asked, whatever `RERANK_FUSION` says.
    """
    # What a server remembers is its own affair.
    caches = {} if options.get("remote") else {"token_cache_bytes": 0, "score_cache_size": 0}
    lazy = lazy_reranker({**options, **caches, "model": model, "on_error": "raise"})
    return lazy.get().with_settings(fusion=None)


@contextmanager
def _progress() -> Iterator[Any]:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def show(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(escape(name), total=total)
            bars.update(tasks[name], completed=done)

        yield show


def _rich(table: Table) -> RichTable:
    shown = RichTable(title=escape(table.title), title_justify="left")
    for i, name in enumerate(table.columns):
        shown.add_column(escape(name), justify="right" if i else "left")
    for row in table.rows:
        shown.add_row(*map(escape, row))
    return shown
