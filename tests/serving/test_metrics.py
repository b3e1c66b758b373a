"""What Prometheus is told: right values, and the names that the page says."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from rerank_plugins import CrossEncoderScorer, Reranker
from rerank_plugins.ranking import RankingStats
from rerank_plugins.serving.metrics import Metrics
from rerank_plugins.serving.models import ModelPool
from rerank_plugins.serving.service import Service
from rerank_plugins.serving.settings import ServerSettings
from rerank_plugins.serving.status.report import StatusReport
from rerank_plugins.serving.watched import running_here

PAGE = Path(__file__).parents[2] / "docs" / "observability.md"
DOCUMENTS = ["Goethe wrote Faust.", "A fist is a hand.", "word " * 600]


class Plain:
    """A scorer that says nothing of itself."""

    def score(self, query: str, documents: list[str]) -> np.ndarray:
        return np.zeros(len(documents), dtype=np.float32)


@pytest.fixture
def metrics(bundled: CrossEncoderScorer) -> Metrics:
    metrics = Metrics()
    reranker = Reranker(bundled)
    metrics.watch(lambda: {"bundled": reranker, "same": reranker, "plain": Reranker(Plain())}, lambda: 3)
    for _ in range(2):
        metrics.ranked("bundled", reranker.rank("who wrote Faust?", DOCUMENTS).stats)
    metrics.requests("rerank", 200, 0.04)
    metrics.requests("rerank", 429, 0.001)
    metrics.requests("tei", 500, 0.001)
    metrics.requests("other", 200, 0.001)
    metrics.rejected("overloaded")
    metrics.rejected("key")
    return metrics


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"rerank_{name}", labels)


def test_counts_are_those_of_the_rankings(metrics: Metrics, bundled: CrossEncoderScorer) -> None:
    tokens = bundled.score_detailed("who wrote Faust?", DOCUMENTS).tokens
    assert value(metrics, "documents_total", model="bundled") == 6
    assert value(metrics, "tokens_total", model="bundled") == 2 * tokens
    assert value(metrics, "truncated_total", model="bundled", part="document") == 2
    assert value(metrics, "truncated_total", model="bundled", part="query") == 0
    assert value(metrics, "cache_lookups_total", model="bundled", cache="token") == 8
    # The second ranking's, at least.
    assert value(metrics, "cache_hits_total", model="bundled", cache="token") >= 4
    assert value(metrics, "requests_total", dialect="rerank", status="200") == 1
    assert value(metrics, "requests_total", dialect="rerank", status="429") == 1
    assert value(metrics, "rejected_total", reason="key") == 1
    assert value(metrics, "request_seconds_bucket", dialect="rerank", le="0.05") == 2
    assert value(metrics, "request_seconds_bucket", dialect="rerank", le="0.025") == 1


def test_stages_are_seconds(metrics: Metrics) -> None:
    metrics.ranked("other", RankingStats(1, tokenize_ms=1, queue_ms=20, compute_ms=300, total_ms=4000))
    for stage, seconds in {"tokenize": 0.001, "queue": 0.02, "compute": 0.3, "total": 4.0}.items():
        found = value(metrics, "stage_seconds_sum", model="other", stage=stage)
        assert found == pytest.approx(seconds)


def test_models_are_asked_at_the_scrape_and_counted_once(
    metrics: Metrics, bundled: CrossEncoderScorer
) -> None:
    stats, info = bundled.stats, bundled.info
    assert value(metrics, "batch_tokens_total", model="bundled") == stats.tokens
    assert value(metrics, "batches_total", model="bundled") == stats.batches
    padded = value(metrics, "batch_padded_tokens_total", model="bundled")
    assert stats.tokens <= padded <= value(metrics, "batch_capacity_tokens_total", model="bundled")
    assert value(metrics, "requests_in_progress") == 3
    assert value(metrics, "models_loaded") == 3
    assert value(metrics, "queue_tokens", model="bundled") == 0
    what = {"device": "cpu", "dtype": info.dtype, "engine": info.engine}
    assert value(metrics, "model_info", model="bundled", **what) == 1
    assert value(metrics, "model_memory_bytes", model="bundled") == info.memory
    bundled.score("who wrote Faust?", DOCUMENTS)
    assert value(metrics, "batches_total", model="bundled") > stats.batches


def test_of_models_that_share_a_worker_one_counts(
    bundled: CrossEncoderScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with CrossEncoderScorer("bundled", device="cpu") as same:
        rerankers = {"a": Reranker(bundled), "plain": Reranker(Plain()), "b": Reranker(same)}
        assert running_here(rerankers) == {"a": bundled}
        pool = ModelPool.of(rerankers)
        report = StatusReport(Service(pool, ServerSettings()), Metrics())
        monkeypatch.setattr(report, "_fill", list)
        assert report.now()["queue"]["batch_fill"] == [bundled]


def test_the_history_is_told_too(metrics: Metrics) -> None:
    totals = metrics.history.totals
    assert (totals["requests"], totals["failed"], totals["rejected"]) == (1, 1, 1)
    assert (totals["documents"], totals["truncated"]) == (6, 2)


def test_both_formats_of_prometheus_parse(metrics: Metrics) -> None:
    text, content_type = metrics.render("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert {family.name for family in parse_openmetrics(text.decode())} >= {"rerank_requests"}
    text, content_type = metrics.render("text/html, */*")
    assert content_type.startswith("text/plain")
    assert any(family.name == "rerank_requests" for family in parse(text.decode()))


def documented() -> Iterator[tuple[str, str, set[str]]]:
    row = r"^\| `(rerank_\w+)` \| (\w+) \| (.*?) \|"
    for name, kind, labels in re.findall(row, PAGE.read_text(), flags=re.MULTILINE):
        yield name, kind, set(re.findall(r"`(\w+)`", labels))


def test_the_page_names_every_metric_and_no_other(metrics: Metrics) -> None:
    exported = set()
    for family in parse(metrics.render()[0].decode()):
        if not family.name.startswith("rerank_") or family.name.endswith("_created"):
            continue
        labels = set().union(*(sample.labels for sample in family.samples)) - {"le"}
        name = f"{family.name}_total" if family.type == "counter" else family.name
        exported.add((name, family.type, tuple(sorted(labels))))
    assert exported == {(name, kind, tuple(sorted(labels))) for name, kind, labels in documented()}
