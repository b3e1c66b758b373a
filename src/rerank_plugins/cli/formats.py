"""Read passages, queries and TREC runs into topics: a query with its candidates."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rerank_plugins.errors import InvalidInputError
from rerank_plugins.files import (
    InputFormat,
    decode,
    guess_format,
    numbered_lines,
    read_file,
    read_hits,
    read_line,
    read_scored,
    read_texts,
    text_of,
    unique_texts,
)
from rerank_plugins.inputs import shorten

__all__ = ["Topic", "read_run", "read_topics"]


@dataclass(frozen=True)
class Topic:
    """A query and its candidates, in first-stage order.

    Attributes:
        id: Id of the query; None if it came by itself.
        query: Its text.
        documents: (id, text) of each candidate.
        scores: The first stage's score of each, None where it has none; empty if none has one.
    """

    id: str | None
    query: str
    documents: list[tuple[str, str]]
    scores: list[float | None] = field(default_factory=list)

    @classmethod
    def of(cls, qid: str | None, query: str, rows: Sequence[tuple[str, str, float | None]]) -> "Topic":
        """Make one of (id, text, score) of each candidate."""
        scores = [score for *_, score in rows]
        known = any(score is not None for score in scores)
        return cls(qid, query, [(docid, text) for docid, text, _ in rows], scores if known else [])


def read_topics(path: Path | None, query: str | None, form: InputFormat) -> list[Topic]:
    """Read passages for one query, or a top-100 file that brings its queries along.

    Raises:
        InvalidInputError: If a line cannot be read, or the query is missing.
    """
    if path is None and query is None and sys.stdin.isatty():  # nobody types a file with its own queries
        raise InvalidInputError("a query must be given with --query for passages that are typed")
    name = "stdin" if path is None or str(path) == "-" else str(path)
    text = decode(sys.stdin.buffer.read(), name) if name == "stdin" else read_file(Path(name))
    if form is InputFormat.auto:
        form = guess_format(name, text)
    if form is InputFormat.hits:
        topics = [
            Topic.of(
                hits.id, hits.query, [(*pair, s) for pair, s in zip(hits.documents, hits.scores, strict=True)]
            )
            for hits in read_hits(name, text)
        ]
        if query is not None:
            msg = f"--query must be left out, but got {shorten(query)}: {name} brings its own queries"
            raise InvalidInputError(msg)
        return topics
    if query is None:
        raise InvalidInputError("a query must be given with --query for passages of this format")
    rows = [read_line(line, f"{name}:{number}", str(number), form) for number, line in numbered_lines(text)]
    return [Topic.of(None, query, rows)]


def read_run(queries: Path | None, passages: Path | None, run: Path | None) -> list[Topic]:
    """Read a TREC run with the texts of its queries and passages, in the order of `read_scored`.

    Raises:
        InvalidInputError: If a file is missing or a line cannot be read, or an id has no text.
    """
    if queries is None or passages is None or run is None:
        raise InvalidInputError("a run needs all three of --queries, --passages and --run")
    query_texts = unique_texts(read_texts(queries), queries)
    passage_texts = unique_texts(read_texts(passages), passages)
    return [
        Topic.of(
            qid,
            text_of(qid, query_texts, run, queries),
            [(docid, text_of(docid, passage_texts, run, passages), score) for docid, score in found],
        )
        for qid, found in read_scored(run).items()
    ]
