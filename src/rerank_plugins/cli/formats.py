"""Read passages, queries and TREC runs into topics: a query with its candidates."""

import gzip
import json
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerank_plugins.cli.options import InputFormat
from rerank_plugins.errors import InvalidInputError
from rerank_plugins.inputs import shorten

__all__ = ["Topic", "read_run", "read_topics"]

_TEXT_KEYS = ("text", "content", "contents", "passage", "page_content")
_ID_KEYS = ("id", "docid", "_id", "doc_id")


@dataclass(frozen=True)
class Topic:
    """A query and its candidates, in first-stage order.

    Attributes:
        id: Id of the query; None if it came by itself.
        query: Its text.
        documents: (id, text) of each candidate.
    """

    id: str | None
    query: str
    documents: list[tuple[str, str]]


def read_topics(path: Path | None, query: str | None, form: InputFormat) -> list[Topic]:
    """Read passages for one query, or a top-100 file that brings its queries along.

    Raises:
        InvalidInputError: If a line cannot be read, or the query is missing.
    """
    name = "stdin" if path is None or str(path) == "-" else str(path)
    text = _decode(sys.stdin.buffer.read(), name) if name == "stdin" else _read(Path(name))
    if form is InputFormat.auto:
        form = _guess(name, text)
    if form is InputFormat.hits:
        topics = list(_read_hits(name, text))
        if query is not None:
            msg = f"--query must be left out, but got {shorten(query)}: {name} brings its own queries"
            raise InvalidInputError(msg)
        return topics
    if query is None:
        raise InvalidInputError("a query must be given with --query for passages of this format")
    documents = [_read_line(line, f"{name}:{number}", str(number), form) for number, line in _lines(text)]
    return [Topic(None, query, documents)]


def read_run(queries: Path | None, passages: Path | None, run: Path | None) -> list[Topic]:
    """Read a TREC run with the texts of its queries and passages.

    Raises:
        InvalidInputError: If a file is missing or a line cannot be read, or an id has no text.
    """
    if queries is None or passages is None or run is None:
        raise InvalidInputError("a run needs all three of --queries, --passages and --run")
    query_texts = dict(_read_texts(queries))
    passage_texts = dict(_read_texts(passages))
    topics: dict[str, list[tuple[int, str]]] = {}
    for number, line in _lines(_read(run)):
        fields = line.split()
        if len(fields) != 6 or not fields[3].isdigit():
            msg = f"{run}:{number} must be 'qid Q0 docid rank score tag', but got {shorten(line)}"
            raise InvalidInputError(msg)
        qid, _, docid, rank, _, _ = fields
        for known, key, file in ((query_texts, qid, queries), (passage_texts, docid, passages)):
            if key not in known:
                msg = f"{run}:{number} names {key!r}, which must have a text in {file}, but has none"
                raise InvalidInputError(msg)
        topics.setdefault(qid, []).append((int(rank), docid))
    return [
        Topic(qid, query_texts[qid], [(docid, passage_texts[docid]) for _, docid in sorted(ranked)])
        for qid, ranked in topics.items()
    ]


def _read(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        msg = f"{path} must be a file that can be read, but: {error.strerror}"
        raise InvalidInputError(msg) from error
    return _decode(raw, str(path))


def _decode(raw: bytes, name: str) -> str:
    """Return the text of a file, unzipped, without a byte order mark."""
    try:
        return (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        msg = f"{name} must be UTF-8 text, plain or gzipped, but: {error}"
        raise InvalidInputError(msg) from error


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield numbered lines that are not blank; not `splitlines()`, which also splits at U+2028 and such."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.removesuffix("\r")


def _guess(name: str, text: str) -> InputFormat:
    """Tell the format from the name, and from the first character where that says nothing."""
    suffixes = {suffix for suffix in Path(name).suffixes if suffix != ".gz"}
    start = text.lstrip()[:1]
    if ".tsv" in suffixes:
        return InputFormat.tsv
    _, first = next(_lines(text), (0, ""))
    if start == "[" and (".json" in suffixes or _starts_array(text)):
        return InputFormat.hits
    if ".jsonl" in suffixes or start == "{" or _is_json_string(first):
        return InputFormat.jsonl
    return InputFormat.tsv if first.count("\t") == 1 else InputFormat.lines


def _starts_array(text: str) -> bool:
    """Tell `[{"query": ...` from a plain line that begins with a bracket."""
    return text.lstrip()[1:].lstrip()[:1] == "{"


def _is_json_string(line: str) -> bool:
    try:
        return isinstance(json.loads(line), str)
    except ValueError:
        return False


def _read_line(line: str, place: str, number: str, form: InputFormat) -> tuple[str, str]:
    """Return (id, text) of one passage; the id is the line's number where it has none."""
    if form is InputFormat.lines:
        return number, line
    if form is InputFormat.tsv:
        docid, tab, text = line.partition("\t")
        if not tab:
            msg = f"{place} must be 'id<TAB>text', but got {shorten(line)}"
            raise InvalidInputError(msg)
        return docid, text
    row = _parse(line, place)
    if isinstance(row, str):
        return number, row
    text = _first(row, _TEXT_KEYS)
    if not isinstance(text, str):
        msg = f"{place} must have a text under one of {', '.join(_TEXT_KEYS)}, but got {shorten(row)}"
        raise InvalidInputError(msg)
    docid = _first(row, _ID_KEYS)
    return number if docid is None else str(docid), text


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        msg = f"{place} must be JSON, but cannot be parsed: {error}"
        raise InvalidInputError(msg) from error


def _first(row: Any, keys: tuple[str, ...]) -> Any:
    if not isinstance(row, dict):
        return None
    return next((row[key] for key in keys if key in row), None)


def _read_texts(path: Path) -> Iterator[tuple[str, str]]:
    text = _read(path)
    form = _guess(str(path), text)
    for number, line in _lines(text):
        yield _read_line(line, f"{path}:{number}", str(number), form)


def _read_hits(name: str, text: str) -> Iterator[Topic]:
    """Read `[{query, hits: [{content, qid, docid}]}]`, as rank_llm publishes retrieved passages."""
    rows = _parse(text, name)
    for i, row in enumerate(rows if isinstance(rows, list) else [rows]):
        place = f"{name}[{i}]"
        query, hits = (row.get("query"), row.get("hits")) if isinstance(row, dict) else (None, None)
        if not isinstance(query, str) or not isinstance(hits, list):
            msg = f"{place} must have a query and hits, but got {shorten(row)}"
            raise InvalidInputError(msg)
        qid = next((str(hit["qid"]) for hit in hits if isinstance(hit, dict) and "qid" in hit), str(i + 1))
        documents = [
            _read_line(json.dumps(hit), f"{place}.hits[{j}]", str(j + 1), InputFormat.jsonl)
            for j, hit in enumerate(hits)
        ]
        yield Topic(qid, query, documents)
