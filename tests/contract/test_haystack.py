"""Haystack's real classes around `CrossEncoderRanker`."""

import asyncio
import copy
import inspect
import json
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from haystack import Document, Pipeline, SuperComponent
from haystack.utils import ComponentDevice, Secret

from rerank_plugins import CrossEncoderScorer, InvalidInputError, InvalidTypeError, Reranker, ScoringError
from rerank_plugins.demo.data import load_passages, load_queries
from rerank_plugins.haystack import CrossEncoderRanker
from tests.contract.haystack_parts import (
    HAS_ASYNC_LIFECYCLE,
    QUERY,
    AsyncPipeline,
    documents,
    inputs,
    make_pipeline,
)
from tests.scorers import Broken, Spy


def make_ranker(**options: Any) -> CrossEncoderRanker:
    return CrossEncoderRanker("bundled", device="cpu", **options)


async def test_in_a_pipeline_sync_async_and_streaming() -> None:
    query = load_queries()[0]
    found = make_pipeline(make_ranker(top_k=1)).run(inputs(query.text))["ranker"]["documents"]
    assert [document.id for document in found] == list(query.relevant[:1])
    pipeline = make_pipeline(make_ranker(top_k=1), AsyncPipeline)
    assert await pipeline.run_async(inputs(query.text)) == {"ranker": {"documents": found}}
    parts = [part async for part in pipeline.run_async_generator(inputs(query.text))]
    assert parts[-1]["ranker"]["documents"] == found


def test_run_and_run_async_have_one_signature() -> None:
    assert inspect.signature(CrossEncoderRanker.run) == inspect.signature(CrossEncoderRanker.run_async)
    assert make_ranker().__haystack_supports_async__ is True  # type: ignore[attr-defined]


def test_yaml_round_trip_under_the_allowlist() -> None:
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


async def test_a_top_k_that_is_no_number_is_named() -> None:
    with pytest.raises(InvalidTypeError, match="top_k must be an int, but got str: '3'"):
        CrossEncoderRanker(top_k="3")  # type: ignore[arg-type]
    with pytest.raises(InvalidTypeError, match="top_k must be an int, but got str: '3'"):
        await CrossEncoderRanker(scorer=Spy()).run_async("q", documents(), top_k="3")  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [None, 7, "text", Document(content="text")], ids=repr)
async def test_documents_that_are_no_list_are_named(wrong: Any) -> None:
    ranker = CrossEncoderRanker(scorer=Spy())
    with pytest.raises(InvalidTypeError, match="documents must be a list, but got"):
        ranker.run("q", wrong)
    with pytest.raises(InvalidTypeError, match="documents must be a list, but got"):
        await ranker.run_async("q", wrong)


def test_documents_may_come_from_an_iterator() -> None:
    ranker = CrossEncoderRanker(scorer=Spy())
    assert ranker.run("q", iter(documents())) == ranker.run("q", documents())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["query_prefix", "query_suffix", "document_prefix", "document_suffix", "embedding_separator"]
)
def test_what_is_put_around_texts_must_be_text(name: str) -> None:
    with pytest.raises(InvalidTypeError, match=f"{name} must be a str, but got NoneType"):
        CrossEncoderRanker("bundled", **{name: None})


@pytest.mark.parametrize("wrong", ["title", ["title", 7], {"title": 1}], ids=repr)
def test_meta_fields_must_be_names(wrong: Any) -> None:
    with pytest.raises(InvalidTypeError, match="meta_fields_to_embed"):
        CrossEncoderRanker("bundled", meta_fields_to_embed=wrong)


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


@pytest.mark.parametrize("kind", [Pipeline, AsyncPipeline])
def test_in_a_super_component(kind: type[Pipeline]) -> None:
    query = load_queries()[0]
    wrapped = SuperComponent(
        pipeline=make_pipeline(make_ranker(top_k=1), kind),
        input_mapping={"query": ["retriever.query", "ranker.query"]},
        output_mapping={"ranker.documents": "documents"},
    )
    wrapped.warm_up()
    assert wrapped.run(query=query.text)["documents"][0].id in query.relevant
    if kind is AsyncPipeline:
        found = asyncio.run(wrapped.run_async(query=query.text))
        assert found["documents"][0].id in query.relevant


@pytest.mark.skipif(not HAS_ASYNC_LIFECYCLE, reason="this haystack-ai has no warm_up_async and close")
async def test_a_pipeline_warms_it_up_and_closes_it() -> None:
    ranker = make_ranker(max_length=78)
    pipeline = make_pipeline(ranker)
    await pipeline.warm_up_async()
    assert ranker._lazy.loaded
    await pipeline.close_async()
    assert not ranker._lazy.loaded
    pipeline.warm_up()
    assert ranker._lazy.loaded
    pipeline.close()
    assert not ranker._lazy.loaded


@pytest.mark.parametrize("again", [copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))])
@pytest.mark.parametrize("loaded", [False, True])
def test_copies_and_pickles_rank_as_the_original(again: Any, loaded: bool) -> None:
    ranker = make_ranker(top_k=2, scale="logit", meta_fields_to_embed=["title"], query_prefix="q: ")
    if loaded:
        ranker.warm_up()
    other = again(ranker)
    assert other is not ranker
    assert other.to_dict() == ranker.to_dict()
    assert other.run(QUERY, documents()) == ranker.run(QUERY, documents())
    # Still a component, with the same sockets.
    assert make_pipeline(other).run(inputs(QUERY))["ranker"]["documents"]


def test_a_dict_that_was_loaded_from_stays_as_it_is() -> None:
    data = make_ranker(token=Secret.from_env_var("NO_SUCH", strict=False)).to_dict()
    data["init_parameters"]["device"] = {"type": "single", "device": "cpu"}
    before = copy.deepcopy(data)
    CrossEncoderRanker.from_dict(data)
    assert data == before


def test_every_parameter_is_serialised() -> None:
    given = set(inspect.signature(CrossEncoderRanker.__init__).parameters)
    assert set(make_ranker().to_dict()["init_parameters"]) == given - {"self", "scorer", "reranker"}


async def test_fifty_at_once_get_their_own_results() -> None:
    ranker = make_ranker(top_k=3)
    passages = [Document(id=p.id, content=p.text) for p in load_passages()]
    queries = [query.text for query in load_queries()]
    jobs = [(queries[i % len(queries)], passages[i % 7 : i % 7 + 4]) for i in range(50)]
    expected = [ranker.run(query, given)["documents"] for query, given in jobs]

    same(await asyncio.gather(*(ranker.run_async(query, given) for query, given in jobs)), expected)
    with ThreadPoolExecutor(50) as pool:
        same(list(pool.map(lambda job: ranker.run(*job), jobs)), expected)


async def test_fifty_runs_of_one_pipeline() -> None:
    sequential = make_pipeline(make_ranker(top_k=3))
    few = [query.text for query in load_queries()[:5]]
    alone = {query: sequential.run(inputs(query))["ranker"]["documents"] for query in few}
    queries = few * 10
    expected = [alone[query] for query in queries]
    pipeline = make_pipeline(make_ranker(top_k=3), AsyncPipeline)
    found = await asyncio.gather(*(pipeline.run_async(inputs(query)) for query in queries))
    same([part["ranker"] for part in found], expected)


def same(found: list[dict[str, list[Document]]], expected: list[list[Document]]) -> None:
    for got, want in zip((part["documents"] for part in found), expected, strict=True):
        assert [document.id for document in got] == [document.id for document in want]
        assert [d.score for d in got] == pytest.approx([d.score for d in want], abs=1e-5)


def test_threads_that_come_first_together_load_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "hf_x")
    threads, loads = 16, []
    load = Reranker.from_settings
    monkeypatch.setattr(
        Reranker, "from_settings", classmethod(lambda cls, *args: loads.append(args[0]) or load(*args))
    )
    ranker = make_ranker(max_length=79, token=Secret.from_env_var("MY_TOKEN"))
    together = threading.Barrier(threads)

    def first(_: int) -> Reranker:
        together.wait(60)
        ranker.warm_up()
        return ranker._lazy.get()

    with ThreadPoolExecutor(threads) as pool:
        assert len(set(pool.map(first, range(threads)))) == 1
    assert len(loads) == 1
    assert loads[0].token.get_secret_value() == "hf_x"
    ranker.close()


def test_a_second_pass_equals_the_first() -> None:
    ranker = make_ranker(meta_fields_to_embed=["title", "year"])
    first = ranker.run(QUERY, documents())["documents"]
    assert ranker.run(QUERY, first)["documents"] == first
    assert ranker.run(QUERY, first[::-1])["documents"] == first


@pytest.mark.parametrize("query", [None, 7, ["who"]])
async def test_a_query_must_be_text(query: Any) -> None:
    ranker = make_ranker(query_prefix="q: ")
    for given in ([], documents()):
        with pytest.raises(TypeError, match="query must be a str"):
            ranker.run(query, given)
        with pytest.raises(InvalidInputError, match="query must be a str"):
            await ranker.run_async(query, given)


def test_documents_must_be_documents() -> None:
    with pytest.raises(TypeError, match=r"documents\[1\] must be a Document, but got str: 'text'"):
        make_ranker().run(QUERY, [*documents()[:1], "text"])  # type: ignore[list-item]


def test_importing_it_loads_no_other_framework() -> None:
    others = ["sentence_transformers", "langchain_core", "llama_index", "openvino", "onnxruntime"]
    code = (
        "import sys, json, rerank_plugins.haystack\n"
        f"print(json.dumps([name for name in {others} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_kept_order_is_marked() -> None:
    ranker = CrossEncoderRanker(scorer=Broken(), on_error="keep_order", top_k=2)
    found = ranker.run(QUERY, documents())["documents"]
    assert [document.id for document in found] == ["a", "b"]
    assert found[0].score == 3.0
    assert found[0].meta["reranked"] is False
    assert "fell off" in found[0].meta["rerank_reason"]
    with pytest.raises(ScoringError):
        CrossEncoderRanker(scorer=Broken()).run(QUERY, documents())
