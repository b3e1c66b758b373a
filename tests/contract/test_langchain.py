"""`CrossEncoderRerank` by itself: documents, settings, serialisation, failure."""

import copy
import json
import pickle
import subprocess
import sys
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.load import dumps, loads

from rerank_plugins import CrossEncoderScorer, InvalidInputError, InvalidTypeError, Reranker, ScoringError
from rerank_plugins.langchain import CrossEncoderRerank
from tests.contract.langchain_parts import QUERY, Special, agree, documents
from tests.scorers import Broken


@pytest.fixture
def rerank(bundled: CrossEncoderScorer) -> CrossEncoderRerank:
    return CrossEncoderRerank(scorer=bundled, top_n=2)


def test_ids_types_and_metadata_survive_on_copies(rerank: CrossEncoderRerank) -> None:
    given = documents()
    before = copy.deepcopy(given)
    best, second = rerank.compress_documents(given, QUERY)
    assert given == before
    assert isinstance(best, Special)
    assert (best.id, best.page, best.page_content) == ("b", 7, "Goethe wrote Faust.")
    assert best.metadata["previous_relevance_score"] == 0.2
    assert best.metadata["relevance_score"] > second.metadata["relevance_score"]
    json.dumps([document.metadata for document in (best, second)])


def test_dumps_loads_and_pickle_keep_every_setting() -> None:
    rerank = CrossEncoderRerank(
        model="bundled", top_n=0, min_score=0.0, scale="logit", device="cpu", score_key="s", max_length=99
    )
    text = dumps(rerank)
    again = loads(text, allowed_objects=[CrossEncoderRerank], valid_namespaces=["rerank_plugins"])
    assert again == rerank
    assert again.model_dump() == rerank.model_dump()
    assert pickle.loads(pickle.dumps(rerank)) == rerank
    assert again.compress_documents(documents(), QUERY) == []


def test_a_ready_scorer_is_left_out_of_dumps(rerank: CrossEncoderRerank) -> None:
    assert "scorer" not in json.loads(dumps(rerank))["kwargs"]


async def test_rerank_takes_strings_documents_and_mappings(rerank: CrossEncoderRerank) -> None:
    mixed = ["A fist is a hand.", documents()[1], {"text": "x"}, {"page_content": "y"}]
    rows = rerank.rerank(mixed, QUERY)
    assert rows[0]["index"] == 1
    assert len(rows) == 2
    assert [row["index"] for row in await rerank.arerank(mixed, QUERY)] == [row["index"] for row in rows]
    assert len(rerank.rerank(mixed, QUERY, top_n=None)) == 4
    assert set(rows[0]) == {"index", "relevance_score"}
    with pytest.raises(InvalidInputError, match=r"documents\[0\] must have a text"):
        rerank.rerank([{"title": "no text"}], QUERY)
    for single in ("text", documents()[0], {"text": "x"}):
        with pytest.raises(InvalidTypeError, match="put a single document into a list"):
            rerank.rerank(single, QUERY)  # type: ignore[arg-type]
    for wrong in (None, b"bytes", {"text": None}):
        with pytest.raises(InvalidTypeError, match=r"documents\[1\] must hold a str"):
            await rerank.arerank(["text", wrong], QUERY)  # type: ignore[list-item]


def test_thresholds_and_spellings(bundled: CrossEncoderScorer) -> None:
    assert CrossEncoderRerank(scorer=bundled, top_k=1).top_n == 1
    assert CrossEncoderRerank(scorer=bundled, min_score=1.1).compress_documents(documents(), QUERY) == []
    assert len(CrossEncoderRerank(scorer=bundled, min_score=0.0).compress_documents(documents(), QUERY)) == 3
    assert CrossEncoderRerank(scorer=bundled).compress_documents([], QUERY) == []
    logits = CrossEncoderRerank(scorer=bundled, scale="logit", score_key="logit").compress_documents(
        documents(), QUERY
    )
    assert logits[0].metadata["logit"] == pytest.approx(
        float(bundled.score(QUERY, ["Goethe wrote Faust."])[0]), abs=1e-5
    )


def test_a_ready_reranker_is_used_and_can_be_overridden(bundled: CrossEncoderScorer) -> None:
    reranker = Reranker(bundled, top_k=2, scale="logit")
    assert len(CrossEncoderRerank(reranker=reranker).compress_documents(documents(), QUERY)) == 2
    assert len(CrossEncoderRerank(reranker=reranker, top_n=1).compress_documents(documents(), QUERY)) == 1
    assert reranker.settings.top_k == 2


def test_settings_that_are_assigned_or_copied_take_effect(rerank: CrossEncoderRerank) -> None:
    before = rerank.compress_documents(documents(), QUERY)
    for changed in (
        rerank.model_copy(update={"top_n": 1}),
        rerank.model_copy(deep=True),
        rerank.model_copy(),
    ):
        changed.top_n = 1
        assert len(changed.compress_documents(documents(), QUERY)) == 1
        changed.document_template = "Goethe wrote Faust.\n{content}"
        assert changed.compress_documents(documents(), QUERY)[0].metadata["relevance_score"] > 0.5
        changed.document_template = None
        agree(changed.compress_documents(documents(), QUERY), before[:1])
        with pytest.raises(InvalidInputError, match="but got -1"):
            changed.top_n = -1
        assert changed.top_n == 1
    agree(rerank.compress_documents(documents(), QUERY), before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_n": -1}, "but got -1"),
        ({"min_score": float("nan")}, "but got nan"),
        ({"scale": "percent"}, "percent"),
        ({"devise": "cpu"}, "devise"),
    ],
)
def test_bad_settings_raise_ours_at_construction(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        CrossEncoderRerank(**settings)


def test_two_sources_of_a_model_are_refused(bundled: CrossEncoderScorer) -> None:
    with pytest.raises(InvalidInputError, match="model"):
        CrossEncoderRerank(model="bundled", scorer=bundled)
    with pytest.raises(InvalidInputError, match="both"):
        CrossEncoderRerank(scorer=bundled, reranker=Reranker(bundled))


@pytest.mark.parametrize("state", [{"query": "q"}, {"documents": []}, "text", None])
def test_input_of_another_shape_is_named(rerank: CrossEncoderRerank, state: Any) -> None:
    with pytest.raises(InvalidInputError, match="input must be"):
        rerank.invoke(state)


async def test_a_document_that_is_none_is_named(rerank: CrossEncoderRerank) -> None:
    state = {"documents": [*documents(), "text"], "query": QUERY}
    with pytest.raises(InvalidTypeError, match=r"documents\[3\] must be a Document, but got str: 'text'"):
        rerank.invoke(state)
    with pytest.raises(InvalidTypeError, match="query"):
        await rerank.ainvoke({"documents": documents(), "query": None})


async def test_failure_is_visible_or_raised() -> None:
    with pytest.raises(ScoringError):
        CrossEncoderRerank(scorer=Broken()).compress_documents(documents(), QUERY)
    kept = await CrossEncoderRerank(scorer=Broken(), on_error="keep_order").acompress_documents(
        documents(), QUERY
    )
    assert [document.id for document in kept] == ["a", "b", "c"]
    assert kept[0].metadata == {"source": "x", "reranked": False, "rerank_reason": "the device fell off"}
    assert kept[1].metadata["relevance_score"] == 0.2  # the caller's, not ours


async def test_a_failure_is_visible_in_rows_too() -> None:
    rerank = CrossEncoderRerank(scorer=Broken(), on_error="keep_order")
    row = {"index": 0, "relevance_score": None, "reranked": False, "rerank_reason": "the device fell off"}
    assert rerank.rerank(documents(), QUERY)[0] == row
    assert (await rerank.arerank(documents(), QUERY))[0] == row


def test_the_marks_of_a_failure_go_when_it_works_again(rerank: CrossEncoderRerank) -> None:
    broken = CrossEncoderRerank(scorer=Broken(), on_error="keep_order")
    failed = broken.compress_documents(documents(), QUERY)
    agree(rerank.compress_documents(failed, QUERY), rerank.compress_documents(documents(), QUERY))
    mine = [Document("Goethe wrote Faust.", metadata={"reranked": "yes"})]
    assert rerank.compress_documents(mine, QUERY)[0].metadata["reranked"] == "yes"


def test_environment_fills_in_what_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RERANK_MODEL", "bundled")
    monkeypatch.setenv("RERANK_TOP_K", "1")
    assert len(CrossEncoderRerank(device="cpu").compress_documents(documents(), QUERY)) == 1
    assert len(CrossEncoderRerank(device="cpu", top_n=2).compress_documents(documents(), QUERY)) == 2


def test_importing_it_loads_no_model_and_no_other_framework() -> None:
    code = """
import sys
import langchain_core.callbacks, langchain_core.cross_encoders, langchain_core.runnables
before = set(sys.modules)
from rerank_plugins.langchain import CrossEncoder, CrossEncoderRerank
CrossEncoderRerank(model="bundled", top_n=1)
CrossEncoder("bundled")
print(*{name.split(".")[0] for name in set(sys.modules) - before})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "rerank_plugins" in loaded
    unwanted = {
        "torch",
        "transformers",
        "sentence_transformers",
        "llama_index",
        "haystack",
        "langchain_classic",
    }
    assert not loaded & unwanted
