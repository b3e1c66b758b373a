"""Read the packaged demo data."""

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

__all__ = ["Passage", "Query", "load_passages", "load_queries"]


@dataclass(frozen=True)
class Passage:
    """A passage: its id, title and text."""

    id: str
    title: str
    text: str


@dataclass(frozen=True)
class Query:
    """A query with the ids of the passages that answer it."""

    id: str
    text: str
    relevant: tuple[str, ...]


def load_passages() -> list[Passage]:
    """Return the demo's passages."""
    return [Passage(**row) for row in _rows("passages.jsonl")]


def load_queries() -> list[Query]:
    """Return the demo's queries."""
    return [Query(row["id"], row["text"], tuple(row["relevant"])) for row in _rows("queries.jsonl")]


def _rows(name: str) -> list[dict[str, Any]]:
    text = (files("rerank_plugins.demo") / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]
