"""Files in a folder or on an object store: what to read, and writing that is all or nothing."""

import os
import re
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Literal

from pyarrow import fs

from rerank_plugins.errors import InvalidInputError

__all__ = ["FORMATS", "Format", "InputFile", "Store", "find_inputs", "is_compressed", "takes_in"]

Format = Literal["parquet", "jsonl"]
# How files of these endings are read.
FORMATS: dict[str, Format] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}
_COMPRESSED = (".gz", ".bz2", ".zst")
# The name of a file that is being written.
_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{32}")


@dataclass(frozen=True)
class InputFile:
    """A file to read.

    Attributes:
        uri: As it, or the folder it is in, was given, but absolute; tells the file system.
        path: Of the file, on that file system.
        size: Bytes.
        changed: When it was last written, in nanoseconds since 1970.
    """

    uri: str
    path: str
    size: int
    changed: int

    @property
    def format(self) -> Format:
        """How it is read: "parquet" or "jsonl".

        Raises:
            InvalidInputError: If its name says neither.
        """
        packed = is_compressed(self.path)
        path = PurePosixPath(self.path)
        suffix = path.with_suffix("").suffix if packed else path.suffix
        if suffix not in FORMATS or (packed and FORMATS[suffix] == "parquet"):
            msg = (
                f"inputs must be Parquet (.parquet) or JSON lines (.jsonl, .jsonl.gz), but got {self.path}; "
                "name the files to read, or a pattern such as data/*.parquet"
            )
            raise InvalidInputError(msg)
        return FORMATS[suffix]


def is_compressed(path: str) -> bool:
    """Tell by its name whether a file is compressed."""
    return path.endswith(_COMPRESSED)


class Store:
    """A folder on the local disk or on any file system that pyarrow knows: s3://, gs://, abfs://, hdfs://.

    Args:
        uri: A path, or a URI; credentials come from the environment.

    Attributes:
        uri: The same, but absolute.
        files: The file system.
        root: Path of the folder on it.

    Raises:
        InvalidInputError: If no file system answers to the URI.
    """

    def __init__(self, uri: str) -> None:
        self.uri = _absolute(uri)
        self.files, self.root = _resolve(self.uri)

    def names(self) -> set[str]:
        """Return the names of the files in the folder, without what is still being written."""
        found = self.files.get_file_info(fs.FileSelector(self.root, allow_not_found=True))
        return {info.base_name for info in found if not info.base_name.startswith(".")}

    def read(self, name: str) -> bytes:
        """Return the content of a file of the folder."""
        with self.files.open_input_stream(self._path(name), compression=None) as file:
            return bytes(file.read())

    def publish(self, name: str, content: bytes) -> None:
        """Write a file so that nobody ever sees a part of it, whatever is killed when.

        Raises:
            OSError: If it cannot be written.
        """
        if isinstance(self.files, fs.LocalFileSystem):
            folder = Path(self.root)
            folder.mkdir(parents=True, exist_ok=True)
            unfinished = folder / f".{name}.{uuid.uuid4().hex}"  # as _UNFINISHED has it
            try:
                with unfinished.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                unfinished.replace(folder / name)
            finally:
                unfinished.unlink(missing_ok=True)
            return
        # An object store shows an object once its upload is complete.
        with self.files.open_output_stream(self._path(name), compression=None) as stream:
            stream.write(content)

    def sweep(self) -> None:
        """Remove what writers that were killed left behind."""
        found = self.files.get_file_info(fs.FileSelector(self.root, allow_not_found=True))
        for info in found:
            if _UNFINISHED.fullmatch(info.base_name) and info.type == fs.FileType.File:
                self.files.delete_file(info.path)

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"


def find_inputs(uris: Sequence[str]) -> list[InputFile]:
    """Return the files that paths, folders and patterns name, in order, each folder's by name.

    In folders, names that begin with a dot or an underscore are passed over, as Spark and Arrow do.

    Raises:
        InvalidInputError: If one names nothing, or a file that is neither Parquet nor JSON lines.
    """
    found = [file for uri in uris for file in _find(_absolute(uri))]
    for file in found:
        _ = file.format
    [(most, times)] = Counter(file.path for file in found).most_common(1) or [("", 0)]
    if times > 1:
        msg = f"each input must be named once, but {most} is named {times} times"
        raise InvalidInputError(msg)
    if not found:
        raise InvalidInputError("give at least one input: a file, a folder or a pattern")
    return found


def takes_in(uri: str, path: str) -> bool:
    """Say whether an input, a folder or pattern by its absolute URI, would take in a file with this path."""
    _, named = _resolve(uri)
    return _matches(path, named) if "*" in named else path.startswith(f"{named}/")


def _matches(path: str, pattern: str) -> bool:
    # As in a shell, a star stands for no slash.
    return path.count("/") == pattern.count("/") and fnmatch(path, pattern)


def _find(uri: str) -> Iterator[InputFile]:
    files, path = _resolve(uri)
    pattern = path if "*" in path else None
    root = path.partition("*")[0].rpartition("/")[0] if pattern else path
    try:
        info = files.get_file_info(root)
        if info.type == fs.FileType.NotFound:
            msg = f"an input must be there, but {uri} is not"
            raise InvalidInputError(msg)
        inside = [info]
        if info.type == fs.FileType.Directory:
            listed = files.get_file_info(fs.FileSelector(root, recursive=True))
            inside = sorted((one for one in listed if _counts(one, root)), key=lambda one: one.path)
    except OSError as error:
        msg = f"an input must be readable, but {uri}: {error}"
        raise InvalidInputError(msg) from error
    chosen = [one for one in inside if pattern is None or _matches(one.path, pattern)]
    if not chosen:
        msg = f"an input must name files, but there are none at {uri}"
        raise InvalidInputError(msg)
    for one in chosen:
        yield InputFile(uri, one.path, one.size, one.mtime_ns or 0)


def _counts(info: fs.FileInfo, root: str) -> bool:
    parts = PurePosixPath(info.path.removeprefix(root)).parts
    return info.type == fs.FileType.File and not any(part.startswith((".", "_")) for part in parts)


def _absolute(uri: str) -> str:
    """Return a location that does not depend on the working directory: that of a worker is another one."""
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())


@cache
def _resolve(uri: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of an absolute location, and the path there."""
    if "://" not in uri:
        return fs.LocalFileSystem(), uri
    try:
        files, path = fs.FileSystem.from_uri(uri)
    except (OSError, ValueError, NotImplementedError) as error:
        msg = f"a location must be a path or a URI such as s3://bucket/folder, but got {uri!r}: {error}"
        raise InvalidInputError(msg) from error
    return files, path.rstrip("/")
