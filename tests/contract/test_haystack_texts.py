"""What is scored of a Haystack document: templates, preview, and the passages of long ones."""

import copy

import pytest
from haystack import Document, Pipeline

from rerank_plugins import CrossEncoderScorer, InvalidInputError
from rerank_plugins.haystack import CrossEncoderRanker
from tests.contract.haystack_parts import QUERY, documents
from tests.scorers import Spy

FILLER = "The ferry leaves the harbour at noon and carries bicycles, flour and the post. "
ANSWER = "Goethe wrote the tragedy Faust over almost sixty years."


def long_document(before: int = 30, after: int = 20) -> Document:
    return Document(id="long", content=FILLER * before + ANSWER + " " + FILLER * after)


def test_a_template_over_content_and_meta() -> None:
    spy = Spy()
    ranker = CrossEncoderRanker(
        scorer=spy,
        document_template="{title} ({year})\n{content}",
        document_prefix="p: ",
        document_suffix=" .",
    )
    ranker.run(QUERY, documents())
    assert spy.texts[0] == "p: Hands (0)\nA fist is a hand. ."
    # A line whose fields are all missing or None is left out.
    assert spy.texts[1:] == ["p: Goethe wrote Faust. .", "p:  ."]


def test_template_or_fields_but_not_both() -> None:
    with pytest.raises(InvalidInputError, match="give either document_template or meta_fields_to_embed"):
        CrossEncoderRanker(document_template="{title}\n{content}", meta_fields_to_embed=["title"])
    with pytest.raises(InvalidInputError):
        CrossEncoderRanker(document_template="{title}")


def test_fields_equal_the_template_that_says_the_same() -> None:
    given = [document for document in documents() if document.meta.get("title")]
    fields = CrossEncoderRanker("bundled", device="cpu", meta_fields_to_embed=["title", "year"])
    template = CrossEncoderRanker("bundled", device="cpu", document_template="{title}\n{year}\n{content}")
    assert fields.run(QUERY, given) == template.run(QUERY, given)


def test_preview_shows_what_is_read() -> None:
    ranker = CrossEncoderRanker(
        "bundled",
        device="cpu",
        max_length=32,
        query_prefix="q: ",
        document_template="{title}: {content}",
    )
    given = [*documents()[:1], documents()[0], Document(content=FILLER * 9, meta={"title": "Ferry"})]
    before = copy.deepcopy(given)
    pairs = ranker.preview(QUERY, given)
    assert given == before
    assert len(pairs) == 3
    assert pairs[0].query == f"q: {QUERY}"
    assert [p.text for p in pairs[0].passages] == ["Hands: A fist is a hand."]
    assert not pairs[0].truncated
    assert pairs[2].truncated
    (read,) = pairs[2].passages
    assert f"Ferry: {FILLER * 9}"[read.start : read.end] == read.text
    assert pairs[2].query_tokens + read.tokens + 3 == 32
    with pytest.raises(InvalidInputError, match="documents\\[0\\] must be a Document"):
        ranker.preview(QUERY, ["text"])  # type: ignore[list-item]


def make_long_ranker() -> CrossEncoderRanker:
    return CrossEncoderRanker(
        "bundled",
        device="cpu",
        max_length=64,
        long_documents="max_passage",
        passage_overlap=16,
        document_prefix="passage: ",
        meta_fields_to_embed=["title"],
    )


async def test_the_best_passage_is_in_meta_in_characters_of_the_content() -> None:
    ranker = make_long_ranker()
    long = long_document()
    long.meta["title"] = "Letters"
    short = Document(id="short", content="A fist is a hand.")
    given = [short, long]
    before = copy.deepcopy(given)
    found = ranker.run(QUERY, given)["documents"]
    assert given == before
    assert [document.id for document in found] == ["long", "short"]
    start, end = found[0].meta["rerank_passage"]
    assert ANSWER in (long.content or "")[start:end]
    assert end - start < len(long.content or "") / 4
    assert found[1].meta["rerank_passage"] == [0, len("A fist is a hand.")]
    assert (await ranker.run_async(QUERY, given))["documents"] == found

    cut = CrossEncoderRanker("bundled", device="cpu", max_length=64)
    assert cut.run(QUERY, given)["documents"][0].id == "short" or (
        (cut.run(QUERY, given)["documents"][0].score or 0) < (found[0].score or 0)
    )


def test_a_second_pass_equals_the_first_and_old_marks_go() -> None:
    ranker = make_long_ranker()
    first = ranker.run(QUERY, [long_document(), *documents()])["documents"]
    assert ranker.run(QUERY, first)["documents"] == first
    plain = CrossEncoderRanker("bundled", device="cpu").run(QUERY, first)["documents"]
    assert all("rerank_passage" not in document.meta for document in plain)
    failed = Document(content="Goethe wrote Faust.", meta={"reranked": False, "rerank_reason": "full"})
    (again,) = ranker.run(QUERY, [failed])["documents"]
    assert "reranked" not in again.meta
    assert "rerank_reason" not in again.meta
    assert failed.meta["reranked"] is False
    mine = Document(content="Goethe wrote Faust.", meta={"reranked": "by the editor"})
    assert ranker.run(QUERY, [mine])["documents"][0].meta["reranked"] == "by the editor"


def test_long_document_settings_survive_yaml() -> None:
    ranker = CrossEncoderRanker(
        "bundled",
        device="cpu",
        max_length=64,
        long_documents="max_passage",
        passage_overlap=8,
        max_passages=40,
        best_passages=2,
        document_template="{title}: {content}",
        query_suffix="?",
        document_suffix=".",
    )
    pipeline = Pipeline()
    pipeline.add_component("ranker", ranker)
    again = Pipeline.loads(pipeline.dumps()).get_component("ranker")
    assert again.to_dict() == ranker.to_dict()
    given = [long_document(), *documents()]
    assert again.run(QUERY, given) == ranker.run(QUERY, given)


def test_scores_and_passages_are_the_cores(bundled: CrossEncoderScorer) -> None:
    from rerank_plugins import Reranker

    texts = [long_document().content or "", "A fist is a hand.", "Goethe wrote Faust."]
    options = {"long_documents": "max_passage", "best_passages": 2}
    expected = Reranker(bundled, **options).rank(QUERY, texts)  # type: ignore[arg-type]
    found = CrossEncoderRanker("bundled", device="cpu", **options).run(  # type: ignore[arg-type]
        QUERY, [Document(content=text) for text in texts]
    )["documents"]
    assert [document.content for document in found] == [ranked.text for ranked in expected]
    assert [document.score for document in found] == pytest.approx([ranked.score for ranked in expected])
    assert [document.meta["rerank_passage"] for document in found] == [
        list(ranked.passage or ()) for ranked in expected
    ]
