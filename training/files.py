"""JSONL, in and out."""

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def read_rows(path: Path) -> list[Any]:
    """Return the objects of a plain or gzipped JSONL file."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    # Not splitlines(): texts may hold line separators of other kinds.
    return [json.loads(line) for line in text.split("\n") if line]


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write JSONL, completely or not at all."""
    partial = path.with_suffix(".partial")
    with partial.open("w") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    partial.replace(path)
