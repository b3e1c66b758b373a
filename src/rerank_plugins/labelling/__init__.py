"""Relevance labels for millions of (query, document) pairs, through Ray Data: `label`. Extra: `ray`."""

from rerank_plugins._adapters import missing_extra

try:
    import pyarrow  # noqa: F401
    import ray.data  # noqa: F401
except ImportError as error:
    raise missing_extra("ray", error) from error

from rerank_plugins.labelling.report import LabelReport, WorkerReport
from rerank_plugins.labelling.run import label

__all__ = ["LabelReport", "WorkerReport", "label"]
