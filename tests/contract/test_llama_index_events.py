"""What LlamaIndex's tracing sees: events, callbacks and spans, always paired, also under concurrency."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload, LlamaDebugHandler
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent

from rerank_plugins import CrossEncoderScorer, ScoringError
from rerank_plugins.llama_index import CrossEncoderRerank, CrossEncoderRerankEndEvent
from tests.contract.llama_index_parts import QUERY, Stuck, nodes, scored, watching
from tests.scorers import Broken

PAIR = [ReRankStartEvent, CrossEncoderRerankEndEvent]


@pytest.fixture
def debug() -> LlamaDebugHandler:
    return LlamaDebugHandler(print_trace_on_end=False)


def names(spans: list) -> list[str]:
    return [span.id_.split("-")[0] for span in spans]


async def test_success_carries_model_top_n_scores_and_cost(
    bundled: CrossEncoderScorer, debug: LlamaDebugHandler
) -> None:
    rerank = CrossEncoderRerank(scorer=bundled, top_n=2, callback_manager=CallbackManager([debug]))
    with watching() as seen:
        out = rerank.postprocess_nodes(nodes(), query_str=QUERY)
        assert await rerank.apostprocess_nodes(nodes(), query_str=QUERY) == out
    assert [type(event) for event in seen.events] == PAIR * 2
    for start, end in (seen.events[:2], seen.events[2:]):
        assert (start.top_n, start.model_name, start.query) == (2, "bundled", QUERY)
        assert scored(start.nodes) == scored(nodes())
        assert isinstance(end, ReRankEndEvent)
        assert end.class_name() == "ReRankEndEvent", "tools that go by the name know it"
        assert (end.top_n, end.model_name, end.reranked, end.reason) == (2, "bundled", True, None)
        assert end.nodes == out
        assert all(type(node.score) is float for node in end.nodes)
        assert (end.stats.documents, end.stats.device) == (3, "cpu")
        assert end.model_dump()["stats"]["tokens"] == end.stats.tokens > 0
        assert start.span_id == end.span_id is not None
    pairs = debug.get_event_pairs(CBEventType.RERANKING)
    assert [len(pair) for pair in pairs] == [2, 2]
    for start, end in pairs:
        for event in (start, end):
            assert event.payload[EventPayload.MODEL_NAME] == "bundled"
            assert event.payload[EventPayload.TOP_K] == 2
        assert start.payload[EventPayload.QUERY_STR] == QUERY
        assert end.payload[EventPayload.NODES] == out
    assert names(seen.spans.completed_spans) == [
        "CrossEncoderRerank._postprocess_nodes",
        "CrossEncoderRerank._apostprocess_nodes",
    ]
    assert not seen.spans.open_spans


def test_without_top_n_the_events_say_how_many_there_are(bundled: CrossEncoderScorer) -> None:
    with watching() as seen:
        CrossEncoderRerank(scorer=bundled).postprocess_nodes(nodes(), query_str=QUERY)
    assert [event.top_n for event in seen.events] == [3, 3]


async def test_nothing_begins_before_the_checks(bundled: CrossEncoderScorer) -> None:
    rerank = CrossEncoderRerank(scorer=bundled)
    with watching() as seen:
        assert rerank.postprocess_nodes([], query_str=QUERY) == []
        with pytest.raises(ValueError, match="query"):
            await rerank.apostprocess_nodes(nodes())
    assert seen.events == []


async def test_an_error_ends_what_began(debug: LlamaDebugHandler) -> None:
    rerank = CrossEncoderRerank(scorer=Broken(), callback_manager=CallbackManager([debug]))
    with watching() as seen:
        with pytest.raises(ScoringError):
            rerank.postprocess_nodes(nodes(), query_str=QUERY)
        with pytest.raises(ScoringError):
            await rerank.apostprocess_nodes(nodes(), query_str=QUERY)
    assert [type(event) for event in seen.events] == PAIR * 2
    for end in seen.events[1::2]:
        assert (end.nodes, end.reranked, end.stats) == ([], False, None)
        assert "the device fell off" in end.reason
    pairs = debug.get_event_pairs(CBEventType.RERANKING)
    assert [len(pair) for pair in pairs] == [2, 2]
    assert all(isinstance(pair[1].payload[EventPayload.EXCEPTION], ScoringError) for pair in pairs)
    assert len(seen.spans.dropped_spans) == 2
    assert not seen.spans.open_spans


async def test_a_cancelled_call_ends_what_began(debug: LlamaDebugHandler) -> None:
    stuck = Stuck()
    rerank = CrossEncoderRerank(scorer=stuck, callback_manager=CallbackManager([debug]))
    with watching() as seen:
        task = asyncio.create_task(rerank.apostprocess_nodes(nodes(), query_str=QUERY))
        try:
            await asyncio.to_thread(stuck.began.wait, 60)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        finally:
            stuck.let_go.set()
    assert [type(event) for event in seen.events] == PAIR
    assert (seen.events[1].nodes, seen.events[1].reranked) == ([], False)
    assert "CancelledError" in seen.events[1].reason
    assert [len(pair) for pair in debug.get_event_pairs(CBEventType.RERANKING)] == [2]
    assert names(seen.spans.dropped_spans) == ["CrossEncoderRerank._apostprocess_nodes"]
    assert not seen.spans.open_spans


def test_kept_order_is_visible_in_the_end_event() -> None:
    rerank = CrossEncoderRerank(scorer=Broken(), on_error="keep_order")
    with watching() as seen:
        out = rerank.postprocess_nodes(nodes(), query_str=QUERY)
    end = seen.events[1]
    assert (end.nodes, end.reranked) == (out, False)
    assert "fell off" in end.reason
    assert end.stats.documents == 3


@pytest.mark.parametrize("how", ["tasks", "threads"])
async def test_fifty_at_once_get_their_own_results_and_events(
    bundled: CrossEncoderScorer, debug: LlamaDebugHandler, how: str
) -> None:
    rerank = CrossEncoderRerank(scorer=bundled, callback_manager=CallbackManager([debug]))
    queries = [f"who wrote Faust, part {i}?" for i in range(50)]
    expected = [rerank.postprocess_nodes(nodes(), query_str=query) for query in queries]
    debug.flush_event_logs()
    with watching() as seen:
        if how == "tasks":
            found = await asyncio.gather(
                *(rerank.apostprocess_nodes(nodes(), query_str=query) for query in queries)
            )
        else:
            with ThreadPoolExecutor(50) as pool:
                ask = [pool.submit(rerank.postprocess_nodes, nodes(), query_str=query) for query in queries]
                found = [asked.result() for asked in ask]
    for one, other in zip(found, expected, strict=True):
        assert [node.node_id for node in one] == [node.node_id for node in other]
        assert [node.score for node in one] == pytest.approx([node.score for node in other], abs=1e-5)
    starts = {event.span_id: event for event in seen.events if isinstance(event, ReRankStartEvent)}
    ends = {event.span_id: event for event in seen.events if isinstance(event, ReRankEndEvent)}
    assert len(starts) == len(ends) == 50
    asked_for = dict(zip(queries, found, strict=True))
    for span, end in ends.items():
        assert end.nodes == asked_for[starts[span].query]
    assert [len(pair) for pair in debug.get_event_pairs(CBEventType.RERANKING)] == [2] * 50
    assert len(seen.spans.completed_spans) == 50
