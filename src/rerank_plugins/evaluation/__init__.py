"""Does reranking help on this data, with which model, how deep, and at what cost?

`load_*` reads what is judged, `retrieve` brings candidates where the data has none, `evaluate` scores them
once with each reranker, and `write_report` writes JSON, Markdown and one HTML page. Needs the extra `eval`.

Examples:
    >>> from rerank_plugins import CrossEncoderScorer
    >>> from rerank_plugins.evaluation import evaluate, load_demo, retrieve
    >>> topics = retrieve(load_demo(), "bm25s", depth=20)
    >>> evaluation = evaluate(topics, {"bundled": CrossEncoderScorer("bundled")}, depths=(10, 20))
    >>> evaluation.systems[0].measured.mean["nDCG@10"] > evaluation.first.mean["nDCG@10"]
    True
"""

from rerank_plugins.evaluation.calibrated import Calibrated, calibrate
from rerank_plugins.evaluation.datasets import load_ir_dataset
from rerank_plugins.evaluation.first_stage import retrieve
from rerank_plugins.evaluation.fused import Fused
from rerank_plugins.evaluation.load import load_beir, load_demo, load_hits, load_run, read_run
from rerank_plugins.evaluation.measures import Measured, measure_run
from rerank_plugins.evaluation.own import load_jsonl
from rerank_plugins.evaluation.rag import count_words
from rerank_plugins.evaluation.report import write_report
from rerank_plugins.evaluation.results import Evaluation, System
from rerank_plugins.evaluation.run import evaluate
from rerank_plugins.evaluation.statistics import Comparison, compare
from rerank_plugins.evaluation.topics import Candidate, Topic, Topics
from rerank_plugins.evaluation.verdict import verdict

__all__ = [
    "Calibrated",
    "Candidate",
    "Comparison",
    "Evaluation",
    "Fused",
    "Measured",
    "System",
    "Topic",
    "Topics",
    "calibrate",
    "compare",
    "count_words",
    "evaluate",
    "load_beir",
    "load_demo",
    "load_hits",
    "load_ir_dataset",
    "load_jsonl",
    "load_run",
    "measure_run",
    "read_run",
    "retrieve",
    "verdict",
    "write_report",
]
