"""What is remembered: token ids and scores, exactly, within bounds, by many threads."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins import CrossEncoderScorer, InvalidInputError, Reranker
from rerank_plugins.scoring.cache import ContentCache, digests
from rerank_plugins.scoring.pairs import PairEncoder, Texts
from tests.texts import make_text

TEXTS = [make_text(1 + i % 50, seed=i) for i in range(120)]


@given(texts=st.lists(st.text(), min_size=2, max_size=2, unique=True))
def test_digests_tell_texts_apart(texts: list[str]) -> None:
    found = digests(iter([*texts, texts[0]]))
    assert found == digests(texts)
    assert found[texts[0]] != found[texts[1]]
    assert len(found[texts[0]]) == 16


def test_texts_that_are_not_unicode_are_named_also_in_a_stream() -> None:
    with pytest.raises(InvalidInputError, match="lone surrogate"):
        digests(iter(["fine", "not \ud800 fine"]))


def test_what_is_encoded_together_is_what_each_is_alone(tiny_scorer: CrossEncoderScorer) -> None:
    asked = [
        [(TEXTS[1], text) for text in TEXTS[:3]],
        [(TEXTS[1], TEXTS[2]), (TEXTS[60], "")],
        [(TEXTS[49], TEXTS[2] * 9)],  # both are cut
        [(TEXTS[0], TEXTS[0])],
    ]
    ours = encoder(tiny_scorer, 10**6)
    for known in (False, True):
        together, costs = ours.encode_together([Texts(*zip(*pairs, strict=True)) for pairs in asked])
        alone = [encoder(tiny_scorer, 0).encode(pairs) for pairs in asked]
        assert np.array_equal(together.lengths, np.concatenate([part.lengths for part in alone]))
        for name in ("ids", "boundaries", "document_tokens", "truncated", "query_truncated"):
            joined = np.concatenate([getattr(part, name) for part in alone])
            np.testing.assert_array_equal(getattr(together, name), joined)
        for cost, part in zip(costs, alone, strict=True):
            assert part.cost is not None
            assert (cost.tokens, cost.texts) == (len(part.ids), part.cost.texts)
            assert cost.cached_texts == (cost.texts if known else 0)


def test_pairs_that_follow_one_another_are_taken_as_views(tiny_scorer: CrossEncoderScorer) -> None:
    whole = encoder(tiny_scorer, 0).encode([("q", text) for text in TEXTS[:9]])
    for indices in ([2, 3, 4], [0], [8], list(range(9)), [], [4, 3, 2], [1, 3], [2, 2, 3], [3, 2, 4, 5]):
        part = whole.take(np.array(indices, dtype=np.int64))
        assert len(part) == len(indices)
        for i, index in enumerate(indices):
            assert part.pair_ids(i).tolist() == whole.pair_ids(index).tolist()
            assert part.boundaries[i] == whole.boundaries[index]
    assert whole.take(np.arange(2, 5)).ids.base is not None


def test_least_recently_used_goes_first_and_the_bound_holds() -> None:
    cache: ContentCache[bytes] = ContentCache(10, len)
    cache.keep([(b"a", b"123"), (b"b", b"456"), (b"c", b"789")])
    assert cache.find([b"a", b"x"]) == {b"a": b"123"}
    cache.keep([(b"d", b"012")])  # b is the oldest now
    assert set(cache.find([b"a", b"b", b"c", b"d"])) == {b"a", b"c", b"d"}
    cache.keep([(b"huge", b"0" * 11)])
    assert cache.find([b"huge"]) == {}
    assert cache.used == 9
    off: ContentCache[bytes] = ContentCache(0, len)
    off.keep([(b"a", b"")])
    assert off.find([b"a"]) == {}


def encoder(scorer: CrossEncoderScorer, cache_bytes: int) -> PairEncoder:
    tokenizer = scorer._loaded.encoder._tokenizer
    return PairEncoder(tokenizer, max_length=64, max_query_tokens=16, cache_bytes=cache_bytes)


def test_threads_that_share_a_small_cache_get_the_same_ids(tiny_scorer: CrossEncoderScorer) -> None:
    plain, small = encoder(tiny_scorer, 0), encoder(tiny_scorer, 20_000)  # forgets all the time
    orders = [np.random.default_rng(seed).permutation(len(TEXTS)) for seed in range(64)]

    def encode(order: np.ndarray) -> list[tuple[list[int], list[int], bool]]:
        pairs = [(TEXTS[i % 7], TEXTS[i]) for i in order]
        encoded = small.encode(pairs)
        again = plain.encode(pairs)
        return [
            encoded.pair_ids(i).tolist() == again.pair_ids(i).tolist()
            and encoded.truncated[i] == again.truncated[i]
            and encoded.query_truncated[i] == again.query_truncated[i]
            for i in range(len(pairs))
        ]

    with ThreadPoolExecutor(16) as pool:
        assert all(all(same) for same in pool.map(encode, orders))
    assert 0 < small._cache.used <= 20_000


def test_a_long_text_is_kept_short_and_still_known_to_be_cut(tiny_scorer: CrossEncoderScorer) -> None:
    cached = encoder(tiny_scorer, 2**20)
    pair = ("word " * 1000, "other " * 100_000)
    for known in (0, 2):
        encoded = cached.encode([pair])
        assert encoded.cost is not None
        assert encoded.cost.cached_texts == known
        assert encoded.truncated.tolist() == encoded.query_truncated.tolist() == [True]
        assert len(encoded.ids) == 64
    assert cached._cache.used < 2000


def test_stats_say_what_was_remembered(tiny: Path) -> None:
    with CrossEncoderScorer(str(tiny), device="cpu", score_cache_size=1000) as scorer:
        reranker = Reranker(scorer)
        first = reranker.rank("a question", TEXTS[:20]).stats
        assert (first.texts, first.token_cache_hits, first.score_cache_hits) == (21, 0, 0)
        other = reranker.rank("another question", TEXTS[:20]).stats
        assert (other.texts, other.token_cache_hits, other.score_cache_hits) == (21, 20, 0)
        again = reranker.rank("a question", TEXTS[10:30])
        # the query is known, ten documents are scored already, ten are new
        assert (again.stats.texts, again.stats.token_cache_hits, again.stats.score_cache_hits) == (11, 1, 10)
        all_known = reranker.rank("a question", TEXTS[:20])
        assert all_known.stats.score_cache_hits == 20
        assert all_known.stats.tokens == 0


def test_remembered_scores_are_the_scores(tiny: Path, tiny_scorer: CrossEncoderScorer) -> None:
    documents = ["long " * 600, *TEXTS, "", TEXTS[0]]
    with CrossEncoderScorer(str(tiny), device="cpu", score_cache_size=1000) as scorer:
        expected = tiny_scorer.score_detailed("q", documents)
        for _ in range(2):
            details = scorer.score_detailed("q", documents)
            np.testing.assert_allclose(details.logits, expected.logits, atol=1e-5, rtol=0)
            for name in ("document_tokens", "truncated", "query_truncated"):
                np.testing.assert_array_equal(getattr(details, name), getattr(expected, name))
        # Another query is another pair, and another model has a memory of its own.
        assert scorer.score_detailed("p", documents).score_cache_hits == 0
        with CrossEncoderScorer(str(tiny), device="cpu", score_cache_size=1000, max_length=100) as other:
            assert other.score_detailed("q", documents).score_cache_hits == 0


def test_scores_are_not_remembered_unless_asked(tiny_scorer: CrossEncoderScorer) -> None:
    for _ in range(2):
        assert tiny_scorer.score_detailed("q", TEXTS).score_cache_hits == 0


def test_a_lone_surrogate_is_named_in_a_stream_too(tiny_scorer: CrossEncoderScorer) -> None:
    with pytest.raises(InvalidInputError, match="surrogate"):
        tiny_scorer.score("q", iter(["fine", "bad \ud800"]))


def test_the_token_cache_can_be_turned_off(tiny: Path) -> None:
    with CrossEncoderScorer(str(tiny), device="cpu", token_cache_bytes=0) as scorer:
        for _ in range(2):
            assert scorer.score_detailed("q", TEXTS[:20]).token_cache_hits == 0
