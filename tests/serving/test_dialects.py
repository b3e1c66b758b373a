"""Each dialect's wire format, and scores equal to the reranker's in process."""

import math
from typing import Any

import httpx
import pytest

from rerank_plugins import Reranker

QUERY = "who wrote Faust?"
DOCUMENTS = ["A fist is a hand.", "Goethe wrote Faust.", "", "Rice is a grass."]


def expected(reranker: Reranker, query: str = QUERY, **options: Any) -> list[tuple[int, float]]:
    return [(ranked.index, ranked.score) for ranked in reranker.rank(query, DOCUMENTS, **options)]


def got(rows: list[dict[str, Any]], name: str = "relevance_score") -> list[tuple[int, float]]:
    return [(row["index"], row[name]) for row in rows]


def same(ours: list[tuple[int, float]], theirs: list[tuple[int, float]]) -> bool:
    pairs = zip(ours, theirs, strict=True)
    return all(a == b and math.isclose(x, y, abs_tol=1e-6) for (a, x), (b, y) in pairs)


@pytest.mark.parametrize(("path", "version"), [("/v1/rerank", "1"), ("/v2/rerank", "2"), ("/rerank", "1")])
def test_cohere_jina_vllm_and_voyage(
    client: httpx.Client, reranker: Reranker, path: str, version: str
) -> None:
    body = {"model": "bundled", "query": QUERY, "documents": DOCUMENTS}
    reply = client.post(path, json=body, headers={"X-Request-ID": "abc-1"})
    assert reply.status_code == 200
    found = reply.json()
    assert same(got(found["results"]), expected(reranker))
    assert got(found["data"]) == got(found["results"]), "Voyage reads data"
    tokens = reranker.rank(QUERY, DOCUMENTS).stats.tokens
    del found["results"], found["data"]
    assert found == {
        "id": "abc-1",
        "object": "list",
        "model": "bundled",
        "scale": "probability",
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "meta": {
            "api_version": {"version": version},
            "billed_units": {"search_units": 1},
            "tokens": {"input_tokens": tokens, "output_tokens": 0},
        },
    }
    assert reply.headers["X-Rerank-Scale"] == "probability"
    assert reply.headers["X-Request-ID"] == "abc-1"


def test_tei(client: httpx.Client, reranker: Reranker) -> None:
    reply = client.post("/rerank", json={"query": QUERY, "texts": DOCUMENTS})
    assert set(reply.json()[0]) == {"index", "score"}
    assert same(got(reply.json(), "score"), expected(reranker))
    assert reply.headers["X-Rerank-Scale"] == "probability"


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
@pytest.mark.parametrize(
    "names", [("queries", "documents"), ("queries", "items"), ("text_1", "text_2"), ("data_1", "data_2")]
)
@pytest.mark.parametrize("query", [QUERY, [QUERY], [QUERY] * 4])
def test_vllm_scores_in_the_order_of_the_pairs(
    client: httpx.Client, reranker: Reranker, path: str, names: tuple[str, str], query: Any
) -> None:
    reply = client.post(path, json={names[0]: query, names[1]: DOCUMENTS, "model": "bundled"}).json()
    assert same(got(reply["data"], "score"), sorted(expected(reranker)))
    assert reply["object"] == "list"
    assert {row["object"] for row in reply["data"]} == {"score"}
    assert reply["usage"]["total_tokens"] > 0
