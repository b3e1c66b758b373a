"""What is read of a document: templates, previews, and the best window of a long one."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.load import dumps, loads

from rerank_plugins import CrossEncoderScorer, InvalidInputError, Reranker
from rerank_plugins.langchain import CrossEncoder, CrossEncoderRerank
from tests.contract.langchain_parts import QUERY, Special, agree
from tests.texts import make_text

# A small window, so that documents of a few hundred words are long.
WINDOW = 96
NEEDLE = "Faust was written by Johann Wolfgang von Goethe."
TEMPLATE = "{title}\n{content}"


def haystack_of(words: int, needle: str = NEEDLE) -> str:
    return f"{make_text(words, seed=1)} {needle} {make_text(words, seed=2)}"


@pytest.fixture(scope="module")
def scorer() -> Iterator[CrossEncoderScorer]:
    with CrossEncoderScorer("bundled", device="cpu", max_length=WINDOW) as scorer:
        yield scorer


@pytest.fixture
def rerank(scorer: CrossEncoderScorer) -> CrossEncoderRerank:
    return CrossEncoderRerank(scorer=scorer, long_documents="max_passage", passage_overlap=20)


@pytest.fixture
def library() -> list[Document]:
    return [
        Document(make_text(120, seed=3), id="noise"),
        Special(page_content=haystack_of(80), id="hidden", metadata={"title": "Notes"}, page=7),
        Document("Short.", id="short"),
    ]


async def test_metadata_is_read_through_the_template(scorer: CrossEncoderScorer) -> None:
    rerank = CrossEncoderRerank(scorer=scorer, document_template=TEMPLATE, scale="logit")
    documents = [
        Document("It was written by Goethe.", id="titled", metadata={"title": "Faust"}),
        Document("It was written by Goethe.", id="untitled"),
    ]
    before = copy.deepcopy(documents)
    found = rerank.compress_documents(documents, QUERY)
    assert documents == before
    agree(await rerank.acompress_documents(documents, QUERY), found)
    scores = {document.id: document.metadata["relevance_score"] for document in found}
    expected = scorer.score(QUERY, ["Faust\nIt was written by Goethe.", "It was written by Goethe."])
    assert [scores["titled"], scores["untitled"]] == pytest.approx(expected.tolist(), abs=1e-5)
    assert {document.page_content for document in found} == {"It was written by Goethe."}

    rows = rerank.rerank([*documents, {"text": "It was written by Goethe.", "title": "Faust"}], QUERY)
    assert [row["index"] for row in rows] == [0, 2, 1]
    assert rows[0]["relevance_score"] == pytest.approx(scores["titled"], abs=1e-5)
    assert [row["index"] for row in await rerank.arerank(documents, QUERY)] == [0, 1]


def test_the_score_of_a_first_pass_is_not_read_by_the_second(scorer: CrossEncoderScorer) -> None:
    rerank = CrossEncoderRerank(scorer=scorer, document_template=TEMPLATE)
    first = rerank.compress_documents([Document("By Goethe.", metadata={"title": "Faust"})], QUERY)
    second = rerank.compress_documents(first, QUERY)
    assert second[0].metadata.pop("previous_relevance_score") == first[0].metadata["relevance_score"]
    agree(second, first)


@pytest.mark.parametrize("template", ["no field", "{content}{content}", "{content.upper}", "{content!r}"])
def test_a_template_that_cannot_be_used_is_refused(template: str) -> None:
    with pytest.raises(InvalidInputError, match="template"):
        CrossEncoderRerank(model="bundled", document_template=template)


def test_preview_shows_what_is_read(scorer: CrossEncoderScorer, library: list[Document]) -> None:
    cut = CrossEncoderRerank(scorer=scorer, document_template=TEMPLATE).preview(library, QUERY)
    assert [pair.truncated for pair in cut] == [True, True, False]
    assert cut[1].query == QUERY
    assert cut[1].passages[0].text.startswith("Notes\n")
    assert NEEDLE not in cut[1].passages[0].text
    (passage,) = cut[2].passages
    assert (passage.text, passage.start, passage.end) == ("Short.", 0, 6)
    assert passage.tokens == 2

    windows = CrossEncoderRerank(scorer=scorer, long_documents="max_passage").preview(library, QUERY)
    text = library[1].page_content
    assert len(windows[1].passages) > 1
    assert all(text[p.start : p.end] == p.text for p in windows[1].passages)
    assert any(NEEDLE in p.text for p in windows[1].passages)
    assert not windows[1].truncated


async def test_the_best_window_is_found_and_named(
    rerank: CrossEncoderRerank, library: list[Document]
) -> None:
    before = copy.deepcopy(library)
    found = rerank.compress_documents(library, QUERY)
    assert library == before
    agree(await rerank.acompress_documents(library, QUERY), found)
    best = found[0]
    assert (best.id, type(best), best.page) == ("hidden", Special, 7)  # type: ignore[attr-defined]
    assert best.page_content == library[1].page_content
    start, end = best.metadata["rerank_passage"]
    assert NEEDLE in best.page_content[start:end]
    assert 0 < start < end < len(best.page_content)
    short = next(document for document in found if document.id == "short")
    assert short.metadata["rerank_passage"] == [0, 6]
    json.dumps([document.metadata for document in found])


def test_truncation_misses_what_windows_find(scorer: CrossEncoderScorer, library: list[Document]) -> None:
    scores = {}
    for policy in ("truncate", "max_passage"):
        found = CrossEncoderRerank(scorer=scorer, long_documents=policy).compress_documents(library, QUERY)
        scores[policy] = {document.id: document.metadata["relevance_score"] for document in found}
        assert all(("rerank_passage" in d.metadata) == (policy == "max_passage") for d in found)
    assert scores["max_passage"]["hidden"] > scores["truncate"]["hidden"]


def test_just_the_window_is_returned_on_request(scorer: CrossEncoderScorer, library: list[Document]) -> None:
    rerank = CrossEncoderRerank(
        scorer=scorer, long_documents="max_passage", return_passages=True, top_n=1, scale="logit"
    )
    (best,) = rerank.compress_documents(library, QUERY)
    assert (best.id, type(best)) == ("hidden", Special)
    start, end = best.metadata["rerank_passage"]
    assert best.page_content == library[1].page_content[start:end]
    assert NEEDLE in best.page_content

    # A second pass reads what the first returned: the same tokens, and so the same score.
    (again,) = rerank.compress_documents([best], QUERY)
    assert again.page_content == best.page_content
    assert again.metadata["relevance_score"] == pytest.approx(best.metadata["relevance_score"], abs=1e-4)
    assert again.metadata["rerank_passage"] == [0, len(best.page_content)]
    assert again.metadata["previous_rerank_passage"] == [start, end]

    # Where a pass has no windows, nothing says that it had.
    (whole,) = CrossEncoderRerank(scorer=scorer).compress_documents([best], QUERY)
    assert "rerank_passage" not in whole.metadata
    assert whole.metadata["previous_rerank_passage"] == [start, end]
    assert best.metadata["rerank_passage"] == [start, end]


def test_offsets_are_those_of_the_content_behind_a_template(
    scorer: CrossEncoderScorer, library: list[Document]
) -> None:
    rerank = CrossEncoderRerank(
        scorer=scorer,
        long_documents="max_passage",
        return_passages=True,
        document_template="A long title: {title}\n{content}",
    )
    best = rerank.compress_documents(library, QUERY)[0]
    assert best.id == "hidden"
    assert NEEDLE in best.page_content
    assert best.page_content in library[1].page_content
    short = rerank.compress_documents([Document("Short.", metadata={"title": "x"})], QUERY)[0]
    assert (short.page_content, short.metadata["rerank_passage"]) == ("Short.", [0, 6])


def test_windows_are_asked_for_before_they_are_returned(scorer: CrossEncoderScorer) -> None:
    with pytest.raises(InvalidInputError, match="max_passage"):
        CrossEncoderRerank(scorer=scorer, return_passages=True)
    reranker = Reranker(scorer, long_documents="max_passage")
    assert CrossEncoderRerank(reranker=reranker, return_passages=True).return_passages


def test_the_settings_of_windows_round_trip() -> None:
    settings: dict[str, Any] = {
        "model": "bundled",
        "document_template": TEMPLATE,
        "long_documents": "max_passage",
        "passage_overlap": 3,
        "max_passages": 5,
        "best_passages": 2,
        "return_passages": True,
    }
    rerank = CrossEncoderRerank(**settings)
    again = loads(dumps(rerank), allowed_objects=[CrossEncoderRerank], valid_namespaces=["rerank_plugins"])
    assert again == rerank
    assert {name: getattr(again, name) for name in settings} == settings


def test_langchains_own_reranker_reads_windows_through_ours(
    scorer: CrossEncoderScorer, library: list[Document]
) -> None:
    pairs = [(QUERY, document.page_content) for document in library]
    cut = CrossEncoder(scorer=scorer).score(pairs)
    whole = CrossEncoder(scorer=scorer, long_documents="max_passage", max_passages=9).score(pairs)
    assert whole[1] > cut[1]
    assert whole[2] == pytest.approx(cut[2], abs=1e-6)
