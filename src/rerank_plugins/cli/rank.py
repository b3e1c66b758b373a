"""Rerank topics and write the rankings."""

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import track
from rich.table import Table

from rerank_plugins._adapters import lazy_reranker
from rerank_plugins.cli.formats import Topic
from rerank_plugins.cli.options import OutputFormat
from rerank_plugins.errors import InvalidInputError
from rerank_plugins.files import written
from rerank_plugins.inputs import shorten
from rerank_plugins.ranking import RankedDocument, Ranking

__all__ = ["rerank_topics", "show_table"]


def rerank_topics(
    topics: list[Topic],
    *,
    output: Path | None,
    to: OutputFormat | None,
    run_name: str,
    scorer_options: dict[str, Any],
    rerank_options: dict[str, Any],
) -> None:
    """Rerank each topic and write the rankings to a file or to stdout; say on stderr if orders were kept."""
    if to is None:
        on_terminal = output is None and sys.stdout.isatty()
        to = OutputFormat.table if on_terminal else OutputFormat.jsonl
    reasons: list[str | None] = []
    lazy = lazy_reranker(scorer_options | rerank_options)
    if output is None and isinstance(sys.stdout, TextIOWrapper) and to is not OutputFormat.table:
        sys.stdout.reconfigure(encoding="utf-8")  # as files are, whatever the terminal's is
    with lazy.get() as reranker, _open(output) as file:
        for topic in _with_progress(topics):
            texts = [text for _, text in topic.documents]
            ranking = reranker.rank(topic.query, texts, first_stage=topic.scores or None)
            if not ranking.reranked:
                reasons.append(ranking.reason)
            if to is OutputFormat.table:
                show_table(topic, ranking, Console(file=file))
            else:
                write = _to_jsonl if to is OutputFormat.jsonl else _to_trec
                file.writelines(write(topic, ranking, run_name))
    if reasons:
        what = f"kept the order of {len(reasons)} of {len(topics)} queries, lastly because of: {reasons[-1]}"
        sys.stderr.write(f"rerank-plugins: {what}\n")


def show_table(topic: Topic, ranking: Ranking, console: Console) -> None:
    """Print a ranking for people."""
    table = Table(title=_plain(topic.query), title_justify="left")
    for heading in ("rank", "was", "id", ranking.scale, "passage"):
        table.add_column(heading, justify="left" if heading in {"id", "passage"} else "right")
    for rank, ranked in enumerate(ranking, start=1):
        docid, text = topic.documents[ranked.index]
        start, end = ranked.passage or (0, None)
        cut = " [dim](cut)[/dim]" if ranked.truncated else ""
        score = "" if ranked.score is None else f"{ranked.score:.4f}"
        table.add_row(
            *(str(rank), str(ranked.index + 1), _plain(docid), score),
            _plain(text[start:end][:160]) + cut,
        )
    console.print(table)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _rows(topic: Topic, ranking: Ranking) -> Iterator[tuple[int, str, RankedDocument]]:
    for rank, ranked in enumerate(ranking, start=1):
        yield rank, topic.documents[ranked.index][0], ranked


def _to_jsonl(topic: Topic, ranking: Ranking, _: str) -> Iterator[str]:
    for rank, docid, ranked in _rows(topic, ranking):
        row = {
            "qid": topic.id,
            "query": topic.query,
            "id": docid,
            "rank": rank,
            "score": ranked.score,
            "logit": ranked.logit,
            "fused": ranked.fused,
            "index": ranked.index,
            "truncated": ranked.truncated,
            "passage": ranked.passage,
            "text": ranked.text,
            "reranked": ranking.reranked,
        }
        yield json.dumps(row, ensure_ascii=False) + "\n"


def _to_trec(topic: Topic, ranking: Ranking, run_name: str) -> Iterator[str]:
    """Write `qid Q0 docid rank score tag`.

    The score is what the order goes by: the fused value with fusion, else the logit, since a probability may
    saturate. Evaluators order by score and break ties by id, so equals are told apart by the smallest
    step of a float32, as which trec_eval reads scores: the file keeps our order.
    """
    import numpy as np

    qid, tag = _column(topic.id or "1", "query id"), _column(run_name, "--run-name")
    above = np.float32(np.inf)
    for rank, docid, ranked in _rows(topic, ranking):
        by = ranked.logit if ranked.fused is None else ranked.fused
        above = min(np.float32(by or 0.0), np.nextafter(above, np.float32(-np.inf)))
        yield f"{qid} Q0 {_column(docid, 'passage id')} {rank} {float(above)!r} {tag}\n"


def _column(value: str, name: str) -> str:
    if len(value.split()) != 1 or value != value.strip():
        msg = f"a {name} in a TREC run must be one word, but got {shorten(value)}; write --to jsonl"
        raise InvalidInputError(msg)
    return value


@contextmanager
def _open(output: Path | None) -> Iterator[TextIO]:
    if output is None:
        yield sys.stdout
        return
    with written("--output", output):
        file = output.open("w", encoding="utf-8")
    with file:
        yield file


def _with_progress(topics: list[Topic]) -> Iterable[Topic]:
    """Show a bar on a terminal, for work long enough to want one."""
    console = Console(stderr=True)
    if len(topics) < 2 or not console.is_terminal:
        return topics
    return track(topics, description="reranking", console=console)
