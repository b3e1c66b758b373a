"""What Haystack's tracing learns of a ranking."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from haystack import Document, tracing

from rerank_plugins import CrossEncoderScorer
from rerank_plugins.demo.data import load_queries
from rerank_plugins.haystack import CrossEncoderRanker
from tests.contract.haystack_parts import (
    QUERY,
    AsyncPipeline,
    SpyTracer,
    documents,
    inputs,
    make_pipeline,
)
from tests.scorers import Broken


@pytest.fixture
def tracer() -> Iterator[SpyTracer]:
    spy = SpyTracer()
    before = tracing.tracer.actual_tracer
    tracing.enable_tracing(spy)
    yield spy
    tracing.enable_tracing(before)


def check(span: Any, found: list[Document], model: str, top_k: int) -> None:
    assert span.name == "haystack.component.run"
    assert span.tags["haystack.component.fully_qualified_type"].endswith("CrossEncoderRanker")
    assert span.tags["rerank.model"] == model
    assert span.tags["rerank.top_k"] == top_k
    assert span.tags["rerank.scores"] == [document.score for document in found]
    assert span.tags["rerank.reranked"] is True
    assert span.tags["rerank.documents"] == 10
    assert span.tags["rerank.tokens"] > 0


async def test_the_components_span_carries_model_top_k_and_scores(
    tracer: SpyTracer, bundled: CrossEncoderScorer
) -> None:
    query = load_queries()[0].text
    pipeline = make_pipeline(CrossEncoderRanker("bundled", device="cpu", top_k=2))
    found = pipeline.run(inputs(query))["ranker"]["documents"]
    assert len(found) == 2
    check(tracer.of("ranker")[-1], found, bundled.info.model, top_k=2)
    pipeline = make_pipeline(CrossEncoderRanker("bundled", device="cpu"), AsyncPipeline)
    found = (await pipeline.run_async(inputs(query, top_k=3)))["ranker"]["documents"]
    check(tracer.of("ranker")[-1], found, bundled.info.model, top_k=3)
    assert len(tracer.of("ranker")) == 2
    assert not any(key.startswith("rerank.") for span in tracer.of("retriever") for key in span.tags)


async def test_no_text_in_our_tags(tracer: SpyTracer) -> None:
    make_pipeline(CrossEncoderRanker("bundled", device="cpu")).run(inputs("rice in the fridge"))
    (span,) = tracer.of("ranker")
    ours = {key: value for key, value in span.tags.items() if key.startswith("rerank.")}
    assert "rice" not in repr(ours)


async def test_runs_at_the_same_time_tag_their_own_spans(tracer: SpyTracer) -> None:
    pipeline = make_pipeline(CrossEncoderRanker("bundled", device="cpu"), AsyncPipeline)
    sizes = [1, 2, 3, 4, 5] * 4
    runs = [pipeline.run_async(inputs("cooked rice", top_k=size)) for size in sizes]
    results = await asyncio.gather(*runs)
    assert [len(result["ranker"]["documents"]) for result in results] == sizes
    spans = tracer.of("ranker")
    assert sorted(span.tags["rerank.top_k"] for span in spans) == sorted(sizes)
    assert all(len(span.tags["rerank.scores"]) == span.tags["rerank.top_k"] for span in spans)


def test_a_failure_is_on_the_span(tracer: SpyTracer) -> None:
    question = load_queries()[0].text
    pipeline = make_pipeline(CrossEncoderRanker(scorer=Broken(), on_error="keep_order", top_k=4))
    kept = pipeline.run(inputs(question))["ranker"]["documents"]
    assert len(kept) == 4
    (span,) = tracer.of("ranker")
    assert span.tags["rerank.reranked"] is False
    assert span.tags["rerank.scores"] == []
    assert "fell off" in span.tags["rerank.reason"]

    with pytest.raises(Exception, match="fell off"):
        make_pipeline(CrossEncoderRanker(scorer=Broken())).run(inputs(question))
    # Asked, never answered.
    assert tracer.of("ranker")[-1].tags["rerank.top_k"] == 10
    assert "rerank.reranked" not in tracer.of("ranker")[-1].tags


def test_a_tracer_without_a_current_span_is_fine(tracer: SpyTracer) -> None:
    assert tracer.current_span() is None
    assert CrossEncoderRanker("bundled", device="cpu").run(QUERY, documents())["documents"][0].id == "b"
    assert tracer.spans == []
