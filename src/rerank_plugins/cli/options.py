"""Values that options take."""

from enum import Enum

__all__ = ["InputFormat", "OutputFormat"]


class InputFormat(str, Enum):
    """How passages are written."""

    auto = "auto"
    jsonl = "jsonl"
    tsv = "tsv"
    lines = "lines"
    hits = "hits"


class OutputFormat(str, Enum):
    """How rankings are written."""

    jsonl = "jsonl"
    table = "table"
    trec = "trec"
