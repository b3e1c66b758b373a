"""Values that options take."""

from enum import StrEnum

__all__ = ["InputFormat", "OutputFormat"]


class InputFormat(StrEnum):
    """How passages are written."""

    auto = "auto"
    jsonl = "jsonl"
    tsv = "tsv"
    lines = "lines"
    hits = "hits"


class OutputFormat(StrEnum):
    """How rankings are written."""

    jsonl = "jsonl"
    table = "table"
    trec = "trec"
