"""What the model reads, shown before it does."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from rerank_plugins import CrossEncoderScorer, InvalidInputError, InvalidTypeError, Reranker
from tests.texts import ODD, make_text

QUERY = "who wrote Faust?"


@pytest.fixture(scope="module")
def small() -> Iterator[CrossEncoderScorer]:
    with CrossEncoderScorer("bundled", device="cpu", max_length=64) as scorer:
        yield scorer


def test_a_short_document_is_read_whole(bundled: CrossEncoderScorer) -> None:
    (pair,) = Reranker(bundled).preview(QUERY, ["Goethe wrote Faust."])
    (passage,) = pair.passages
    assert (passage.text, passage.start, passage.end) == ("Goethe wrote Faust.", 0, 19)
    assert pair.query == QUERY
    assert not pair.truncated
    assert not pair.query_truncated
    assert pair.query_tokens > 3
    assert Reranker(bundled).preview(QUERY, []) == []


@pytest.mark.parametrize("mode", ["truncate", "max_passage"])
def test_it_says_what_ranking_then_does(small: CrossEncoderScorer, mode: str) -> None:
    documents = [make_text(n, seed=n) for n in (0, 5, 60, 120, 400)] + ODD
    reranker = Reranker(small, long_documents=mode, max_passages=4)  # type: ignore[arg-type]
    previews = reranker.preview(QUERY, documents)
    for ranked in reranker.rank(QUERY, documents):
        pair = previews[ranked.index]
        assert pair.truncated == ranked.truncated
        assert len(pair.passages) == ranked.passages
        for passage in pair.passages:
            assert passage.text == ranked.text[passage.start : passage.end]
        if mode == "max_passage":
            assert ranked.passage in [(passage.start, passage.end) for passage in pair.passages]
            assert ranked.tokens <= sum(passage.tokens for passage in pair.passages)
        else:
            assert ranked.tokens == pair.passages[0].tokens
        if mode == "truncate" and ranked.truncated:
            continue  # cut inside a word, maybe, which by itself is other tokens
        # The parts are what counts: scored by themselves they get the same logit.
        logits = small.score(pair.query, [passage.text for passage in pair.passages])
        assert ranked.logit == pytest.approx(logits.max(), abs=1e-4)


def test_a_long_query_is_cut_where_it_says(bundled: CrossEncoderScorer) -> None:
    query = make_text(600, seed=3)
    (pair,) = Reranker(bundled).preview(query, ["bank " * 600])
    assert pair.query_truncated
    assert pair.truncated
    assert query.startswith(pair.query)
    assert pair.query_tokens == bundled.info.max_query_tokens
    assert pair.passages[0].tokens == 512 - 384 - 3
    assert pair.passages[0].text == ("bank " * 125).rstrip()


def test_it_does_not_run_the_model(bundled: CrossEncoderScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("preview must not score")

    monkeypatch.setattr(bundled, "score_detailed", refuse)
    monkeypatch.setattr(bundled, "score", refuse)
    assert len(Reranker(bundled, long_documents="max_passage").preview(QUERY, ["word " * 1000])) == 1


def test_bad_input_and_scorers_that_cannot_tell(bundled: CrossEncoderScorer) -> None:
    class Plain:
        def score(self, query: str, documents: Sequence[str]) -> np.ndarray:
            return np.zeros(len(documents), dtype=np.float32)

    with pytest.raises(InvalidInputError, match=r"preview needs.*CrossEncoderScorer"):
        Reranker(Plain()).preview(QUERY, ["a"])
    with pytest.raises(InvalidTypeError, match=r"documents\[1\]"):
        Reranker(bundled).preview(QUERY, ["a", None])  # type: ignore[list-item]
    with pytest.raises(InvalidInputError, match="lone surrogate"):
        Reranker(bundled).preview(QUERY, ["a\ud800"])
