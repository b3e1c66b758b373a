"""`CrossEncoderRerank` by itself: documents, settings, serialisation, failure."""

import copy
import json
import pickle
from typing import Any

import pytest
from langchain_core.load import dumps, loads

from rerank_plugins import CrossEncoderScorer, InvalidInputError, Reranker, ScoringError
from rerank_plugins.langchain import CrossEncoderRerank
from tests.contract.langchain_parts import QUERY, Broken, Special, documents


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


def test_rerank_takes_strings_documents_and_mappings(rerank: CrossEncoderRerank) -> None:
    mixed = ["A fist is a hand.", documents()[1], {"text": "x"}, {"page_content": "y"}]
    rows = rerank.rerank(mixed, QUERY)
    assert rows[0]["index"] == 1
    assert len(rows) == 2
    assert len(rerank.rerank(mixed, QUERY, top_n=None)) == 4
    assert set(rows[0]) == {"index", "relevance_score"}
    with pytest.raises(InvalidInputError, match=r"documents\[0\] must have a text"):
        rerank.rerank([{"title": "no text"}], QUERY)


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


async def test_failure_is_visible_or_raised() -> None:
    with pytest.raises(ScoringError):
        CrossEncoderRerank(scorer=Broken()).compress_documents(documents(), QUERY)
    kept = await CrossEncoderRerank(scorer=Broken(), on_error="keep_order").acompress_documents(
        documents(), QUERY
    )
    assert [document.id for document in kept] == ["a", "b", "c"]
    assert kept[0].metadata == {"source": "x", "reranked": False, "rerank_reason": "the device fell off"}


def test_environment_fills_in_what_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RERANK_MODEL", "bundled")
    monkeypatch.setenv("RERANK_TOP_K", "1")
    assert len(CrossEncoderRerank(device="cpu").compress_documents(documents(), QUERY)) == 1
    assert len(CrossEncoderRerank(device="cpu", top_n=2).compress_documents(documents(), QUERY)) == 2
