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
from langchain_core.runnables import RunnablePassthrough

from rerank_plugins import CrossEncoderScorer, InvalidInputError, InvalidTypeError, Reranker, ScoringError
from rerank_plugins.langchain import CrossEncoder, CrossEncoderRerank
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


def test_a_ready_scorer_or_reranker_is_not_dumped_as_another_model(
    rerank: CrossEncoderRerank, bundled: CrossEncoderScorer
) -> None:
    for ready in (rerank, CrossEncoderRerank(reranker=Reranker(bundled, scale="logit"))):
        text = dumps(RunnablePassthrough() | ready)
        with pytest.raises(NotImplementedError, match="CrossEncoderRerank"):
            loads(text, allowed_objects="all", valid_namespaces=["rerank_plugins"])
        assert json.loads(dumps(ready))["type"] == "not_implemented"


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


@pytest.mark.parametrize("wrong", [None, 7, "text", Document("text"), {"a": 1}, {"text"}], ids=repr)
async def test_documents_that_are_no_list_are_named(rerank: CrossEncoderRerank, wrong: Any) -> None:
    message = "documents must be a list, but got .* put a single document into a list"
    with pytest.raises(InvalidTypeError, match=message):
        rerank.invoke({"documents": wrong, "query": QUERY})
    with pytest.raises(InvalidTypeError, match=message):
        await rerank.acompress_documents(wrong, QUERY)
    for call in (rerank.rerank, rerank.preview):
        with pytest.raises(InvalidTypeError, match=message):
            call(wrong, QUERY)


async def test_documents_may_come_from_an_iterator(bundled: CrossEncoderScorer) -> None:
    rerank = CrossEncoderRerank(scorer=bundled, fusion=0.0, first_stage_key="s")
    given = [{"text": "Goethe wrote Faust.", "s": 0.1}, {"text": "A fist is a hand.", "s": 0.9}]
    assert [row["index"] for row in rerank.rerank(iter(given), QUERY)] == [1, 0]
    assert [row["index"] for row in await rerank.arerank(iter(given), QUERY)] == [1, 0]
    found = CrossEncoderRerank(scorer=bundled).invoke({"documents": iter(documents()), "query": QUERY})
    assert len(found) == 3


async def test_a_keyword_that_a_call_does_not_take_is_named(rerank: CrossEncoderRerank) -> None:
    state = {"documents": documents(), "query": QUERY}
    for name in ("first_stage", "stop"):
        with pytest.raises(InvalidInputError, match=f"for one call, but got {name}"):
            rerank.invoke(state, **{name: None})
        with pytest.raises(InvalidInputError, match=f"for one call, but got {name}"):
            await rerank.bind(**{name: None}).ainvoke(state)
    assert len(rerank.invoke(state, top_n=1, scale="logit", min_score=None)) == 1


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


def test_what_the_environment_said_at_creation_stays(
    monkeypatch: pytest.MonkeyPatch, bundled: CrossEncoderScorer
) -> None:
    monkeypatch.setenv("RERANK_SCALE", "logit")
    monkeypatch.setenv("RERANK_TOP_K", "1")
    monkeypatch.setenv("RERANK_MAX_LENGTH", "99")
    loading, ready = CrossEncoderRerank(model="bundled"), CrossEncoderRerank(scorer=bundled, min_score=-99)
    for name, value in {"RERANK_SCALE": "probability", "RERANK_TOP_K": "2", "RERANK_DTYPE": "none"}.items():
        monkeypatch.setenv(name, value)
    for rerank in (loading, ready):
        before = rerank._lazy
        rerank.score_key = "s"
        assert rerank._lazy is before, "nothing was made anew"
        rerank.document_template = "{title} {content}"
        assert rerank._lazy is before
    monkeypatch.delenv("RERANK_DTYPE")
    for rerank in (loading, ready):
        rerank.on_error = "keep_order"
        assert (rerank._lazy.settings.scale, rerank._lazy.settings.top_k) == ("logit", 1)
        copied = rerank.model_copy(update={"top_k": 3, "fusion": "rrf"})
        assert (copied._lazy.settings.scale, copied._lazy.settings.top_k) == ("logit", 3)
        copied.top_n = None  # not given any more: as the environment says
        assert (copied._lazy.settings.top_k, copied._lazy.settings.fusion) == (2, "rrf")
    loading.device = "cpu"
    assert loading._lazy.scorer_settings.max_length == 99
    assert ready._lazy.settings.min_score == -99
    ready.scorer = Broken()
    assert ready._lazy.settings.scale == "logit"
    assert len(ready.compress_documents(documents(), QUERY)) == 1


def test_a_ready_rerankers_settings_are_below_those_that_are_assigned(bundled: CrossEncoderScorer) -> None:
    rerank = CrossEncoderRerank(reranker=Reranker(bundled, top_k=2), top_n=1)
    rerank.top_n = None
    assert len(rerank.compress_documents(documents(), QUERY)) == 2
    rerank.scale = "logit"
    rerank.reranker = Reranker(bundled, top_k=1)
    assert (rerank._lazy.settings.top_k, rerank._lazy.settings.scale) == (1, "logit")
    with pytest.raises(InvalidInputError, match="device cannot change a scorer that is ready"):
        rerank.device = "cpu"


def test_fields_change_together_or_not_at_all(rerank: CrossEncoderRerank) -> None:
    kept = rerank.model_dump()
    for update in (
        {"score_key": "s", "top_n": -1},
        {"return_passages": True},
        {"score_key": "s", "devise": "cpu"},
        {"document_template": "{title}"},
    ):
        with pytest.raises(InvalidInputError):
            rerank._change(update)
        assert rerank.model_dump() == kept
    changed = rerank.model_copy(update={"return_passages": True, "long_documents": "max_passage"})
    assert changed.compress_documents(documents(), QUERY)[0].page_content == "Goethe wrote Faust."


def test_close_frees_the_model_and_the_next_call_loads_it_again(bundled: CrossEncoderScorer) -> None:
    rerank = CrossEncoderRerank(model="bundled", device="cpu", max_length=76)
    before = rerank.compress_documents(documents(), QUERY)
    scorer = rerank._lazy.get().scorer
    rerank.close()
    assert scorer.closed  # type: ignore[attr-defined]
    assert not rerank._lazy.loaded
    agree(rerank.compress_documents(documents(), QUERY), before)
    rerank.close()
    encoder = CrossEncoder("bundled", device="cpu", max_length=76)
    scores = encoder.score([(QUERY, "Goethe wrote Faust.")])
    encoder.close()
    assert not encoder._lazy.loaded
    assert encoder.score([(QUERY, "Goethe wrote Faust.")]) == pytest.approx(scores, abs=1e-5)
    encoder.close()
    for ready in (CrossEncoderRerank(scorer=bundled), CrossEncoder(scorer=bundled)):
        ready.close()
        assert not bundled.closed


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
