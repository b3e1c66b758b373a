"""Fusion and calibration through the adapters: first-stage scores where the frameworks keep them."""

import copy
import json
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
from haystack import Document as HaystackDocument
from haystack import Pipeline
from langchain_core.documents import Document
from langchain_core.load import dumps, loads
from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode

from rerank_plugins import Calibration, CrossEncoderScorer, InvalidInputError, Reranker
from rerank_plugins.haystack import CrossEncoderRanker
from rerank_plugins.langchain import CrossEncoder
from rerank_plugins.langchain import CrossEncoderRerank as LangChainRerank
from rerank_plugins.llama_index import CrossEncoderRerank as LlamaIndexRerank

QUERY = "who wrote Faust?"
TEXTS = ["Goethe wrote Faust.", "Faust is a play.", "A fist is a hand.", "Marlowe wrote a Faustus."]
FIRST = [1.0, 7.0, 9.0, None]
FUSIONS = ["rrf", 0.0, 0.4, 1.0]
CALIBRATION = Calibration(2.0, 1.0, model="bundled", pairs=7)


def documents(key: str = "bm25") -> list[Document]:
    return [
        Document(text, id=str(i), metadata={} if score is None else {key: score})
        for i, (text, score) in enumerate(zip(TEXTS, FIRST, strict=True))
    ]


def nodes() -> list[NodeWithScore]:
    return [
        NodeWithScore(node=TextNode(text=text, id_=str(i)), score=score)
        for i, (text, score) in enumerate(zip(TEXTS, FIRST, strict=True))
    ]


def contents() -> list[HaystackDocument]:
    return [
        HaystackDocument(id=str(i), content=text, score=score)
        for i, (text, score) in enumerate(zip(TEXTS, FIRST, strict=True))
    ]


def expected(scorer: CrossEncoderScorer, fusion: Any, first: Any = FIRST) -> list[Any]:
    ranking = Reranker(scorer, fusion=fusion).rank(QUERY, TEXTS, first_stage=first)
    return [(str(document.index), document.score, document.fused) for document in ranking]


def same(found: list[Any], wanted: list[Any]) -> None:
    """Check ids exactly, and numbers but for rounding: what shares a batch shifts the last digits."""
    assert [row[0] for row in found] == [row[0] for row in wanted]
    for place in (1, 2):
        assert [row[place] for row in found] == pytest.approx([row[place] for row in wanted], abs=1e-5)


def of_documents(found: list[Document]) -> list[Any]:
    return [(d.id, d.metadata["relevance_score"], d.metadata["rerank_fused"]) for d in found]


def of_nodes(found: list[NodeWithScore]) -> list[Any]:
    return [(node.node_id, node.score, node.metadata["rerank_fused"]) for node in found]


def of_contents(found: dict[str, list[HaystackDocument]]) -> list[Any]:
    return [(document.id, document.score, document.meta["rerank_fused"]) for document in found["documents"]]


@pytest.mark.parametrize("fusion", FUSIONS)
async def test_adapters_agree_with_the_core(fusion: Any, bundled: CrossEncoderScorer) -> None:
    wanted = expected(bundled, fusion)
    given, before = documents(), documents()
    rerank = LangChainRerank(scorer=bundled, fusion=fusion, first_stage_key="bm25")
    same(of_documents(rerank.compress_documents(given, QUERY)), wanted)
    same(of_documents(await rerank.acompress_documents(given, QUERY)), wanted)
    for rows in (rerank.rerank(given, QUERY), await rerank.arerank(given, QUERY)):
        assert [str(row["index"]) for row in rows] == [row[0] for row in wanted]
    assert given == before

    nodes_given, nodes_before = nodes(), nodes()
    postprocessor = LlamaIndexRerank(scorer=bundled, fusion=fusion)
    same(of_nodes(postprocessor.postprocess_nodes(nodes_given, query_str=QUERY)), wanted)
    same(of_nodes(await postprocessor.apostprocess_nodes(nodes_given, query_str=QUERY)), wanted)
    assert nodes_given == nodes_before

    contents_given, contents_before = contents(), contents()
    ranker = CrossEncoderRanker(scorer=bundled, fusion=fusion)
    same(of_contents(ranker.run(QUERY, contents_given)), wanted)
    same(of_contents(await ranker.run_async(QUERY, contents_given)), wanted)
    assert contents_given == contents_before


def test_the_input_order_counts_where_there_are_no_scores(bundled: CrossEncoderScorer) -> None:
    wanted = expected(bundled, "rrf", None)
    rerank = LangChainRerank(scorer=bundled, fusion="rrf")
    same(of_documents(rerank.compress_documents(documents(), QUERY)), wanted)
    assert [str(row["index"]) for row in rerank.rerank(TEXTS, QUERY)] == [row[0] for row in wanted]
    bare = [NodeWithScore(node=node.node) for node in nodes()]
    same(
        of_nodes(LlamaIndexRerank(scorer=bundled, fusion="rrf").postprocess_nodes(bare, query_str=QUERY)),
        wanted,
    )
    unscored = [HaystackDocument(id=document.id, content=document.content) for document in contents()]
    same(of_contents(CrossEncoderRanker(scorer=bundled, fusion="rrf").run(QUERY, unscored)), wanted)
    for call in (
        lambda: CrossEncoderRanker(scorer=bundled, fusion=0.5).run(QUERY, unscored),
        lambda: LangChainRerank(scorer=bundled, fusion=0.5).compress_documents(documents(), QUERY),
        lambda: LangChainRerank(scorer=bundled, fusion=0.5, first_stage_key="x").rerank(TEXTS, QUERY),
        lambda: LlamaIndexRerank(scorer=bundled, fusion=0.5).postprocess_nodes(bare, query_str=QUERY),
    ):
        with pytest.raises(InvalidInputError, match=r"fusion=0.5 needs first-stage scores.*first_stage_key"):
            call()


def test_langchain_reads_the_key_of_mappings_and_names_what_is_no_score(bundled: CrossEncoderScorer) -> None:
    rerank = LangChainRerank(scorer=bundled, fusion=0.0, first_stage_key="bm25")
    rows = [{"text": text, "bm25": score} for text, score in zip(TEXTS, FIRST, strict=True)]
    assert [row["index"] for row in rerank.rerank(rows, QUERY)] == [2, 1, 0, 3]
    for wrong, message in (("high", "got str"), (math.nan, "got nan")):
        with pytest.raises(InvalidInputError, match=rf"first_stage\[1\] must be .*{message}"):
            rerank.compress_documents([Document("a"), Document("b", metadata={"bm25": wrong})], QUERY)


def test_a_second_pass_goes_by_the_same_first_stage(bundled: CrossEncoderScorer) -> None:
    rerank = LangChainRerank(scorer=bundled, fusion=0.4, first_stage_key="bm25")
    first = rerank.compress_documents(documents(), QUERY)
    same(of_documents(rerank.compress_documents(first, QUERY)), of_documents(first))

    keeping = LlamaIndexRerank(scorer=bundled, fusion=0.4, keep_retrieval_score=True)
    nodes_first = keeping.postprocess_nodes(nodes(), query_str=QUERY)
    same(of_nodes(keeping.postprocess_nodes(nodes_first, query_str=QUERY)), of_nodes(nodes_first))
    # Without it, a node's score is what the pass before gave it.
    passing = LlamaIndexRerank(scorer=bundled, fusion=0.0)
    scores = [
        node.score
        for node in passing.postprocess_nodes(
            LlamaIndexRerank(scorer=bundled).postprocess_nodes(nodes(), query_str=QUERY), query_str=QUERY
        )
    ]
    assert scores == sorted(scores, reverse=True)  # type: ignore[type-var]


def test_what_fusion_notes_stays_out_of_texts_and_goes_with_the_next_pass(
    bundled: CrossEncoderScorer,
) -> None:
    fused = LlamaIndexRerank(scorer=bundled, fusion="rrf").postprocess_nodes(nodes(), query_str=QUERY)
    plain = LlamaIndexRerank(scorer=bundled).postprocess_nodes(nodes(), query_str=QUERY)
    for node in fused:
        text = node.node.get_content(MetadataMode.NONE)
        assert node.node.get_content(MetadataMode.LLM) == node.node.get_content(MetadataMode.EMBED) == text
    again = LlamaIndexRerank(scorer=bundled, metadata_mode=MetadataMode.ALL).postprocess_nodes(
        fused, query_str=QUERY
    )
    assert [node.node_id for node in again] == [node.node_id for node in plain]
    assert all("rerank_fused" not in node.metadata for node in again)
    found = LangChainRerank(scorer=bundled, fusion="rrf").compress_documents(documents(), QUERY)
    unfused = LangChainRerank(scorer=bundled).compress_documents(found, QUERY)
    assert all("rerank_fused" not in document.metadata for document in unfused)
    ranked = CrossEncoderRanker(scorer=bundled, fusion="rrf").run(QUERY, contents())["documents"]
    reranked = CrossEncoderRanker(scorer=bundled).run(QUERY, ranked)["documents"]
    assert all("rerank_fused" not in document.meta for document in reranked)


def test_min_score_and_top_n_work_on_scores_in_fused_order(bundled: CrossEncoderScorer) -> None:
    scores = {index: score for index, score, _ in expected(bundled, None)}
    least = sorted(scores.values())[2]
    rerank = LangChainRerank(scorer=bundled, fusion=0.0, first_stage_key="bm25", min_score=least - 1e-4)
    found = rerank.compress_documents(documents(), QUERY)
    kept = [str(i) for i in (2, 1, 0, 3) if scores[str(i)] >= least - 1e-4]
    assert [document.id for document in found] == kept
    assert [d.id for d in rerank.invoke({"documents": documents(), "query": QUERY}, top_n=1)] == kept[:1]


@pytest.mark.parametrize("form", ["object", "dict", "path"])
def test_serialising_keeps_fusion_and_calibration(form: str, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    CALIBRATION.save(path)
    calibration = {"object": CALIBRATION, "dict": {"temperature": 2.0, "offset": 1.0}, "path": path}[form]
    options: Any = {
        "model": "bundled",
        "device": "cpu",
        "scale": "calibrated",
        "calibration": calibration,
        "fusion": 0.4,
    }
    rerank = LangChainRerank(**options, first_stage_key="bm25")
    again = loads(dumps(rerank), allowed_objects=[LangChainRerank], valid_namespaces=["rerank_plugins"])
    wanted = of_documents(rerank.compress_documents(documents(), QUERY))
    for twin in (again, pickle.loads(pickle.dumps(rerank)), copy.deepcopy(rerank)):
        assert twin == rerank
        same(of_documents(twin.compress_documents(documents(), QUERY)), wanted)

    postprocessor = LlamaIndexRerank(**options)
    plain = json.loads(json.dumps(postprocessor.to_dict()))
    for twin in (
        LlamaIndexRerank.from_dict(plain),
        LlamaIndexRerank.from_json(postprocessor.to_json()),
        pickle.loads(pickle.dumps(postprocessor)),
    ):
        assert twin.to_dict() == postprocessor.to_dict()
        same(of_nodes(twin.postprocess_nodes(nodes(), query_str=QUERY)), wanted)

    pipeline = Pipeline()
    pipeline.add_component("ranker", CrossEncoderRanker(**options))
    loaded = Pipeline.loads(pipeline.dumps())
    assert loaded.to_dict() == pipeline.to_dict()
    found = loaded.run({"ranker": {"query": QUERY, "documents": contents()}})["ranker"]
    same(of_contents(found), wanted)


def test_calibrated_scores_are_the_same_everywhere(bundled: CrossEncoderScorer) -> None:
    options: Any = {"scorer": bundled, "scale": "calibrated", "calibration": CALIBRATION}
    logits = bundled.score(QUERY, TEXTS)
    by_text = dict(zip(TEXTS, CALIBRATION.apply(logits).tolist(), strict=True))
    for document in LangChainRerank(**options).compress_documents(documents(), QUERY):
        assert document.metadata["relevance_score"] == pytest.approx(by_text[document.page_content], abs=1e-5)
        assert "rerank_fused" not in document.metadata
    for node in LlamaIndexRerank(**options).postprocess_nodes(nodes(), query_str=QUERY):
        assert node.score == pytest.approx(by_text[node.text], abs=1e-5)
    for content in CrossEncoderRanker(**options).run(QUERY, contents())["documents"]:
        assert content.score == pytest.approx(by_text[content.content], abs=1e-5)
    found = CrossEncoder(**options).score([(QUERY, text) for text in TEXTS])
    assert found == pytest.approx(list(by_text.values()), abs=1e-5)
    with pytest.raises(InvalidInputError, match="needs a calibration"):
        LangChainRerank(scorer=bundled, scale="calibrated")


def test_a_pair_scorer_knows_no_first_stage(
    bundled: CrossEncoderScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RERANK_FUSION", "0.5")
    found = CrossEncoder(scorer=bundled, scale="logit").score([(QUERY, text) for text in TEXTS])
    assert found == pytest.approx(bundled.score(QUERY, TEXTS).tolist(), abs=1e-5)
