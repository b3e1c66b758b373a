"""LlamaIndex's real classes around `CrossEncoderRerank`."""

import copy
import json
import pickle
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.llms.mock import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import ImageNode, MetadataMode, NodeWithScore, QueryBundle, TextNode

from rerank_plugins import CrossEncoderScorer, InvalidInputError, ScoringError
from rerank_plugins.llama_index import CrossEncoderRerank

QUERY = "who wrote Faust?"


def nodes() -> list[NodeWithScore]:
    return [
        NodeWithScore(node=TextNode(text="A fist is a hand.", id_="a", metadata={"source": "x"}), score=0.9),
        NodeWithScore(node=TextNode(text="Goethe wrote Faust.", id_="b"), score=0.5),
        NodeWithScore(node=TextNode(text="", id_="c")),
    ]


class Spy:
    """A scorer that remembers what it was given, and prefers long texts."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def score(self, query: str, documents: Sequence[str]) -> np.ndarray:
        self.texts = list(documents)
        return np.array([len(text) for text in documents], dtype=np.float32)


class Broken:
    def score(self, query: str, documents: Sequence[str]) -> np.ndarray:
        raise ScoringError("the device fell off")


class Seen(BaseEventHandler):
    events: list[Any] = []

    def handle(self, event: Any, **kwargs: Any) -> None:
        if isinstance(event, ReRankStartEvent | ReRankEndEvent):
            self.events.append(event)


@pytest.fixture
def seen() -> Iterator[list[Any]]:
    handler = Seen(events=[])
    root = get_dispatcher()
    root.add_event_handler(handler)
    yield handler.events
    root.event_handlers.remove(handler)


@pytest.fixture
def rerank(bundled: CrossEncoderScorer) -> CrossEncoderRerank:
    return CrossEncoderRerank(scorer=bundled, top_n=2)


async def test_new_nodes_with_float_scores_and_nothing_mutated(rerank: CrossEncoderRerank) -> None:
    given = nodes()
    before = copy.deepcopy(given)
    out = rerank.postprocess_nodes(given, query_str=QUERY)
    assert given == before
    assert [node.node_id for node in out][0] == "b"
    assert len(out) == 2
    assert all(type(node.score) is float for node in out)
    assert json.loads(out[0].to_json())["score"] == out[0].score
    assert await rerank.apostprocess_nodes(given, query_bundle=QueryBundle(QUERY)) == out


async def test_empty_and_missing_query(rerank: CrossEncoderRerank, seen: list[Any]) -> None:
    assert rerank.postprocess_nodes([], query_str=QUERY) == []
    assert await rerank.apostprocess_nodes([], query_str=QUERY) == []
    with pytest.raises(ValueError, match="query"):
        rerank.postprocess_nodes(nodes())
    with pytest.raises(InvalidInputError):
        await rerank.apostprocess_nodes(nodes())
    assert seen == [], "no event begins before the checks"


async def test_events_come_in_pairs_on_success_and_failure(
    bundled: CrossEncoderScorer, seen: list[Any]
) -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    manager = CallbackManager([debug])
    rerank = CrossEncoderRerank(scorer=bundled, callback_manager=manager)
    rerank.postprocess_nodes(nodes(), query_str=QUERY)
    await rerank.apostprocess_nodes(nodes(), query_str=QUERY)
    broken = CrossEncoderRerank(scorer=Broken(), callback_manager=manager)
    with pytest.raises(ScoringError):
        broken.postprocess_nodes(nodes(), query_str=QUERY)
    assert [type(event) for event in seen] == [ReRankStartEvent, ReRankEndEvent] * 3
    assert (seen[0].top_n, seen[0].model_name, seen[0].query) == (3, "bundled", QUERY)
    assert [node.node_id for node in seen[1].nodes][0] == "b"
    assert seen[5].nodes == []
    pairs = debug.get_event_pairs(CBEventType.RERANKING)
    assert [len(pair) for pair in pairs] == [2, 2, 2]


def test_the_retrieval_score_is_kept_out_of_texts_and_survives_a_second_pass() -> None:
    spy = Spy()
    rerank = CrossEncoderRerank(scorer=spy, keep_retrieval_score=True)
    first = rerank.postprocess_nodes(nodes(), query_str=QUERY)
    texts = list(spy.texts)
    second = rerank.postprocess_nodes(first, query_str=QUERY)
    assert sorted(spy.texts) == sorted(texts), "the kept score is no part of what is scored"
    kept = {node.node_id: node.metadata["retrieval_score"] for node in second}
    assert kept == {"a": 0.9, "b": 0.5, "c": None}
    for mode in (MetadataMode.EMBED, MetadataMode.LLM):
        assert all("retrieval_score" not in node.node.get_content(mode) for node in second)
    without = CrossEncoderRerank(scorer=spy).postprocess_nodes(nodes(), query_str=QUERY)
    assert all("retrieval_score" not in node.metadata for node in without)


def test_metadata_mode_says_what_is_scored() -> None:
    spy = Spy()
    CrossEncoderRerank(scorer=spy).postprocess_nodes(nodes(), query_str=QUERY)
    assert spy.texts[0] == "source: x\n\nA fist is a hand."
    CrossEncoderRerank(scorer=spy, metadata_mode=MetadataMode.NONE).postprocess_nodes(
        nodes(), query_str=QUERY
    )
    assert spy.texts[0] == "A fist is a hand."


def test_images_are_scored_by_their_text(rerank: CrossEncoderRerank) -> None:
    image = NodeWithScore(node=ImageNode(image="aGk=", text="", id_="i"))
    assert "i" in {
        node.node_id for node in CrossEncoderRerank(scorer=Spy()).postprocess_nodes([image], query_str="q")
    }


def test_dict_and_pickle_round_trips_keep_every_setting() -> None:
    rerank = CrossEncoderRerank(
        model="bundled",
        device="cpu",
        top_n=1,
        min_score=0.0,
        scale="logit",
        metadata_mode=MetadataMode.NONE,
        keep_retrieval_score=True,
        max_length=99,
    )
    plain = json.loads(json.dumps(rerank.to_dict()))
    again = CrossEncoderRerank.from_dict(plain)
    assert again.to_dict() == rerank.to_dict()
    assert again.metadata_mode is MetadataMode.NONE
    pickled = pickle.loads(pickle.dumps(rerank))
    expected = rerank.postprocess_nodes(nodes(), query_str=QUERY)
    for twin in (again, pickled):
        assert [n.score for n in twin.postprocess_nodes(nodes(), query_str=QUERY)] == [
            n.score for n in expected
        ]


class Fixed(BaseRetriever):
    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return nodes()


async def test_in_a_query_engine(rerank: CrossEncoderRerank) -> None:
    engine = RetrieverQueryEngine.from_args(Fixed(), llm=MockLLM(), node_postprocessors=[rerank])
    assert [node.node_id for node in engine.query(QUERY).source_nodes][0] == "b"
    response = await engine.aquery(QUERY)
    assert len(response.source_nodes) == 2


def test_bad_settings_raise_ours(bundled: CrossEncoderScorer) -> None:
    with pytest.raises(InvalidInputError, match="but got -1"):
        CrossEncoderRerank(top_n=-1)
    with pytest.raises(InvalidInputError, match="model"):
        CrossEncoderRerank(model="bundled", scorer=bundled)
    assert CrossEncoderRerank(scorer=bundled, top_k=0).postprocess_nodes(nodes(), query_str=QUERY) == []


async def test_kept_order_is_marked_and_out_of_the_prompt() -> None:
    rerank = CrossEncoderRerank(scorer=Broken(), on_error="keep_order")
    out = await rerank.apostprocess_nodes(nodes(), query_str=QUERY)
    assert [node.node_id for node in out] == ["a", "b", "c"]
    assert [node.score for node in out] == [0.9, 0.5, None]
    assert out[0].metadata["reranked"] is False
    assert "fell off" in out[0].metadata["rerank_reason"]
    assert "rerank" not in out[0].node.get_content(MetadataMode.LLM)
