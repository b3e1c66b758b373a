"""`CrossEncoderRerank` on LlamaIndex's real nodes: in, out, settings, serialisation."""

import copy
import json
import pickle
import subprocess
import sys
from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import (
    ImageNode,
    MediaResource,
    MetadataMode,
    Node,
    NodeWithScore,
    QueryBundle,
    TextNode,
)

from rerank_plugins import CrossEncoderScorer, InvalidInputError, InvalidTypeError, Reranker
from rerank_plugins.llama_index import CrossEncoderRerank
from tests.contract.llama_index_parts import QUERY, Fixed, Spy, nodes, scored
from tests.scorers import Broken


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
    assert not {id(node) for node in out} & {id(node) for node in given}
    assert json.loads(out[0].to_json())["score"] == out[0].score
    assert await rerank.apostprocess_nodes(given, query_bundle=QueryBundle(QUERY)) == out
    assert given == before


@pytest.mark.parametrize(
    "options",
    [
        {"keep_retrieval_score": True},
        {"long_documents": "max_passage"},
        {"keep_retrieval_score": True, "metadata_mode": MetadataMode.ALL},
        {"document_template": "{year}\n{content}", "keep_retrieval_score": True},
    ],
    ids=lambda options: "+".join(options),
)
def test_a_second_pass_is_equal_and_mutates_nothing(bundled: CrossEncoderScorer, options: dict) -> None:
    rerank = CrossEncoderRerank(scorer=bundled, **options)
    given = nodes()
    before = copy.deepcopy(given)
    first = rerank.postprocess_nodes(given, query_str=QUERY)
    kept = copy.deepcopy(first)
    assert rerank.postprocess_nodes(first, query_str=QUERY) == first == kept
    assert given == before


async def test_empty_and_missing_query(rerank: CrossEncoderRerank) -> None:
    assert rerank.postprocess_nodes([], query_str=QUERY) == []
    assert await rerank.apostprocess_nodes([], query_str=QUERY) == []
    with pytest.raises(ValueError, match="query"):
        rerank.postprocess_nodes(nodes())
    with pytest.raises(InvalidInputError):
        await rerank.apostprocess_nodes(nodes())
    with pytest.raises(InvalidInputError, match="query must be a str, but got int"):
        rerank.postprocess_nodes(nodes(), query_bundle=QueryBundle(7))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (None, "nodes must be a list, but got NoneType"),
        (nodes()[0], "put a single node into a list"),
        ([*nodes(), TextNode(text="bare")], r"nodes\[3\] must be a NodeWithScore, but got TextNode.*wrap it"),
        (["text"], r"nodes\[0\] must be a NodeWithScore, but got str"),
    ],
    ids=["None", "single", "bare", "text"],
)
async def test_nodes_of_another_shape_are_named(rerank: CrossEncoderRerank, wrong: Any, message: str) -> None:
    with pytest.raises(InvalidTypeError, match=message):
        rerank.postprocess_nodes(wrong, query_str=QUERY)
    with pytest.raises(InvalidTypeError, match=message):
        await rerank.apostprocess_nodes(wrong, query_str=QUERY)
    with pytest.raises(InvalidTypeError, match=message):
        rerank.preview(wrong, QUERY)


def test_nodes_may_come_from_an_iterator(rerank: CrossEncoderRerank) -> None:
    found = rerank.postprocess_nodes(iter(nodes()), query_str=QUERY)  # type: ignore[arg-type]
    assert [node.node_id for node in found] == [
        node.node_id for node in rerank.postprocess_nodes(nodes(), query_str=QUERY)
    ]


@pytest.mark.parametrize("mode", list(MetadataMode))
def test_the_retrieval_score_is_kept_out_of_texts_and_survives_a_second_pass(mode: MetadataMode) -> None:
    spy = Spy()
    rerank = CrossEncoderRerank(scorer=spy, keep_retrieval_score=True, metadata_mode=mode)
    first = rerank.postprocess_nodes(nodes(), query_str=QUERY)
    texts = list(spy.texts)
    second = rerank.postprocess_nodes(first, query_str=QUERY)
    assert sorted(spy.texts) == sorted(texts), "the kept score is no part of what is scored"
    kept = {node.node_id: node.metadata["retrieval_score"] for node in second}
    assert kept == {"a": 0.9, "b": 0.5, "c": None}
    for hidden in (MetadataMode.EMBED, MetadataMode.LLM):
        assert all("retrieval_score" not in node.node.get_content(hidden) for node in second)
    without = CrossEncoderRerank(scorer=spy).postprocess_nodes(nodes(), query_str=QUERY)
    assert all("retrieval_score" not in node.metadata for node in without)


def test_a_score_that_another_reranker_left_in_sight_is_hidden() -> None:
    seen = TextNode(text="Goethe wrote Faust.", metadata={"retrieval_score": 0.25})
    rerank = CrossEncoderRerank(scorer=Spy(), keep_retrieval_score=True)
    (out,) = rerank.postprocess_nodes([NodeWithScore(node=seen, score=0.75)], query_str=QUERY)
    assert out.metadata["retrieval_score"] == 0.25
    assert out.node.get_content(MetadataMode.LLM) == "Goethe wrote Faust."


def test_metadata_mode_says_what_is_scored() -> None:
    spy = Spy()
    CrossEncoderRerank(scorer=spy).postprocess_nodes(nodes(), query_str=QUERY)
    assert spy.texts[0] == "source: x\n\nA fist is a hand."
    CrossEncoderRerank(scorer=spy, metadata_mode="none").postprocess_nodes(nodes(), query_str=QUERY)
    assert spy.texts[0] == "A fist is a hand."
    node = TextNode(text="t", metadata={"e": 1, "l": 2}, excluded_embed_metadata_keys=["e"])
    given = [NodeWithScore(node=node)]
    for mode, text in (("embed", "l: 2\n\nt"), ("llm", "e: 1\nl: 2\n\nt"), ("all", "e: 1\nl: 2\n\nt")):
        CrossEncoderRerank(scorer=spy, metadata_mode=mode).postprocess_nodes(given, query_str=QUERY)
        assert spy.texts == [text]


def test_images_and_other_media_are_scored_by_their_text_and_never_lost() -> None:
    spy = Spy()
    captioned = ImageNode(image="aGk=", text="Goethe at his desk", id_="captioned", metadata={"page": 3})
    media = [
        captioned,
        ImageNode(image_url="https://example.org/faust.png", id_="url"),
        Node(image_resource=MediaResource(data=b"hi"), id_="image"),
        Node(audio_resource=MediaResource(data=b"hi"), metadata={"length": 3}, id_="audio"),
        Node(text_resource=MediaResource(text="a spoken word"), id_="text"),
    ]
    given = [NodeWithScore(node=node, score=0.5) for node in media]
    out = CrossEncoderRerank(scorer=spy).postprocess_nodes(given, query_str=QUERY)
    assert spy.texts == ["page: 3\n\nGoethe at his desk", "", "", "", "a spoken word"]
    assert [node.node_id for node in out] == ["captioned", "text", "url", "image", "audio"]
    assert [type(node.node) for node in out] == [ImageNode, Node, ImageNode, Node, Node]
    assert out[0].node.image == "aGk="  # type: ignore[attr-defined]
    templated = CrossEncoderRerank(scorer=spy, document_template="{length} {content}")
    templated.postprocess_nodes(given, query_str=QUERY)
    assert len(spy.texts) == len(media)


SETTINGS = {
    "model": "bundled",
    "device": "cpu",
    "engine": "torch",
    "dtype": "float32",
    "max_length": 99,
    "max_query_tokens": 20,
    "max_batch_tokens": 512,
    "cache_dir": "somewhere",
    "local_files_only": True,
    "top_n": 2,
    "min_score": -99.0,
    "scale": "logit",
    "calibration": {"temperature": 2.0, "offset": 1.0},
    "fusion": 0.25,
    "on_error": "keep_order",
    "document_template": "{year} {content}",
    "long_documents": "max_passage",
    "passage_tokens": 40,
    "passage_overlap": 0,
    "max_passages": 3,
    "best_passages": 2,
    "metadata_mode": MetadataMode.NONE,
    "keep_retrieval_score": True,
}


def test_dict_json_pickle_and_copies_keep_every_setting() -> None:
    rerank = CrossEncoderRerank(**SETTINGS)
    # remote stands instead of most of the others: tests/clients.
    unset = {"revision", "remote", "scorer", "reranker", "callback_manager"}
    assert set(CrossEncoderRerank.model_fields) - set(SETTINGS) <= unset, "a new field: test it here"
    plain = json.loads(json.dumps(rerank.to_dict()))
    assert {name: plain[name] for name in SETTINGS} == SETTINGS
    expected = rerank.postprocess_nodes(nodes(), query_str=QUERY)
    assert len(expected) == 2
    for twin in (
        CrossEncoderRerank.from_dict(plain),
        CrossEncoderRerank.from_json(rerank.to_json()),
        pickle.loads(pickle.dumps(rerank)),
        copy.deepcopy(rerank),
        copy.copy(rerank),
    ):
        assert twin.to_dict() == rerank.to_dict()
        assert twin.metadata_mode is MetadataMode.NONE
        assert twin.postprocess_nodes(nodes(), query_str=QUERY) == expected


def test_a_ready_scorer_or_reranker_cannot_be_serialised(bundled: CrossEncoderScorer) -> None:
    for ready in ({"scorer": bundled}, {"reranker": Reranker(bundled)}):
        rerank = CrossEncoderRerank(**ready)
        for write in (rerank.to_dict, rerank.to_json):
            with pytest.raises(InvalidInputError, match="give model="):
                write()
        assert "CrossEncoderRerank" in repr(rerank)


def test_pickle_carries_a_scorer_that_was_given(bundled: CrossEncoderScorer) -> None:
    rerank = CrossEncoderRerank(reranker=Reranker(bundled, top_k=1))
    twin = pickle.loads(pickle.dumps(rerank))
    assert scored(twin.postprocess_nodes(nodes(), query_str=QUERY)) == scored(
        rerank.postprocess_nodes(nodes(), query_str=QUERY)
    )


def test_settings_may_be_assigned_and_are_checked(bundled: CrossEncoderScorer) -> None:
    rerank = CrossEncoderRerank(model="bundled", device="cpu")
    assert len(rerank.postprocess_nodes(nodes(), query_str=QUERY)) == 3
    rerank.top_n = 1
    assert [node.node_id for node in rerank.postprocess_nodes(nodes(), query_str=QUERY)] == ["b"]
    with pytest.raises(InvalidInputError, match="but got -1"):
        rerank.top_n = -1
    assert rerank.top_n == 1
    rerank.min_score = 1.0
    assert rerank.postprocess_nodes(nodes(), query_str=QUERY) == []
    copied = rerank.model_copy(update={"top_n": 2, "min_score": 0.0})
    assert len(copied.postprocess_nodes(nodes(), query_str=QUERY)) == 2
    assert rerank.top_n == 1
    with pytest.raises(InvalidInputError, match="but got -1"):
        rerank.model_copy(update={"top_n": -1})
    spy = Spy()
    spying = CrossEncoderRerank(scorer=spy)
    spying.document_template = "{year}: {content}"
    spying.postprocess_nodes(nodes()[1:2], query_str=QUERY)
    assert spy.texts == ["1808: Goethe wrote Faust."]


def test_what_an_engine_assigns_changes_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RERANK_SCALE", "logit")
    rerank = CrossEncoderRerank(scorer=Spy())
    monkeypatch.delenv("RERANK_SCALE")
    mine = CallbackManager([])
    RetrieverQueryEngine.from_args(
        Fixed(), llm=MockLLM(), node_postprocessors=[rerank], callback_manager=mine
    )
    assert rerank.callback_manager is mine
    assert rerank.postprocess_nodes(nodes(), query_str=QUERY)[0].score > 1
    with pytest.raises(InvalidInputError, match="keep_retrieval_score"):
        rerank.keep_retrieval_score = "often"  # type: ignore[assignment]
    assert rerank.keep_retrieval_score is False


def test_close_frees_the_model_and_the_next_call_loads_it_again(bundled: CrossEncoderScorer) -> None:
    rerank = CrossEncoderRerank(model="bundled", device="cpu", max_length=75)
    before = scored(rerank.postprocess_nodes(nodes(), query_str=QUERY))
    scorer = rerank._lazy.get().scorer
    rerank.close()
    assert scorer.closed  # type: ignore[attr-defined]
    assert scored(rerank.postprocess_nodes(nodes(), query_str=QUERY)) == before
    rerank.close()
    CrossEncoderRerank(scorer=bundled).close()
    assert not bundled.closed


def test_bad_settings_raise_ours(bundled: CrossEncoderScorer) -> None:
    with pytest.raises(InvalidInputError, match="but got -1"):
        CrossEncoderRerank(top_n=-1)
    with pytest.raises(InvalidInputError, match="metadata_mode"):
        CrossEncoderRerank(metadata_mode="some")
    with pytest.raises(InvalidInputError, match="model"):
        CrossEncoderRerank(model="bundled", scorer=bundled)
    with pytest.raises(InvalidInputError, match="content"):
        CrossEncoderRerank(document_template="{title}")
    assert CrossEncoderRerank(scorer=bundled, top_k=0).postprocess_nodes(nodes(), query_str=QUERY) == []


async def test_kept_order_is_marked_and_out_of_the_prompt() -> None:
    rerank = CrossEncoderRerank(scorer=Broken(), on_error="keep_order")
    out = await rerank.apostprocess_nodes(nodes(), query_str=QUERY)
    assert [node.node_id for node in out] == ["a", "b", "c"]
    assert [node.score for node in out] == [0.9, 0.5, None]
    assert out[0].metadata["reranked"] is False
    assert "fell off" in out[0].metadata["rerank_reason"]
    assert "rerank" not in out[0].node.get_content(MetadataMode.LLM)
    again = CrossEncoderRerank(scorer=Spy()).postprocess_nodes(out, query_str=QUERY)
    assert all("reranked" not in node.metadata for node in again), "the marks are of the pass that failed"
    mine = TextNode(text="Goethe wrote Faust.", metadata={"reranked": "by the editor"})
    spy = Spy()
    (kept,) = CrossEncoderRerank(scorer=spy).postprocess_nodes([NodeWithScore(node=mine)], query_str=QUERY)
    assert kept.metadata["reranked"] == "by the editor"
    assert "by the editor" in spy.texts[0], "one of the two alone is the user's own"


def test_importing_the_adapter_loads_no_other_framework_and_no_torch() -> None:
    code = (
        "import json, sys, {module}\n"
        "names = 'torch transformers sentence_transformers haystack langchain_core langchain_classic'\n"
        "print(json.dumps([name for name in names.split() if name in sys.modules]))"
    )

    def loaded_by(module: str) -> set[str]:
        run = [sys.executable, "-c", code.format(module=module)]
        return set(json.loads(subprocess.run(run, capture_output=True, text=True, check=True).stdout))

    assert loaded_by("rerank_plugins.llama_index") <= loaded_by("llama_index.core")
