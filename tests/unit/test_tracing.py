"""Spans, as an OpenTelemetry SDK receives them."""

import asyncio
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from openinference.semconv.trace import (
    DocumentAttributes,
    OpenInferenceSpanKindValues,
    RerankerAttributes,
    SpanAttributes,
)
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from rerank_plugins import CrossEncoderScorer, InvalidInputError, Reranker, ScoringError
from tests.scorers import Broken, Fixed

QUERY = "who wrote Faust?"
DOCUMENTS = ["A fist is a hand.", "Goethe wrote Faust.", "Faust is a play."]


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):  # a process takes one for good
        provider = TracerProvider()
        trace.set_tracer_provider(provider)
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> Iterator[InMemorySpanExporter]:
    exporter.clear()
    yield exporter
    exporter.clear()


def only(spans: InMemorySpanExporter) -> tuple[ReadableSpan, dict[str, Any]]:
    (span,) = spans.get_finished_spans()
    return span, dict(span.attributes or {})


@pytest.mark.parametrize("native", [False, True], ids=["rank", "arank"])
def test_a_ranking_is_a_reranker_span(
    bundled: CrossEncoderScorer, spans: InMemorySpanExporter, native: bool
) -> None:
    reranker = Reranker(bundled, top_k=2)
    ranking = asyncio.run(reranker.arank(QUERY, DOCUMENTS)) if native else reranker.rank(QUERY, DOCUMENTS)
    span, found = only(spans)
    assert span.name == "rerank"
    assert span.status.status_code is StatusCode.UNSET
    assert found[SpanAttributes.OPENINFERENCE_SPAN_KIND] == OpenInferenceSpanKindValues.RERANKER.value
    assert found[RerankerAttributes.RERANKER_MODEL_NAME] == "bundled"
    assert found[RerankerAttributes.RERANKER_TOP_K] == 2
    for rank, ranked in enumerate(ranking):
        place = f"{RerankerAttributes.RERANKER_OUTPUT_DOCUMENTS}.{rank}"
        assert found[f"{place}.{DocumentAttributes.DOCUMENT_SCORE}"] == ranked.score
        assert found[f"{place}.{DocumentAttributes.DOCUMENT_ID}"] == ranked.index
    assert f"{RerankerAttributes.RERANKER_OUTPUT_DOCUMENTS}.2.document.id" not in found
    for name in ("passages", "tokens", "truncated", "tokenize_ms", "queue_ms", "compute_ms"):
        assert found[f"rerank.{name}"] == getattr(ranking.stats, name)
    assert found["rerank.documents"] == 3
    assert found["rerank.device"] == "cpu"
    assert found["rerank.dtype"] == bundled.info.dtype
    assert found["rerank.engine"] == bundled.info.engine
    assert found["rerank.reranked"] is True


def test_an_info_that_is_none_of_ours_is_not_read(spans: InMemorySpanExporter) -> None:
    scorer = Fixed([1.0, 2.0, 3.0])
    scorer.info = lambda: "mine"  # type: ignore[attr-defined]
    Reranker(scorer).rank(QUERY, DOCUMENTS)
    assert RerankerAttributes.RERANKER_MODEL_NAME not in only(spans)[1]


def test_without_top_k_it_is_the_number_of_documents(
    bundled: CrossEncoderScorer, spans: InMemorySpanExporter
) -> None:
    Reranker(bundled).rank(QUERY, DOCUMENTS)
    assert only(spans)[1]["reranker.top_k"] == 3


def test_content_only_on_request(bundled: CrossEncoderScorer, spans: InMemorySpanExporter) -> None:
    Reranker(bundled).rank(QUERY, DOCUMENTS)
    _, found = only(spans)
    assert not any("Faust" in str(value) for value in found.values())
    spans.clear()
    Reranker(bundled, trace_content=True).rank(QUERY, DOCUMENTS)
    _, found = only(spans)
    assert found[RerankerAttributes.RERANKER_QUERY] == QUERY
    given = f"{RerankerAttributes.RERANKER_INPUT_DOCUMENTS}.{{}}.{DocumentAttributes.DOCUMENT_CONTENT}"
    assert [found[given.format(i)] for i in range(3)] == DOCUMENTS
    best = f"{RerankerAttributes.RERANKER_OUTPUT_DOCUMENTS}.0.{DocumentAttributes.DOCUMENT_CONTENT}"
    assert found[best] == "Goethe wrote Faust."


def test_the_environment_may_ask_for_content_and_turn_spans_off(
    bundled: CrossEncoderScorer, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RERANK_TRACE_CONTENT", "true")
    Reranker(bundled).rank(QUERY, DOCUMENTS)
    assert only(spans)[1]["reranker.query"] == QUERY
    spans.clear()
    monkeypatch.setenv("RERANK_TRACING", "false")
    Reranker(bundled).rank(QUERY, DOCUMENTS)
    assert spans.get_finished_spans() == ()


@pytest.mark.parametrize("content", [False, True])
def test_many_documents_leave_room_for_the_rest(
    bundled: CrossEncoderScorer,
    spans: InMemorySpanExporter,
    content: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        Reranker(bundled, trace_content=content).rank(QUERY, [f"text {i}" for i in range(300)])
    span, found = only(spans)
    assert span.dropped_attributes == 0
    assert caplog.records == []
    assert found["openinference.span.kind"] == "RERANKER"
    assert found["rerank.documents"] == 300
    assert "reranker.output_documents.24.document.score" in found


def test_an_error_is_on_the_span(spans: InMemorySpanExporter) -> None:
    with pytest.raises(ScoringError):
        Reranker(Broken()).rank(QUERY, DOCUMENTS)
    span, found = only(spans)
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == "ScoringError: the device fell off"
    (event,) = span.events
    assert event.name == "exception"
    assert "rerank.reranked" not in found


def test_a_kept_order_is_an_error_too(spans: InMemorySpanExporter) -> None:
    Reranker(Broken(), on_error="keep_order").rank(QUERY, DOCUMENTS)
    span, found = only(spans)
    assert span.status.status_code is StatusCode.ERROR
    assert found["rerank.reranked"] is False
    assert "fell off" in found["rerank.reason"]
    assert found["reranker.output_documents.0.document.id"] == 0
    assert "reranker.output_documents.0.document.score" not in found


def test_an_error_about_a_text_does_not_quote_it(
    bundled: CrossEncoderScorer, spans: InMemorySpanExporter
) -> None:
    with pytest.raises(InvalidInputError, match="secret"):
        Reranker(bundled).rank(QUERY, ["secret \ud800"])
    span, _ = only(spans)
    assert span.status.description == "InvalidInputError"
    assert span.events == ()


def test_a_span_lies_under_its_caller(bundled: CrossEncoderScorer, spans: InMemorySpanExporter) -> None:
    async def both() -> None:
        reranker = Reranker(bundled)
        await asyncio.gather(reranker.arank(QUERY, DOCUMENTS), reranker.arank("rivers", DOCUMENTS))

    with trace.get_tracer("test").start_as_current_span("request") as request:
        asyncio.run(both())
    parents = [span.parent for span in spans.get_finished_spans() if span.name == "rerank"]
    assert [parent.span_id for parent in parents if parent] == [request.get_span_context().span_id] * 2


def test_nothing_is_needed_and_nothing_imported_early() -> None:
    code = (
        "import sys\n"
        "from rerank_plugins import Reranker\n"
        "import numpy as np\n"
        "assert 'opentelemetry' not in sys.modules\n"
        "sys.modules['opentelemetry'] = None\n"
        "class Plain:\n"
        "    def score(self, query, documents): return np.zeros(len(documents), dtype=np.float32)\n"
        "print(len(Reranker(Plain()).rank('q', ['a'])))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
