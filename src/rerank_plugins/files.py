"""Read texts from files: JSONL, TSV, plain lines and top-100 JSON, each plain or gzipped."""

import gzip
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from rerank_plugins.errors import InvalidInputError
from rerank_plugins.inputs import shorten

__all__ = [
    "ID_KEYS",
    "TEXT_KEYS",
    "Hits",
    "InputFormat",
    "decode",
    "first_of",
    "guess_format",
    "numbered_lines",
    "parse_json",
    "read_file",
    "read_hits",
    "read_line",
    "read_row",
    "read_scored",
    "read_texts",
    "text_of",
    "unique_texts",
    "written",
]

# The keys that a passage's text and its id stand under, the first that has one counts.
TEXT_KEYS = ("text", "content", "contents", "passage", "page_content")
ID_KEYS = ("id", "docid", "_id", "doc_id")


class Hits(NamedTuple):
    """A query and what was retrieved for it.

    Attributes:
        id: Id of the query.
        query: Its text.
        documents: (id, text) of each hit, best first.
        scores: Score of each hit; None where it has none.
    """

    id: str
    query: str
    documents: list[tuple[str, str]]
    scores: list[float | None]


class InputFormat(StrEnum):
    """How passages are written."""

    auto = "auto"
    jsonl = "jsonl"
    tsv = "tsv"
    lines = "lines"
    hits = "hits"


def read_file(path: Path) -> str:
    """Return a file's text, unzipped.

    Raises:
        InvalidInputError: If it cannot be read, or is no UTF-8.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        msg = f"{path} must be a file that can be read, but: {error.strerror}"
        raise InvalidInputError(msg) from error
    return decode(raw, str(path))


@contextmanager
def written(option: str, path: Path, kind: str = "a file") -> Iterator[None]:
    """Turn what goes wrong when a file of an option is opened for writing into an error of ours.

    Raises:
        InvalidInputError: If it cannot be written.
    """
    try:
        yield
    except OSError as error:
        msg = f"{option} must be {kind} that can be written, but {path}: {error.strerror}"
        raise InvalidInputError(msg) from error


def decode(raw: bytes, name: str) -> str:
    """Return the text of a file, unzipped, without a byte order mark.

    Raises:
        InvalidInputError: If it is no UTF-8, or a damaged gzip.
    """
    try:
        return (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        msg = f"{name} must be UTF-8 text, plain or gzipped, but: {error}"
        raise InvalidInputError(msg) from error


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield numbered lines that are not blank; not `splitlines()`, which also splits at U+2028 and such."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.removesuffix("\r")


def guess_format(name: str, text: str) -> InputFormat:
    """Tell the format from the name, and from the first character where that says nothing."""
    suffixes = {suffix for suffix in Path(name).suffixes if suffix != ".gz"}
    start = text.lstrip()[:1]
    if ".tsv" in suffixes:
        return InputFormat.tsv
    _, first = next(numbered_lines(text), (0, ""))
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
    except (ValueError, RecursionError):
        return False


def read_line(line: str, place: str, number: str, form: InputFormat) -> tuple[str, str, float | None]:
    """Return (id, text, score) of one passage; the id is the line's number where it has none.

    Raises:
        InvalidInputError: If it is not of that format; `place` names it.
    """
    if form is InputFormat.lines:
        return number, line, None
    if form is InputFormat.tsv:
        docid, tab, text = line.partition("\t")
        if not tab:
            msg = f"{place} must be 'id<TAB>text', but got {shorten(line)}"
            raise InvalidInputError(msg)
        return docid, text, None
    row = parse_json(line, place)
    return *read_row(row, place, number), _score(row, place)


def read_row(row: Any, place: str, number: str) -> tuple[str, str]:
    """Return (id, text) of what JSON says of a passage, a text or an object; `number` is the id without one.

    Raises:
        InvalidInputError: If it has no text; `place` names it.
    """
    if isinstance(row, str):
        return number, row
    text = first_of(row, TEXT_KEYS)
    if not isinstance(text, str):
        msg = f"{place} must have a text under one of {', '.join(TEXT_KEYS)}, but got {shorten(row)}"
        raise InvalidInputError(msg)
    docid = first_of(row, ID_KEYS)
    return number if docid is None else str(docid), text


def parse_json(text: str, place: str) -> Any:
    """Return what JSON says.

    Raises:
        InvalidInputError: If it is no JSON, or nested too deep to be read; `place` names it.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        msg = f"{place} must be JSON, but cannot be parsed: {error}"
        raise InvalidInputError(msg) from error


def first_of(row: Any, keys: tuple[str, ...]) -> Any:
    """Return the first value under `keys` that is not null; None if there is none or `row` is no mapping."""
    if not isinstance(row, dict):
        return None
    return next((row[key] for key in keys if row.get(key) is not None), None)


def read_texts(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (id, text) of each line: JSONL, TSV or plain.

    Raises:
        InvalidInputError: If the file or a line cannot be read.
    """
    text = read_file(path)
    form = guess_format(str(path), text)
    for number, line in numbered_lines(text):
        docid, passage, _ = read_line(line, f"{path}:{number}", str(number), form)
        yield docid, passage


def unique_texts(rows: Iterable[tuple[str, str]], place: str | Path) -> dict[str, str]:
    """Return texts by id.

    Raises:
        InvalidInputError: If an id has two texts.
    """
    texts: dict[str, str] = {}
    for docid, text in rows:
        if texts.setdefault(docid, text) != text:
            msg = f"{place} must have one text for each id, but has two for {docid!r}"
            raise InvalidInputError(msg)
    return texts


def read_scored(run: Path) -> dict[str, list[tuple[str, float]]]:
    """Read a TREC run: (document id, score) by query id, best first by score as trec_eval does, then by rank.

    Raises:
        InvalidInputError: If the file or a line cannot be read, a score is not finite, or a document is named
            twice for a query.
    """
    scored: dict[str, list[tuple[float, int, str]]] = {}
    seen: set[tuple[str, str]] = set()
    for number, line in numbered_lines(read_file(run)):
        try:
            qid, _, docid, rank, score, _ = line.split()
            row = -float(score), int(rank), docid
        except ValueError:
            msg = f"{run}:{number} must be 'qid Q0 docid rank score tag', but got {shorten(line)}"
            raise InvalidInputError(msg) from None
        if not math.isfinite(row[0]) or (qid, docid) in seen:
            rule = "have a finite score" if not math.isfinite(row[0]) else "name a document once for a query"
            msg = f"{run}:{number} must {rule}, but got {shorten(line)}"
            raise InvalidInputError(msg)
        seen.add((qid, docid))
        scored.setdefault(qid, []).append(row)
    return {qid: [(docid, -lowered) for lowered, _, docid in sorted(rows)] for qid, rows in scored.items()}


def text_of(key: str, texts: Mapping[str, str], run: Path, file: Path | str) -> str:
    """Return the text of what a run names.

    Raises:
        InvalidInputError: If the texts, which are those of `file`, lack it.
    """
    if key not in texts:
        msg = f"{run} names {key!r}, which must have a text in {file}, but has none"
        raise InvalidInputError(msg)
    return texts[key]


def read_hits(name: str, text: str) -> Iterator[Hits]:
    """Read `[{query, hits: [{content, qid, docid}]}]`, as rank_llm publishes retrieved passages.

    Raises:
        InvalidInputError: If it is not that.
    """
    rows = parse_json(text, name)
    for i, row in enumerate(rows if isinstance(rows, list) else [rows]):
        place = f"{name}[{i}]"
        query, hits = (row.get("query"), row.get("hits")) if isinstance(row, dict) else (None, None)
        if not isinstance(query, str) or not isinstance(hits, list):
            msg = f"{place} must have a query and hits, but got {shorten(row)}"
            raise InvalidInputError(msg)
        qids = (first_of(hit, ("qid",)) for hit in hits)
        qid = next((str(one) for one in qids if one is not None), str(i + 1))
        placed = [(hit, f"{place}.hits[{j}]", str(j + 1)) for j, hit in enumerate(hits)]
        documents = [read_row(*one) for one in placed]
        yield Hits(qid, query, documents, [_score(hit, at) for hit, at, _ in placed])


def _score(row: Any, place: str) -> float | None:
    value = first_of(row, ("score",))
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        msg = f"{place} must have a score that a float can hold, but got {shorten(value)}"
        raise InvalidInputError(msg) from None
