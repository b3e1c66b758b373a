"""Values that options take."""

from enum import StrEnum

__all__ = ["ExportDtype", "GraphFormat", "InputFormat", "OutputFormat"]


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


class GraphFormat(StrEnum):
    """What an export writes."""

    onnx = "onnx"
    openvino = "openvino"


class ExportDtype(StrEnum):
    """The precision of an export."""

    float32 = "float32"
    int8 = "int8"
