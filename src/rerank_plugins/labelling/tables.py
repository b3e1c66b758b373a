"""Rows of a shard: read as they are, written with the labels beside them."""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from itertools import islice
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import fs

from rerank_plugins.errors import InvalidInputError
from rerank_plugins.inputs import shorten
from rerank_plugins.labelling.store import is_compressed

__all__ = [
    "JsonRows",
    "Rows",
    "TableRows",
    "count_lines",
    "read_lines",
    "read_table",
    "sample_lines",
    "sample_schema",
]

# Bytes read at once where lines are looked for.
_BLOCK = 2**23
# Rows of each JSONL file that are looked at when a job begins.
_SAMPLE = 1_000

Labels = Mapping[str, tuple[NDArray[Any], pa.DataType]]


class Rows(Protocol):
    """Rows of one shard."""

    def __len__(self) -> int: ...

    def column(self, name: str) -> list[Any]:
        """Return the values of a column; None where a row lacks it."""
        ...

    def number(self, index: int) -> int:
        """Return the number of a row in its file, from 1."""
        ...

    def encode(self, to: str, labels: Labels, bad: NDArray[Any], schema: pa.Schema | None) -> bytes:
        """Return a Parquet or JSONL file of the rows with the labels added.

        Args:
            to: "parquet" or "jsonl".
            labels: Name, values [n] and type of each column to add.
            bad: bool [n], rows whose labels are null.
            schema: Types of the rows' own columns, where rows of JSON become Parquet.

        Raises:
            InvalidInputError: If a value does not fit the output.
        """
        ...


@dataclass(frozen=True)
class TableRows:
    """Rows of a Parquet file.

    Attributes:
        table: The rows.
        first: Number of the first, from 0.
    """

    table: pa.Table
    first: int = 0

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def column(self, name: str) -> list[Any]:
        """Return the values of a column."""
        return list(self.table.column(name).to_pylist())

    def number(self, index: int) -> int:
        """Return the number of a row in its file, from 1."""
        return self.first + index + 1

    def encode(self, to: str, labels: Labels, bad: NDArray[Any], schema: pa.Schema | None) -> bytes:  # noqa: ARG002
        """Return a file of the rows; see `Rows.encode`."""
        table = self.table
        for name, (values, kind) in labels.items():
            table = table.append_column(name, pa.array(values, type=kind, mask=bad))
        return _parquet(table) if to == "parquet" else _lines(table.to_pylist())


@dataclass(frozen=True)
class JsonRows:
    """Rows of a JSONL file.

    Attributes:
        rows: The rows.
        lines: Number of each one's line, from 1.
    """

    rows: list[dict[str, Any]]
    lines: list[int]

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> list[Any]:
        """Return the values of a column; None where a row lacks it."""
        return [row.get(name) for row in self.rows]

    def number(self, index: int) -> int:
        """Return the number of a row's line in its file, from 1."""
        return self.lines[index]

    def encode(self, to: str, labels: Labels, bad: NDArray[Any], schema: pa.Schema | None) -> bytes:
        """Return a file of the rows; see `Rows.encode`."""
        taken = next((name for row in self.rows for name in labels if name in row), None)
        if taken is not None:
            msg = (
                f"rows must not have {taken!r} already, but one of this shard has; give the new ones a prefix"
            )
            raise InvalidInputError(msg)
        if to == "parquet":
            return TableRows(self._table(schema)).encode(to, labels, bad, None)
        added = zip(*(values.tolist() for values, _ in labels.values()), strict=True)
        nothing = dict.fromkeys(labels)
        rows = (
            row | (nothing if is_bad else dict(zip(labels, values, strict=True)))
            for row, values, is_bad in zip(self.rows, added, bad, strict=True)
        )
        return _lines(rows)

    def _table(self, schema: pa.Schema | None) -> pa.Table:
        known = set() if schema is None else set(schema.names)
        new = next((name for row in self.rows for name in row if name not in known), None)
        try:
            if new is None:
                return pa.Table.from_pylist(self.rows, schema=schema)
            reason = f"the column {new!r} is not among the first {_SAMPLE} lines of any input"
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeError) as error:
            reason = str(error)
        msg = f"lines must have the types of the first {_SAMPLE} to become Parquet, but {reason}; write jsonl"
        raise InvalidInputError(msg)


def read_table(files: fs.FileSystem, path: str, first: int, count: int) -> TableRows:
    """Read `count` rows of a Parquet file from row `first`, and only the row groups they are in."""
    with files.open_input_file(path) as stream:
        file = pq.ParquetFile(stream)
        groups: list[int] = []
        start = skip = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if start < first + count and first < start + rows:
                skip = skip if groups else first - start
                groups.append(group)
            start += rows
        parts, wanted = [], count
        for batch in file.iter_batches(row_groups=groups):
            part = batch.slice(skip, wanted)
            skip = max(0, skip - batch.num_rows)
            wanted -= part.num_rows
            if part.num_rows:
                parts.append(part)
            if not wanted:
                break
        return TableRows(pa.Table.from_batches(parts, schema=file.schema_arrow), first)


def read_lines(files: fs.FileSystem, path: str, start: int, end: int, first: int) -> JsonRows:
    """Read the lines of a JSONL file between two offsets of its unpacked bytes; blank lines are no rows.

    Args:
        files: The file system.
        path: The file.
        start: Offset of the first line.
        end: Offset after the last one.
        first: Number of the first line, from 0, for messages.

    Raises:
        InvalidInputError: If a line is no JSON object.
    """
    with _open(files, path) as stream:
        _skip(stream, start)
        content = bytes(stream.read(end - start))
    numbered = {
        number: _parse(line, f"{path}:{number}")
        for number, line in enumerate(content.split(b"\n"), start=first + 1)
        if line.strip()
    }
    return JsonRows(list(numbered.values()), list(numbered))


def _open(files: fs.FileSystem, path: str) -> pa.NativeFile:
    """Open a file, unpacked; one that is not packed can seek."""
    if is_compressed(path):
        return files.open_input_stream(path, compression="detect")
    return files.open_input_file(path)


def _skip(stream: pa.NativeFile, count: int) -> None:
    """Move on by `count` bytes."""
    if stream.seekable():
        stream.seek(count)
        return
    while count:
        count -= len(stream.read(min(count, _BLOCK)))


def _parse(line: bytes, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        msg = f"{place} must be a JSON object, but cannot be parsed: {error}; fix the line and start anew"
        raise InvalidInputError(msg) from error
    if not isinstance(row, dict):
        msg = f"{place} must be a JSON object, but got {shorten(row)}; fix the line and start anew"
        raise InvalidInputError(msg)
    return row


def count_lines(files: fs.FileSystem, path: str, every: int) -> tuple[int, list[int]]:
    """Return how many lines a file has, and the offset of every `every`-th and of the end.

    Raises:
        InvalidInputError: If the file cannot be unpacked.
    """
    import numpy as np

    count, offset, last, starts = 0, 0, b"\n", [0]
    try:
        with _open(files, path) as stream:
            while block := stream.read(_BLOCK):
                ends = np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == ord("\n"))
                due = ends[(every - 1 - count) % every :: every]
                starts += (offset + due + 1).tolist()
                count, offset, last = count + len(ends), offset + len(block), block[-1:]
    except OSError as error:
        msg = f"{path} must be readable, but: {error}"
        raise InvalidInputError(msg) from error
    if starts[-1] != offset or not offset:
        starts.append(offset)
    return count + (last != b"\n"), starts


def sample_lines(files: fs.FileSystem, path: str) -> list[dict[str, Any]]:
    """Return the first rows of a JSONL file, and read no more of it.

    Raises:
        InvalidInputError: If a line is no JSON object.
    """
    with io.BufferedReader(_open(files, path), _BLOCK) as lines:
        rows = (_parse(line, f"{path}:{n}") for n, line in enumerate(lines, start=1) if line.strip())
        return list(islice(rows, _SAMPLE))


def sample_schema(rows: Sequence[dict[str, Any]]) -> pa.Schema:
    """Return the types of the columns that rows of JSON have; columns of nulls are of strings."""
    names = dict.fromkeys(name for row in rows for name in row)
    # from_pylist looks at the first row's columns only.
    inferred = pa.Table.from_pylist([dict.fromkeys(names) | row for row in rows]).schema
    kinds = [pa.string() if pa.types.is_null(field.type) else field.type for field in inferred]
    return pa.schema(list(zip(inferred.names, kinds, strict=True)))


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


def _lines(rows: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(_line(row) + b"\n" for row in rows)


def _line(row: dict[str, Any]) -> bytes:
    try:
        text = json.dumps(row, ensure_ascii=False, allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        msg = f"rows must have values that JSON has, but got {shorten(row)}: {error}; write parquet"
        raise InvalidInputError(msg) from error
    # A lone surrogate, which a bad row may hold, has no UTF-8; escaped it stays what it was.
    return text.encode(errors="backslashreplace")


def _plain(value: Any) -> str:
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    msg = f"there is none for {shorten(value)}"
    raise TypeError(msg)
