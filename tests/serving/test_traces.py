"""Requests as spans, as an OpenTelemetry SDK receives them."""

from collections.abc import Iterator, Sequence

import httpx
import numpy as np
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from rerank_plugins import Reranker
from rerank_plugins.serving.app import create_app
from rerank_plugins.serving.models import ModelPool
from rerank_plugins.serving.settings import ServerSettings
from tests.serving.live import live, post

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
BODY = {"query": "a secret question", "documents": ["A fist is a hand.", "Goethe wrote Faust."]}


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


def served_span(spans: InMemorySpanExporter) -> ReadableSpan:
    (span,) = [span for span in spans.get_finished_spans() if span.kind is SpanKind.SERVER]
    return span


class Broken:
    def score(self, query: str, documents: Sequence[str]) -> np.ndarray:
        raise RuntimeError(f"cannot read {query}")


def test_a_request_is_a_span_in_the_client_s_trace_around_the_ranking(
    client: httpx.Client, spans: InMemorySpanExporter
) -> None:
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-ID": "mine"}
    assert client.post("/v2/rerank", json=BODY, headers=headers).status_code == 200
    rerank, request = spans.get_finished_spans()
    assert (rerank.name, request.name) == ("rerank", "POST /v2/rerank")
    assert request.kind is SpanKind.SERVER
    assert request.parent is not None
    assert f"{request.parent.trace_id:032x}-{request.parent.span_id:016x}" == f"{TRACE}-{PARENT}"
    assert rerank.parent is not None
    assert rerank.parent.span_id == request.context.span_id
    assert rerank.context.trace_id == request.context.trace_id
    assert {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/v2/rerank",
        "rerank.request_id": "mine",
        "rerank.dialect": "rerank",
    }.items() <= dict(request.attributes or {}).items()
    assert request.status.status_code is StatusCode.UNSET


def test_without_a_traceparent_a_trace_begins(client: httpx.Client, spans: InMemorySpanExporter) -> None:
    tei = {"query": "q", "texts": ["a"]}
    for headers in ({}, {"traceparent": "nonsense"}):
        spans.clear()
        assert client.post("/rerank", json=tei, headers=headers).status_code == 200
        span = served_span(spans)
        assert span.parent is None
        assert span.attributes
        assert span.attributes["rerank.dialect"] == "tei"


def test_a_client_that_does_not_sample_leaves_no_span(
    client: httpx.Client, spans: InMemorySpanExporter
) -> None:
    client.post("/v1/rerank", json=BODY, headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    assert spans.get_finished_spans() == ()


def test_what_ranks_nothing_is_no_span(client: httpx.Client, spans: InMemorySpanExporter) -> None:
    for path in ("/", "/health", "/ready", "/metrics", "/stats", "/v1/models"):
        assert client.get(path).status_code == 200
    assert spans.get_finished_spans() == ()


def test_a_bad_request_is_the_client_s_error_and_a_crash_is_ours(
    client: httpx.Client, spans: InMemorySpanExporter
) -> None:
    assert client.post("/v1/rerank", json={"query": 3}).status_code == 400
    assert served_span(spans).status.status_code is StatusCode.UNSET
    spans.clear()
    app = create_app(ServerSettings(), pool=ModelPool.of({"broken": Reranker(Broken())}))
    with live(app) as url:
        assert post(f"{url}/v1/rerank", json=BODY).status_code == 500
    span = served_span(spans)
    assert span.status.status_code is StatusCode.ERROR
    assert "secret" not in span.to_json()
