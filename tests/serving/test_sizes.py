"""Tokens of a request: estimated, and cut where it sets limits."""

import httpx
import pytest

from rerank_plugins import CrossEncoderScorer, Reranker
from rerank_plugins.serving.app import create_app
from rerank_plugins.serving.models import ModelPool
from rerank_plugins.serving.settings import ServerSettings
from rerank_plugins.serving.sizes import NO_LIMITS, Limits, cut, estimate
from tests.scorers import Fixed
from tests.serving.live import live

QUERY = "who wrote Faust?"
# A word of BERT's with its space is four characters, as is the estimate of a token.
LONG = "and " * 3000


@pytest.fixture
def windowed(bundled: CrossEncoderScorer) -> Reranker:
    return Reranker(bundled, long_documents="max_passage", max_passages=8)


@pytest.mark.parametrize("size", [7, 100, 511, 512, 1000, 2000])
def test_a_limit_is_kept_in_windows_too(windowed: Reranker, size: int) -> None:
    limits = Limits(document=size)
    assert limits.bind(windowed)
    _, (text,) = cut(QUERY, [LONG], limits, windowed)
    assert 0.99 * size <= len(text.split()) <= size


@pytest.mark.parametrize("size", [64, 512, 1000])
def test_a_limit_of_the_pair_counts_the_query(windowed: Reranker, size: int) -> None:
    _, (text,) = cut(QUERY, [LONG], Limits(pair=size), windowed)
    assert 0.8 * size <= len(text.split()) + 4 + 3 <= size


def test_what_the_model_does_not_read_anyway_is_not_cut(
    bundled: CrossEncoderScorer, windowed: Reranker
) -> None:
    assert not Limits(document=512, pair=4096, query=512).bind(Reranker(bundled))
    assert not NO_LIMITS.bind(windowed)
    assert not Limits(document=8 * 512).bind(windowed)
    assert not Limits(document=10**6).bind(Reranker(bundled, long_documents="max_passage", max_passages=1))
    assert Limits(document=10**6).bind(Reranker(bundled, long_documents="max_passage", max_passages=None))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"long_documents": "max_passage"},
        {"long_documents": "max_passage", "max_passages": None},
        {"long_documents": "max_passage", "max_passages": 32, "passage_tokens": 160},
        {"long_documents": "max_passage", "max_passages": None, "passage_tokens": 100, "passage_overlap": 50},
    ],
    ids=str,
)
@pytest.mark.parametrize("limits", [NO_LIMITS, Limits(document=200), Limits(pair=700)], ids=str)
@pytest.mark.parametrize("words", [10, 600, 3000])
def test_the_estimate_is_about_what_is_read(
    bundled: CrossEncoderScorer, options: dict[str, object], limits: Limits, words: int
) -> None:
    reranker = Reranker(bundled, **options)  # type: ignore[arg-type]
    text = "and " * words
    about = estimate(QUERY, [text], limits, reranker)
    query, texts = cut(QUERY, [text], limits, reranker) if limits.bind(reranker) else (QUERY, [text])
    (pair,) = reranker.preview(query, texts)
    read = sum(pair.query_tokens + 3 + passage.tokens for passage in pair.passages)
    assert about == pytest.approx(read, rel=0.1, abs=5)


def test_a_scorer_without_tokens_refuses_only_what_is_less_than_models_read() -> None:
    pool = ModelPool.of({"mine": Reranker(Fixed([1.0]))})
    with (
        live(create_app(ServerSettings(), pool=pool)) as url,
        httpx.Client(base_url=url, timeout=600) as client,
    ):
        # What Haystack's CohereRanker always sends.
        body = {"query": QUERY, "documents": ["Goethe wrote Faust."], "max_tokens_per_doc": 4096}
        assert client.post("/v2/rerank", json=body).status_code == 200
        refused = client.post("/v2/rerank", json=body | {"max_tokens_per_doc": 100})
        assert refused.status_code == 400
        assert "limit of tokens" in refused.text
        assert "Fixed" not in refused.text, "how the server is built is nobody's business"


@pytest.mark.parametrize("limit", [300, 301, 440, 470, 480, 505, 508, 509, 510, 511])
def test_a_text_within_the_limit_stays_as_it_is(bundled: CrossEncoderScorer, limit: int) -> None:
    query, text = "why " * 40, "and " * 300
    assert cut(query, [text, ""], Limits(document=limit), Reranker(bundled)) == (query, [text, ""])


@pytest.mark.parametrize("size", [600, 601, 1017, 1019, 1528, 2001])
def test_windows_lose_no_token_of_what_is_within_the_limit(windowed: Reranker, size: int) -> None:
    # Words of three tokens, which windows do not divide evenly.
    word = "unfathomably "
    _, (extent,) = windowed.scorer.extents("", [word])  # type: ignore[attr-defined]
    assert extent.tokens > 2
    fits, longer = word * (size // extent.tokens), word * (size // extent.tokens + 1)
    _, (one, other) = cut(QUERY, [fits, longer], Limits(document=size), windowed)
    assert one == fits
    assert fits[:-40] < other < longer.rstrip()


def test_a_text_within_the_limit_is_not_refused_as_too_long(client: httpx.Client) -> None:
    body = {"query": "why " * 40, "documents": ["and " * 300], "truncation": False}
    for limit in (299, 300, 480, 512):
        reply = client.post("/v1/rerank", json=body | {"max_tokens_per_doc": limit})
        assert reply.status_code == (422 if limit < 300 else 200), reply.text
