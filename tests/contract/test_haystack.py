"""Haystack's real classes around `CrossEncoderRanker`."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from haystack import Document, Pipeline, SuperComponent
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.utils import ComponentDevice, Secret

from rerank_plugins import CrossEncoderScorer, InvalidInputError, Reranker, ScoringError
from rerank_plugins.haystack import CrossEncoderRanker

QUERY = "who wrote Faust?"


def documents() -> list[Document]:
    return [
        Document(id="a", content="A fist is a hand.", meta={"title": "Hands", "year": 0}, score=3.0),
        Document(id="b", content="Goethe wrote Faust.", meta={"title": None}),
        Document(id="c", content=None),
    ]


class Spy:
    """A scorer that remembers what it was given, and prefers long texts."""

    def score(self, query: str, documents: Sequence[str]) -> np.ndarray:
        self.query, self.texts = query, list(documents)
        return np.array([len(text) for text in documents], dtype=np.float32) - 10


class Broken:
    def score(self, query: str, documents: Sequence[str]) -> np.ndarray:
        raise ScoringError("the device fell off")


@pytest.fixture
def store() -> InMemoryDocumentStore:
    store = InMemoryDocumentStore()
    store.write_documents([Document(id=d.id, content=d.content or "empty") for d in documents()])
    return store


def make_pipeline(store: InMemoryDocumentStore) -> Pipeline:
    pipeline = Pipeline()
    pipeline.add_component("retriever", InMemoryBM25Retriever(store))
    pipeline.add_component("ranker", CrossEncoderRanker("bundled", device="cpu", top_k=1))
    pipeline.connect("retriever", "ranker")
    return pipeline


INPUTS = {"retriever": {"query": QUERY}, "ranker": {"query": QUERY}}


async def test_in_a_pipeline_sync_async_and_streaming(store: InMemoryDocumentStore) -> None:
    pipeline = make_pipeline(store)
    found = pipeline.run(INPUTS)["ranker"]["documents"]
    assert [document.id for document in found] == ["b"]
    assert (await pipeline.run_async(INPUTS))["ranker"]["documents"] == found
    parts = [part async for part in pipeline.run_async_generator(INPUTS)]
    assert parts[-1]["ranker"]["documents"] == found


def test_yaml_round_trip_under_the_allowlist(store: InMemoryDocumentStore) -> None:
    ranker = CrossEncoderRanker(
        "bundled", top_k=1, min_score=0.0, scale="logit", meta_fields_to_embed=["title"]
    )
    pipeline = Pipeline()
    pipeline.add_component("ranker", ranker)
    text = pipeline.dumps()
    assert "device: null" in text
    again = Pipeline.loads(text).get_component("ranker")
    assert again.to_dict() == ranker.to_dict()
    assert again.run(QUERY, documents())["documents"] == ranker.run(QUERY, documents())["documents"]


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (None, None),
        ("cpu", "cpu"),
        (ComponentDevice.from_str("cpu"), {"type": "single", "device": "cpu"}),
    ],
)
def test_devices_and_secrets_serialise(device: Any, expected: Any) -> None:
    ranker = CrossEncoderRanker("bundled", device=device, token=Secret.from_env_var("NO_SUCH", strict=False))
    plain = ranker.to_dict()
    assert plain["init_parameters"]["device"] == expected
    again = CrossEncoderRanker.from_dict(plain)
    assert (again.device, again.token) == (ranker.device, ranker.token)
    assert again.run(QUERY, documents())["documents"][0].id == "b"


def test_a_token_in_the_open_is_refused_by_haystack() -> None:
    with pytest.raises(ValueError, match="serial"):
        CrossEncoderRanker("bundled", token=Secret.from_token("hf_x")).to_dict()


def test_the_token_is_read_when_the_model_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "hf_x")
    ranker = CrossEncoderRanker("bundled", device="cpu", token=Secret.from_env_var("MY_TOKEN"))
    ranker.warm_up()
    assert ranker._lazy.scorer_settings.token is not None
    assert ranker._lazy.scorer_settings.token.get_secret_value() == "hf_x"


def test_a_ready_scorer_cannot_be_serialised(bundled: CrossEncoderScorer) -> None:
    with pytest.raises(InvalidInputError, match="give model="):
        CrossEncoderRanker(scorer=bundled).to_dict()


async def test_copies_with_scores_and_nothing_mutated(bundled: CrossEncoderScorer) -> None:
    given = documents()
    before = copy.deepcopy(given)
    ranker = CrossEncoderRanker(reranker=Reranker(bundled))
    found = ranker.run(QUERY, given)["documents"]
    assert given == before
    assert found[0].id == "b"
    assert {document.id for document in found} == {"a", "b", "c"}
    assert all(type(document.score) is float for document in found)
    assert (await ranker.run_async(QUERY, given))["documents"] == found
    assert ranker.run(QUERY, [])["documents"] == []
    assert (await ranker.run_async(QUERY, []))["documents"] == []


def test_what_is_scored() -> None:
    spy = Spy()
    ranker = CrossEncoderRanker(
        scorer=spy,
        query_prefix="query: ",
        document_prefix="passage: ",
        meta_fields_to_embed=["title", "year", "missing"],
        embedding_separator=" | ",
    )
    ranker.run(QUERY, documents())
    assert spy.query == f"query: {QUERY}"
    assert spy.texts == [
        "passage: Hands | 0 | A fist is a hand.",
        "passage: Goethe wrote Faust.",
        "passage: ",
    ]


def test_equal_ids_count_once_the_best_copy_stays() -> None:
    twins = [
        Document(id="a", content="short", score=0.1),
        Document(id="a", content="much longer text", score=0.9),
        Document(id="b", content="other"),
    ]
    found = CrossEncoderRanker(scorer=Spy()).run("q", twins)["documents"]
    assert [document.content for document in found] == ["much longer text", "other"]


async def test_overrides_count_unless_none() -> None:
    ranker = CrossEncoderRanker(scorer=Spy(), min_score=0.6, top_k=1)
    lengths = [Document(content="x" * n) for n in (5, 10, 20)]
    assert len(ranker.run("q", lengths)["documents"]) == 1
    assert len(ranker.run("q", lengths, top_k=3)["documents"]) == 1
    assert len(ranker.run("q", lengths, top_k=3, min_score=0.0)["documents"]) == 3
    logits = (await ranker.run_async("q", lengths, top_k=3, scale="logit", min_score=0.0))["documents"]
    assert [document.score for document in logits] == [10.0, 0.0]


@pytest.mark.parametrize("top_k", [0, -1])
def test_top_k_must_be_positive(top_k: int) -> None:
    with pytest.raises(ValueError, match=f"top_k must be > 0, but got {top_k}"):
        CrossEncoderRanker(top_k=top_k)
    with pytest.raises(ValueError, match=f"top_k must be > 0, but got {top_k}"):
        CrossEncoderRanker(scorer=Spy()).run("q", documents(), top_k=top_k)


def test_bad_settings_raise_ours() -> None:
    with pytest.raises(InvalidInputError, match="percent"):
        CrossEncoderRanker("bundled", scale="percent")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="nan"):
        CrossEncoderRanker("bundled", min_score=float("nan"))


async def test_the_model_loads_late_once_and_can_be_let_go() -> None:
    ranker = CrossEncoderRanker("bundled", device="cpu", max_length=77)
    assert not ranker._lazy.loaded
    await ranker.warm_up_async()
    first = ranker._lazy.get()
    ranker.warm_up()
    assert ranker._lazy.get() is first
    ranker.close()
    assert not ranker._lazy.loaded
    assert ranker.run(QUERY, documents())["documents"][0].id == "b"
    await ranker.close_async()
    assert ranker._get_telemetry_data() == {"model": "bundled"}


async def test_in_a_super_component(store: InMemoryDocumentStore) -> None:
    wrapped = SuperComponent(
        pipeline=make_pipeline(store),
        input_mapping={"query": ["retriever.query", "ranker.query"]},
        output_mapping={"ranker.documents": "documents"},
    )
    wrapped.warm_up()
    assert wrapped.run(query=QUERY)["documents"][0].id == "b"
    assert (await wrapped.run_async(query=QUERY))["documents"][0].id == "b"


def test_kept_order_is_marked() -> None:
    ranker = CrossEncoderRanker(scorer=Broken(), on_error="keep_order", top_k=2)
    found = ranker.run(QUERY, documents())["documents"]
    assert [document.id for document in found] == ["a", "b"]
    assert found[0].score == 3.0
    assert found[0].meta["reranked"] is False
    assert "fell off" in found[0].meta["rerank_reason"]
    with pytest.raises(ScoringError):
        CrossEncoderRanker(scorer=Broken()).run(QUERY, documents())
