"""What a labelling job is: its inputs, its model, and its shards. Written beside the labels as JSON.

A job is split into shards, a range of rows of one file each, before anything is scored. Each shard becomes
one file of the output, all or nothing; which are there says what is done.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from rerank_plugins.errors import InvalidInputError
from rerank_plugins.labelling.store import Format, InputFile, Store
from rerank_plugins.labelling.tables import count_lines, sample_lines, sample_schema
from rerank_plugins.scoring.loading import find_model
from rerank_plugins.settings import ScorerSettings

__all__ = [
    "MANIFEST",
    "Columns",
    "Job",
    "ModelPrint",
    "Shard",
    "Source",
    "json_schema",
    "measure",
    "print_model",
]

MANIFEST = "_labels.json"


@dataclass(frozen=True)
class Shard:
    """Rows of one input file, and the name of the file of their labels.

    Attributes:
        name: Of the output file.
        uri: Tells the file system of the input.
        path: Of the input file.
        first: Number of the first row, from 0.
        rows: How many; blank lines of JSONL are counted here, but are no pairs.
        start: JSONL: offset of the first line, unpacked.
        end: JSONL: offset after the last line.
    """

    name: str
    uri: str
    path: str
    first: int
    rows: int
    start: int
    end: int


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Columns(_Part):
    """Names of columns.

    Attributes:
        query: Of the queries.
        document: Of the documents.
        prefix: What the names of the added columns begin with.
    """

    query: str = "query"
    document: str = "document"
    prefix: str = ""

    @property
    def added(self) -> tuple[str, str, str]:
        """Names of the columns of labels: logit, probability, whether the document was cut."""
        return f"{self.prefix}logit", f"{self.prefix}score", f"{self.prefix}truncated"

    def check(self, names: Sequence[str], place: str) -> None:
        """Refuse columns that lack a text, or have what would be added.

        Raises:
            InvalidInputError: If so.
        """
        for role in ("query", "document"):
            name = getattr(self, role)
            if name not in names:
                msg = f"{place} must have a column {name!r}, but has {', '.join(names)}; set {role}_column"
                raise InvalidInputError(msg)
        taken = [name for name in self.added if name in names]
        if taken:
            msg = f"{place} must not have a column {taken[0]!r} already; give the new ones a prefix"
            raise InvalidInputError(msg)


class ModelPrint(_Part):
    """Which model, exactly, and how it computes."""

    model: str
    revision: str | None
    weights: str
    dtype: str
    engine: str
    max_length: int
    max_query_tokens: int


class Source(_Part):
    """An input file as it was when the job began."""

    path: str
    size: int
    changed: int
    rows: int
    offsets: tuple[int, ...] = ()


class Job(_Part):
    """All that decides what the output holds.

    Attributes:
        version: Of this format.
        sources: The inputs.
        columns: Names of columns.
        to: How labels are written.
        rows_per_shard: Rows of a shard, at most.
        scorer: The model.
    """

    version: Literal[1] = 1
    sources: tuple[Source, ...]
    columns: Columns
    to: Format
    rows_per_shard: int
    scorer: ModelPrint

    @property
    def rows(self) -> int:
        """Rows of all inputs."""
        return sum(source.rows for source in self.sources)

    def shards(self, files: Sequence[InputFile]) -> list[Shard]:
        """Return all shards, in order of the inputs."""
        shards: list[Shard] = []
        size = self.rows_per_shard
        for source, file in zip(self.sources, files, strict=True):
            for i, first in enumerate(range(0, source.rows, size)):
                start, end = source.offsets[i : i + 2] or (0, 0)
                name = f"part-{len(shards):06}.{self.to}"
                rows = min(size, source.rows - first)
                shards.append(Shard(name, file.uri, file.path, first, rows, start, end))
        return shards

    @classmethod
    def load(cls, store: Store) -> Self | None:
        """Return the job whose labels a folder holds, if any.

        Raises:
            InvalidInputError: If the folder holds something else.
        """
        names = store.names()
        if MANIFEST not in names:
            if names:
                msg = (
                    f"output must be a new folder, or one with labels of this job, but {store.uri} has "
                    f"{min(names)} and no {MANIFEST}; give another folder"
                )
                raise InvalidInputError(msg)
            return None
        try:
            return cls.model_validate_json(store.read(MANIFEST))
        except ValidationError as error:
            msg = f"{store.uri}/{MANIFEST} is not what a job writes ({error}); give another folder"
            raise InvalidInputError(msg) from error

    def check_same(self, files: Sequence[InputFile], columns: Columns, wanted: dict[str, Any]) -> None:
        """Refuse to continue with other inputs, columns, model or settings.

        Args:
            files: The inputs now.
            columns: Names of columns now.
            wanted: What else was asked for; None is not given.

        Raises:
            InvalidInputError: If anything differs.
        """
        was: dict[str, Any] = {source.path: (source.size, source.changed) for source in self.sources}
        now: dict[str, Any] = {file.path: (file.size, file.changed) for file in files}
        # Order counts: it decides which rows a shard has.
        differ = [path for path in [*was, *now] if was.get(path) != now.get(path)]
        if differ or list(was) != list(now):
            what = f"input {differ[0]}" if differ else "the order of the inputs"
            raise InvalidInputError(_changed(what))
        then = self.scorer.model_dump() | {"to": self.to, "rows_per_shard": self.rows_per_shard}
        for name, value in wanted.items():
            if value not in (None, "auto", then[name]):
                raise InvalidInputError(_changed(f"{name} (was {then[name]!r}, is {value!r})"))
        for name, value in columns.model_dump().items():
            before = getattr(self.columns, name)
            if before != value:
                raise InvalidInputError(_changed(f"column {name} (was {before!r}, is {value!r})"))


def _changed(what: str) -> str:
    return (
        f"a job can only be continued as it began, but {what} changed since; "
        "put that back, or start anew with another output folder"
    )


def print_model(settings: ScorerSettings) -> dict[str, Any]:
    """Return what of `ModelPrint` is known without loading the model: name, revision, digest of the weights.

    Raises:
        ModelError: If the model is not to be had.
    """
    found = find_model(settings)
    digest = hashlib.sha256()
    for path in sorted(found.folder.iterdir()):
        if path.suffix in {".safetensors", ".bin", ".txt"} or path.name in {"config.json", "tokenizer.json"}:
            with Path(path).open("rb") as file:
                digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return {"model": found.model, "revision": found.revision, "weights": digest.hexdigest()}


def measure(files: Sequence[InputFile], columns: Columns, rows_per_shard: int) -> tuple[Source, ...]:
    """Count the rows of each input, and check its columns where it names them.

    Raises:
        InvalidInputError: If a file cannot be read, or lacks a column.
    """
    return tuple(_measure(file, columns, rows_per_shard) for file in files)


def _measure(file: InputFile, columns: Columns, every: int) -> Source:
    files = Store(file.uri).files
    known: dict[str, Any] = {"path": file.path, "size": file.size, "changed": file.changed}
    if file.format == "jsonl":
        rows, offsets = count_lines(files, file.path, every)
        sample = sample_lines(files, file.path)
        if sample:
            columns.check(list(dict.fromkeys(name for row in sample for name in row)), file.path)
        return Source(rows=rows, offsets=tuple(offsets), **known)
    try:
        with files.open_input_file(file.path) as stream:
            read = pq.ParquetFile(stream)
            schema, rows = read.schema_arrow, read.metadata.num_rows
    except (OSError, pa.ArrowInvalid) as error:
        msg = f"{file.path} must be a Parquet file, but cannot be read: {error}"
        raise InvalidInputError(msg) from error
    columns.check(schema.names, file.path)
    for name in (columns.query, columns.document):
        kind = schema.field(name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
            msg = f"column {name!r} of {file.path} must hold strings, but holds {kind}; convert it first"
            raise InvalidInputError(msg)
    return Source(rows=rows, **known)


def json_schema(job: Job, files: Sequence[InputFile]) -> pa.Schema | None:
    """Return the types of the columns of JSONL inputs that become Parquet, by their first lines."""
    try:
        samples = [
            sample_schema(sample_lines(Store(file.uri).files, file.path))
            for source, file in zip(job.sources, files, strict=True)
            if file.format == "jsonl" and job.to == "parquet" and source.rows
        ]
        return pa.unify_schemas(samples, promote_options="permissive") if samples else None
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeError) as error:
        msg = f"the inputs must have columns of one type each to become Parquet, but: {error}; write jsonl"
        raise InvalidInputError(msg) from error
