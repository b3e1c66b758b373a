"""Values that options take."""

from enum import StrEnum

from rerank_plugins.files import InputFormat

__all__ = ["EvalFormat", "ExportDtype", "GraphFormat", "InputFormat", "LabelFormat", "OnBad", "OutputFormat"]


class EvalFormat(StrEnum):
    """How a test set is written."""

    auto = "auto"
    demo = "demo"
    jsonl = "jsonl"
    beir = "beir"
    hits = "hits"
    run = "run"
    dataset = "dataset"


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


class LabelFormat(StrEnum):
    """How labels are written."""

    parquet = "parquet"
    jsonl = "jsonl"


class OnBad(StrEnum):
    """What to do with rows that cannot be scored."""

    raise_ = "raise"
    skip = "skip"
