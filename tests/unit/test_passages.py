"""Long documents in windows: where they are cut, and what becomes of their scores."""

import asyncio
import random
import threading
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from rerank_plugins import CrossEncoderScorer, InvalidInputError, Ranking, Reranker, ScoringError
from rerank_plugins.scoring.pairs import PairEncoder
from rerank_plugins.scoring.windows import Offsets, plan_windows
from tests.models import BUNDLED
from tests.texts import ODD, WORDS, make_text

QUERY = "who wrote Faust?"
TOKENIZER = Tokenizer.from_file(str(BUNDLED / "tokenizer.json"))
TOKENIZER.no_truncation()
TOKENIZER.no_padding()

MANY_WORDS = st.lists(
    st.sampled_from([*WORDS, *ODD, "한국어한국어", "e\u0301", "...", "[SEP]"]), max_size=120
)
TEXTS = st.one_of(
    MANY_WORDS.map(" ".join),
    MANY_WORDS.map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
)


def encoder(max_length: int = 512, max_query_tokens: int = 8) -> PairEncoder:
    return PairEncoder(TOKENIZER, max_length=max_length, max_query_tokens=max_query_tokens)


def ids(text: str) -> list[int]:
    return list(TOKENIZER.encode(text, add_special_tokens=False).ids)


# ---- where documents are cut ----


@given(
    tokens=st.integers(1, 200),
    seed=st.integers(0, 1000),
    size=st.integers(1, 60),
    overlap=st.integers(0, 80),
    most=st.none() | st.integers(1, 5),
)
def test_a_plan_holds_every_token_goes_on_and_overlaps(
    tokens: int, seed: int, size: int, overlap: int, most: int | None
) -> None:
    rng = random.Random(seed)
    words = [0, *sorted(rng.sample(range(1, tokens), rng.randint(0, tokens - 1)))]
    # One character each: then spans are tokens.
    offsets = Offsets(list(range(tokens)), list(range(1, tokens + 1)), words)
    spans = plan_windows(offsets, size, overlap=overlap, most=None)
    assert spans[0][0] == 0
    assert spans[-1][1] == tokens
    assert all(0 < end - start <= size for start, end in spans)
    for (start, end), (next_start, next_end) in pairwise(spans):
        assert start < next_start <= end - min(overlap, size // 2)
        assert end < next_end
    assert len(spans) <= 2 + 8 * tokens / size
    assert plan_windows(offsets, size, overlap=overlap, most=most) == spans[:most]


@given(text=TEXTS, max_length=st.integers(20, 60), overlap=st.integers(0, 30))
def test_windows_fit_and_cover_whatever_the_text(text: str, max_length: int, overlap: int) -> None:
    cutter = encoder(max_length)
    room = max_length - len(ids(QUERY)) - 3
    (spans,) = cutter.windows(QUERY, [text], size=None, overlap=overlap, most=None)
    assert all(len(ids(text[start:end])) <= room for start, end in spans)
    offsets = TOKENIZER.encode(text, add_special_tokens=False).offsets
    if len(offsets) <= room:
        assert spans == [(0, len(text))]
    covered = np.zeros(len(text), dtype=bool)
    for start, end in spans:
        covered[start:end] = True
    assert all(covered[start:end].all() for start, end in offsets)
    assert not cutter.encode([(QUERY, text[start:end]) for start, end in spans]).truncated.any()


@pytest.mark.parametrize("words", [40, 300, 2000])
@pytest.mark.parametrize("overlap", [0, 3, 64, 10_000])
def test_a_slice_reads_exactly_the_tokens_that_stood_there(words: int, overlap: int) -> None:
    text = make_text(words, seed=words)
    encoding = TOKENIZER.encode(text, add_special_tokens=False)
    room = 128 - len(ids(QUERY)) - 3
    (spans,) = encoder(128).windows(QUERY, [text], size=None, overlap=overlap, most=None)
    shares = []
    last = 0
    for start, end in spans:
        if len(spans) > 1:
            first = next(i for i, (begin, _) in enumerate(encoding.offsets) if begin == start)
            read = ids(text[start:end])
            assert read == encoding.ids[first : first + len(read)]
            assert first <= last, "no token is left out"
            shares.append(last - first)
            last = first + len(read)
            words_there = encoding.word_ids[last - 1 : last + 1]
            assert len(set(words_there)) == len(words_there), "no word is cut"
    assert all(share >= min(overlap, room // 2) for share in shares[1:])
    assert last == len(encoding.ids) or len(spans) == 1


def test_a_word_longer_than_a_window_is_cut_inside() -> None:
    word = "ab" * 49
    assert len(ids(word)) > 20
    (spans,) = encoder(16).windows(QUERY, [word], size=None, overlap=2, most=None)
    assert len(spans) > 1
    assert spans[0][0] == 0
    assert spans[-1][1] == len(word)
    assert all(len(ids(word[start:end])) <= 16 - len(ids(QUERY)) - 3 for start, end in spans)


def test_only_documents_that_do_not_fit_get_offsets(monkeypatch: pytest.MonkeyPatch) -> None:
    cutter = encoder(64)
    asked: list[str] = []
    offsets_of = cutter._offsets

    def spy(texts: Sequence[str], least: int | None) -> Any:
        asked.extend(texts)
        return offsets_of(texts, least)

    monkeypatch.setattr(cutter, "_offsets", spy)
    long, short = make_text(200), "a short one"
    found = cutter.windows(QUERY, [short, long, "", long], size=None, overlap=8, most=None)
    assert asked == [long], "once, though it is there twice"
    assert found[0] == [(0, len(short))]
    assert found[2] == [(0, 0)]
    assert found[1] == found[3]


@given(text=TEXTS, gap=st.integers(1, 40), most=st.integers(1, 3), overlap=st.integers(0, 9))
def test_what_is_not_read_changes_no_window(text: str, gap: int, most: int, overlap: int) -> None:
    # Gaps hold words without a token, so that the first words are too few.
    text = text.replace(" ", " " * gap)
    ours, whole = encoder(24), encoder(24)
    whole._texts.head = lambda text, words: text  # type: ignore[method-assign]
    options = {"size": None, "overlap": overlap, "most": most}
    assert ours.windows(QUERY, [text], **options) == whole.windows(QUERY, [text], **options)
    assert ours.extents(QUERY, [text]) == whole.extents(QUERY, [text])


def test_what_is_not_read_costs_nothing() -> None:
    text = " ".join(f"word{i}" for i in range(100_000))
    cutter = encoder(64)
    seen = []
    head = cutter._texts.head
    cutter._texts.head = lambda *given: seen.append(head(*given)) or seen[-1]  # type: ignore
    cutter.windows(QUERY, [text], size=None, overlap=0, most=2)
    cutter.extents(QUERY, [text])
    assert [len(each.split()) < 130 for each in seen] == [True, True]


def test_a_longer_query_leaves_smaller_windows(bundled: CrossEncoderScorer) -> None:
    text = make_text(2000)
    (few,) = bundled.windows("q", [text], overlap=64)
    (many,) = bundled.windows(make_text(200), [text], overlap=64)
    assert len(few) < len(many)
    with pytest.raises(InvalidInputError, match="overlap must be >= 0"):
        bundled.windows("q", [text], overlap=-1)
    with pytest.raises(InvalidInputError, match="most >= 1"):
        bundled.windows("q", [text], overlap=0, most=0)
    with pytest.raises(InvalidInputError, match=r"size and most >= 1 or None, but got 0, 0"):
        bundled.windows("q", [text], overlap=0, size=0)


def test_windows_may_be_shorter_than_what_fits(bundled: CrossEncoderScorer) -> None:
    text = make_text(300)
    (spans,) = bundled.windows("q", [text], size=50, overlap=10)
    assert len(spans) > 5
    _, extents = bundled.extents("q", [text[start:end] for start, end in spans])
    assert all(extent.tokens <= 50 for extent in extents)
    short = make_text(60)
    assert bundled.windows("q", [short], size=10_000, overlap=10) == [[(0, len(short))]]


# ---- what becomes of the scores ----


@pytest.fixture(scope="module")
def small() -> Iterator[CrossEncoderScorer]:
    """A scorer with small windows, so that long documents need not be long."""
    with CrossEncoderScorer("bundled", device="cpu", max_length=64) as scorer:
        yield scorer


class Spy(CrossEncoderScorer):
    """A scorer that tells how it was called."""

    def __init__(self) -> None:
        super().__init__("bundled", device="cpu", max_length=64)
        self.calls: list[int] = []
        self.threads: list[int] = []

    def windows(self, *arguments: Any, **options: Any) -> list[list[tuple[int, int]]]:
        self.threads.append(threading.get_ident())
        return super().windows(*arguments, **options)

    def score_detailed(self, query: str, documents: Any) -> Any:
        self.calls.append(len(documents))
        return super().score_detailed(query, documents)

    async def ascore_detailed(self, query: str, documents: Any) -> Any:
        self.calls.append(len(documents))
        return await super().ascore_detailed(query, documents)


DOCUMENTS = [make_text(n, seed=n) for n in (1, 120, 20, 300, 45, 200)] + ["", "Goethe wrote Faust."]


def logits(ranking: Ranking) -> list[float | None]:
    return [ranked.logit for ranked in sorted(ranking, key=lambda ranked: ranked.index)]


@pytest.mark.parametrize("best", [1, 2, 3, 100])
def test_a_document_gets_the_mean_of_its_best_windows(small: CrossEncoderScorer, best: int) -> None:
    ranking = Reranker(small, long_documents="max_passage", passage_overlap=16, best_passages=best).rank(
        QUERY, DOCUMENTS
    )
    spans = small.windows(QUERY, DOCUMENTS, overlap=16)
    for ranked in ranking:
        own = spans[ranked.index]
        single = [float(small.score(QUERY, [ranked.text[start:end]])[0]) for start, end in own]
        assert ranked.logit == pytest.approx(np.mean(sorted(single)[-best:]), abs=1e-4)
        assert ranked.passages == len(own)
        assert ranked.passage in own
        assert single[own.index(ranked.passage)] == pytest.approx(max(single), abs=1e-4)
        assert not ranked.truncated
        assert ranked.tokens == len(ids(ranked.text)), "what windows share counts once"
    assert ranking.stats.passages == sum(map(len, spans)) > len(DOCUMENTS)
    assert ranking.stats.truncated == 0
    assert [ranked.logit for ranked in ranking] == sorted(logits(ranking), reverse=True)  # type: ignore[type-var]


def test_all_windows_of_all_documents_are_one_call() -> None:
    with Spy() as scorer:
        reranker = Reranker(scorer, long_documents="max_passage")
        ranking = reranker.rank(QUERY, DOCUMENTS)
        assert scorer.calls == [ranking.stats.passages]
        assert asyncio.run(reranker.arank(QUERY, DOCUMENTS)).documents == ranking.documents
        assert scorer.calls == [ranking.stats.passages] * 2
        here = threading.get_ident()
        assert scorer.threads[0] == here
        assert scorer.threads[1] != here, "tokenising is no work for the event loop"


def test_short_documents_are_scored_as_without_windows(small: CrossEncoderScorer) -> None:
    documents = [make_text(n, seed=n) for n in range(0, 30, 4)] + ODD
    plain = Reranker(small).rank(QUERY, documents)
    windowed = Reranker(small, long_documents="max_passage", best_passages=3).rank(QUERY, documents)
    assert [(r.index, r.logit, r.score, r.tokens) for r in plain] == [
        (r.index, r.logit, r.score, r.tokens) for r in windowed
    ]
    assert all(r.passage is None and r.passages == 1 for r in plain)
    assert all(r.passage == (0, len(r.text)) and r.passages == 1 for r in windowed)
    assert plain.stats.passages == windowed.stats.passages == len(documents)


@settings(max_examples=3)
@given(st.permutations(range(len(DOCUMENTS))))
def test_the_order_of_the_documents_does_not_matter(small: CrossEncoderScorer, order: list[int]) -> None:
    reranker = Reranker(small, long_documents="max_passage")
    expected = logits(reranker.rank(QUERY, DOCUMENTS))
    shuffled = logits(reranker.rank(QUERY, [DOCUMENTS[i] for i in order]))
    assert shuffled == pytest.approx([expected[i] for i in order], abs=1e-4)


def test_the_cap_is_kept_and_told(small: CrossEncoderScorer) -> None:
    text = make_text(300)
    spans = small.windows(QUERY, [text], overlap=16)[0]
    for cap in (1, 3, len(spans) - 1, len(spans), None):
        reranker = Reranker(small, long_documents="max_passage", passage_overlap=16, max_passages=cap)
        (ranked,) = reranker.rank(QUERY, [text])
        read = spans[:cap]
        assert ranked.passages == len(read)
        assert ranked.passage in read
        assert ranked.truncated == (len(read) < len(spans))
        assert ranked.tokens == len(ids(text[: read[-1][1]]))


def test_empty_failing_and_bad_input(small: CrossEncoderScorer) -> None:
    reranker = Reranker(small, long_documents="max_passage")
    assert reranker.rank(QUERY, []).stats.passages == 0
    with pytest.raises(InvalidInputError, match="lone surrogate"):
        reranker.rank(QUERY, ["a\ud800"])
    with CrossEncoderScorer("bundled", device="cpu") as closed:
        pass
    kept = Reranker(closed, long_documents="max_passage", on_error="keep_order").rank(QUERY, ["a", "b"])
    assert not kept.reranked
    assert [(r.passage, r.passages) for r in kept] == [(None, 0)] * 2
    with pytest.raises(ScoringError, match="closed"):
        Reranker(closed, long_documents="max_passage").rank(QUERY, ["a"])


def test_a_scorer_without_windows_is_refused_at_once() -> None:
    class Plain:
        def score(self, query: str, documents: Sequence[str]) -> np.ndarray:
            return np.zeros(len(documents), dtype=np.float32)

    with pytest.raises(InvalidInputError, match=r"max_passage.*needs.*windows.*CrossEncoderScorer"):
        Reranker(Plain(), long_documents="max_passage")
    assert len(Reranker(Plain()).rank(QUERY, ["a"])) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("long_documents", "first"), ("passage_overlap", -1), ("max_passages", 0), ("best_passages", 0)],
)
def test_a_bad_setting_is_named(small: CrossEncoderScorer, name: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"{name}.*but got {value!r}"):
        Reranker(small, **{name: value})


# ---- what it is for ----

FILLER = (
    ["The harbour", "A narrow street", "The old mill", "The market hall", "A stone bridge", "A painted door"],
    ["lies behind", "was built beside", "looks out over", "is older than", "leads away from", "belongs to"],
    ["the river", "a row of lime trees", "two empty warehouses", "a field of barley", "a wall of red brick"],
    ["and few people go there in winter.", "as every map of the county shows.", "and so it has stayed."],
)
NEEDLES = [
    ("who wrote Faust?", "Goethe wrote Faust, and worked on it for sixty years."),
    ("what is the capital of Australia", "The capital of Australia is Canberra, not Sydney."),
    ("what does a carburetor do", "A carburetor mixes air with fuel for an engine."),
    ("symptoms of iron deficiency", "Symptoms of iron deficiency are tiredness, pale skin and cold hands."),
]


def filler(rng: random.Random, words: int) -> str:
    sentences: list[str] = []
    while sum(len(sentence.split()) for sentence in sentences) < words:
        sentences.append(" ".join(rng.choice(parts) for parts in FILLER))
    return " ".join(sentences)


@pytest.mark.parametrize("seed", range(4))
def test_a_needle_is_found_where_it_is(bundled: CrossEncoderScorer, seed: int) -> None:
    query, needle = NEEDLES[seed]
    rng = random.Random(seed)
    depth = rng.randint(600, 1900)
    before, after = filler(rng, depth) + " ", " " + filler(rng, 2000 - depth)
    documents = [filler(rng, 1000), before + after, before + needle + after]

    missed = {ranked.index: ranked for ranked in Reranker(bundled).rank(query, documents)}
    assert missed[2].truncated
    assert missed[2].logit == pytest.approx(missed[1].logit, abs=1e-5), "as if it were not there"

    # Windows about as long as the passages that the model was trained on.
    reranker = Reranker(bundled, long_documents="max_passage", passage_tokens=180)
    ranking = reranker.rank(query, documents)
    assert ranking[0].index == 2
    assert ranking[0].passage is not None
    assert ranking[0].passage[0] <= len(before)
    assert ranking[0].passage[1] >= len(before + needle)
    assert ranking.stats.truncated == 0


def test_the_cost_grows_with_the_length_and_not_faster(small: CrossEncoderScorer) -> None:
    reranker = Reranker(small, long_documents="max_passage", passage_overlap=10, max_passages=None)
    words = [100, 200, 400, 800, 1600]
    stats = [reranker.rank("q", [" ".join(["river"] * n)]).stats for n in words]
    # One token a word, windows of 60 tokens of which 10 are shared.
    assert [found.passages for found in stats] == [1 + -(-(n - 60) // 50) for n in words]
