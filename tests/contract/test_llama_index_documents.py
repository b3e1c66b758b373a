"""What of a node is scored: template, preview, and long documents with their best passage."""

import copy
from collections.abc import Iterator

import pytest
from llama_index.core.schema import ImageNode, MetadataMode, NodeWithScore, TextNode

from rerank_plugins import CrossEncoderScorer, InvalidInputError
from rerank_plugins.demo.data import load_passages
from rerank_plugins.llama_index import CrossEncoderRerank
from tests.contract.llama_index_parts import QUERY, Spy, nodes

QUESTION = "how long does cooked rice keep in the fridge"
ANSWER = "Put cooked rice into the fridge within an hour; in a closed box it is safe to eat for one day."
# Five hundred words of sentences that say nothing of it.
NOISE = [
    f"{sentence}."
    for passage in load_passages()
    if not {"rice", "fridge"} & set(passage.text.lower().split())
    for sentence in passage.text.removesuffix(".").split(". ")
][:30]


def long_text(depth: float) -> str:
    """Return the answer at a depth of the noise, from 0 to 1."""
    place = round(depth * len(NOISE))
    return " ".join([*NOISE[:place], ANSWER, *NOISE[place:]])


@pytest.fixture(scope="module")
def narrow() -> Iterator[CrossEncoderScorer]:
    """Return a scorer that reads passages of the length it was trained on."""
    with CrossEncoderScorer("bundled", device="cpu", max_length=128) as scorer:
        yield scorer


def test_a_template_takes_the_place_of_metadata_mode() -> None:
    spy = Spy()
    rerank = CrossEncoderRerank(
        scorer=spy, document_template="{year}\nFrom {source}\n{content}", metadata_mode=MetadataMode.ALL
    )
    given = nodes()
    before = copy.deepcopy(given)
    rerank.postprocess_nodes(given, query_str=QUERY)
    assert spy.texts == ["From x\nA fist is a hand.", "1808\nGoethe wrote Faust.", ""]
    assert given == before


def test_a_template_does_not_see_what_we_wrote() -> None:
    spy = Spy()
    rerank = CrossEncoderRerank(
        scorer=spy, document_template="{retrieval_score}\n{content}", keep_retrieval_score=True
    )
    first = rerank.postprocess_nodes(nodes(), query_str=QUERY)
    texts = sorted(spy.texts)
    rerank.postprocess_nodes(first, query_str=QUERY)
    assert sorted(spy.texts) == texts == ["", "A fist is a hand.", "Goethe wrote Faust."]


@pytest.mark.parametrize("template", ["{title}", "{content}{content}", "{title.x}{content}", "{content"])
def test_a_bad_template_is_refused_at_once(template: str) -> None:
    with pytest.raises(InvalidInputError):
        CrossEncoderRerank(document_template=template)


def test_preview_shows_what_is_read(bundled: CrossEncoderScorer) -> None:
    long = NodeWithScore(node=TextNode(text=long_text(0.5), metadata={"source": "b"}))
    given = [*nodes(), long]
    before = copy.deepcopy(given)
    rerank = CrossEncoderRerank(scorer=bundled, metadata_mode="none")
    previews = rerank.preview(given, QUERY)
    assert given == before
    assert [pair.query for pair in previews] == [QUERY] * 4
    assert [pair.passages[0].text for pair in previews[:3]] == [
        "A fist is a hand.",
        "Goethe wrote Faust.",
        "",
    ]
    assert [pair.truncated for pair in previews] == [False, False, False, True]
    passage = previews[3].passages[0]
    assert long.text[passage.start : passage.end] == passage.text != long.text
    embedded = CrossEncoderRerank(scorer=bundled).preview(given, QUERY)
    assert embedded[0].passages[0].text == "source: x\n\nA fist is a hand."
    windows = CrossEncoderRerank(scorer=bundled, long_documents="max_passage").preview(given, QUERY)
    assert len(windows[3].passages) > 1
    assert not windows[3].truncated


@pytest.mark.parametrize(
    "options",
    [{}, {"metadata_mode": "none"}, {"document_template": "{title}\nread this: {content}"}],
    ids=["metadata", "text", "template"],
)
@pytest.mark.parametrize("depth", [0, 0.5, 1])
async def test_max_passage_finds_what_truncation_misses(
    narrow: CrossEncoderScorer, depth: float, options: dict
) -> None:
    text = long_text(depth)
    node = TextNode(text=text, id_="long", metadata={"title": "Notes"})
    given = [
        NodeWithScore(node=TextNode(text="Rice is a kind of grass.", id_="short"), score=0.9),
        NodeWithScore(node=node, score=0.1),
    ]
    copied = copy.deepcopy(given)
    cut = CrossEncoderRerank(scorer=narrow, **options).postprocess_nodes(given, query_str=QUESTION)
    assert [found.node_id for found in cut][0] == ("short" if depth else "long")
    assert all("rerank_passage" not in found.metadata for found in cut)
    rerank = CrossEncoderRerank(scorer=narrow, long_documents="max_passage", **options)
    out = rerank.postprocess_nodes(given, query_str=QUESTION)
    assert given == copied
    assert [found.node_id for found in out] == ["long", "short"]
    start, end = out[0].metadata["rerank_passage"]
    assert start <= text.index(ANSWER) + len(ANSWER) / 2 < end
    assert end - start < len(text) / 3
    short = out[1].metadata["rerank_passage"]
    assert short == [0, len(out[1].text)]
    assert type(start) is type(end) is int
    for mode in (MetadataMode.EMBED, MetadataMode.LLM):
        assert "rerank_passage" not in out[0].node.get_content(mode)
    assert await rerank.apostprocess_nodes(given, query_str=QUESTION) == out
    assert rerank.postprocess_nodes(out, query_str=QUESTION) == out


@pytest.mark.parametrize(
    "template",
    ["{metadata_str}\n\n{content}", "{content}\n\n{metadata_str}", "about: {content} ({metadata_str})"],
)
@pytest.mark.parametrize("text", ["Goethe wrote Faust.", "  Goethe wrote Faust. \n", ""])
def test_passages_count_in_the_nodes_own_text(bundled: CrossEncoderScorer, template: str, text: str) -> None:
    # The metadata repeat the text, as sentence windows do.
    node = TextNode(text=text, text_template=template, metadata={"window": f"{text} {text}"})
    rerank = CrossEncoderRerank(scorer=bundled, long_documents="max_passage")
    (out,) = rerank.postprocess_nodes([NodeWithScore(node=node)], query_str=QUERY)
    start, end = out.metadata["rerank_passage"]
    assert 0 <= start <= end <= len(text)
    assert text[start:end].strip() == text.strip()


def test_an_image_without_text_has_an_empty_passage(bundled: CrossEncoderScorer) -> None:
    rerank = CrossEncoderRerank(scorer=bundled, long_documents="max_passage")
    image = NodeWithScore(node=ImageNode(image="aGk="))
    (out,) = rerank.postprocess_nodes([image], query_str=QUERY)
    assert out.metadata["rerank_passage"] == [0, 0]


def test_marks_of_a_pass_end_with_it(bundled: CrossEncoderScorer) -> None:
    given = [NodeWithScore(node=TextNode(text=long_text(0.5)))]
    first = CrossEncoderRerank(scorer=bundled, long_documents="max_passage")
    second = CrossEncoderRerank(scorer=bundled)
    between = first.postprocess_nodes(given, query_str=QUERY)
    assert "rerank_passage" in between[0].metadata
    (out,) = second.postprocess_nodes(between, query_str=QUERY)
    assert "rerank_passage" not in out.metadata
    assert "rerank_passage" in between[0].metadata
