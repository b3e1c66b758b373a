"""Each dialect's wire format, and scores equal to the reranker's in process."""

import math
from typing import Any

import httpx
import pytest

from rerank_plugins import Reranker
from rerank_plugins.serving.app import create_app
from rerank_plugins.serving.models import ModelPool
from rerank_plugins.serving.settings import ServerSettings
from tests.serving.live import get, live, post

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
        "object": "rerank",
        "model": "bundled",
        "scale": "probability",
        "query_truncated": False,
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


def test_pairs_of_many_queries(client: httpx.Client, reranker: Reranker) -> None:
    queries = [QUERY, "what is rice?", QUERY, "what is rice?"]
    reply = client.post("/score", json={"text_1": queries, "text_2": DOCUMENTS}).json()
    single = [reranker.rank(query, [text])[0].score for query, text in zip(queries, DOCUMENTS, strict=True)]
    assert same(got(reply["data"], "score"), list(enumerate(single)))


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/v1/rerank", {"documents": DOCUMENTS, "raw_scores": True}, "relevance_score"),
        ("/v2/rerank", {"documents": DOCUMENTS, "use_activation": False}, "relevance_score"),
        ("/rerank", {"texts": DOCUMENTS, "raw_scores": True}, "score"),
    ],
)
def test_raw_scores(client: httpx.Client, reranker: Reranker, path: str, body: Any, name: str) -> None:
    reply = client.post(path, json={"query": QUERY, **body})
    rows = reply.json() if path == "/rerank" else reply.json()["results"]
    assert same(got(rows, name), expected(reranker, scale="logit"))
    assert reply.headers["X-Rerank-Scale"] == "logit"


def test_the_servers_scale_counts_where_a_request_does_not_say(reranker: Reranker) -> None:
    pool = ModelPool.of({"bundled": Reranker(reranker.scorer, scale="logit")})
    with live(create_app(ServerSettings(), pool=pool)) as url:
        body = {"query": QUERY, "documents": DOCUMENTS}
        logits = post(f"{url}/v1/rerank", json=body).json()
        assert logits["scale"] == "logit"
        assert same(got(logits["results"]), expected(reranker, scale="logit"))
        chances = post(f"{url}/v1/rerank", json=body | {"use_activation": True}).json()
        assert same(got(chances["results"]), expected(reranker))


@pytest.mark.parametrize(
    ("fields", "count"),
    [({"top_n": 2}, 2), ({"top_k": 1}, 1), ({"top_n": 99}, 4), ({"top_n": None}, 4), ({"top_n": 10**30}, 4)],
)
def test_top_n(client: httpx.Client, reranker: Reranker, fields: dict[str, Any], count: int) -> None:
    reply = client.post("/v1/rerank", json={"query": QUERY, "documents": DOCUMENTS} | fields).json()
    assert same(got(reply["results"]), expected(reranker, top_k=count))


@pytest.mark.parametrize("top_n", [0, -1, 1.5, "many"])
def test_a_top_n_that_makes_no_sense_is_refused(client: httpx.Client, top_n: Any) -> None:
    reply = client.post("/v2/rerank", json={"query": QUERY, "documents": DOCUMENTS, "top_n": top_n})
    assert reply.status_code == 400
    assert "top_n" in reply.json()["message"]


def test_documents_come_back_on_request(client: httpx.Client) -> None:
    body = {"query": QUERY, "documents": DOCUMENTS}
    plain = client.post("/v1/rerank", json=body).json()
    assert not any("document" in row for row in plain["results"] + plain["data"])
    found = client.post("/v1/rerank", json=body | {"return_documents": True}).json()
    assert [row["document"] for row in found["results"]] == [
        {"text": DOCUMENTS[row["index"]]} for row in found["results"]
    ]
    assert [row["document"] for row in found["data"]] == [DOCUMENTS[row["index"]] for row in found["data"]]
    tei = client.post("/rerank", json={"query": QUERY, "texts": DOCUMENTS, "return_text": True}).json()
    assert [row["text"] for row in tei] == [DOCUMENTS[row["index"]] for row in tei]


def test_object_documents_and_rank_fields(client: httpx.Client, reranker: Reranker) -> None:
    objects = [{"text": text, "title": "t", "year": 1808} for text in DOCUMENTS]
    reply = client.post("/v1/rerank", json={"query": QUERY, "documents": objects}).json()
    assert same(got(reply["results"]), expected(reranker))
    named = {"query": QUERY, "documents": objects, "rank_fields": ["title", "text"]}
    reply = client.post("/v1/rerank", json=named).json()
    texts = [f"title: t\ntext: {text}" for text in DOCUMENTS]
    ranking = reranker.rank(QUERY, texts)
    assert same(got(reply["results"]), [(ranked.index, ranked.score) for ranked in ranking])


def test_unknown_fields_and_nulls_are_accepted(client: httpx.Client, reranker: Reranker) -> None:
    optional = ("model", "top_n", "top_k", "return_documents", "rank_fields", "max_tokens_per_doc")
    body = dict.fromkeys((*optional, "truncate_prompt_tokens", "use_activation", "raw_scores", "priority"))
    reply = client.post(
        "/v2/rerank", json={"query": QUERY, "documents": DOCUMENTS, "user": {"a": [1]}} | body
    )
    assert same(got(reply.json()["results"]), expected(reranker))
    tei = {
        "raw_scores": None,
        "return_text": None,
        "truncate": None,
        "truncation_direction": None,
        "top_n": 1,
    }
    reply = client.post("/rerank", json={"query": QUERY, "texts": DOCUMENTS} | tei)
    assert same(got(reply.json(), "score"), expected(reranker))


def test_no_documents_get_no_results(client: httpx.Client) -> None:
    reply = client.post("/v1/rerank", json={"query": QUERY, "documents": []})
    assert (reply.status_code, reply.json()["results"]) == (200, [])
    reply = client.post("/rerank", json={"query": QUERY, "texts": []})
    assert (reply.status_code, reply.json()["error_type"]) == (400, "Empty")


LONG = " ".join(f"word{i}" for i in range(2000))


def test_limits_of_tokens_are_kept_and_reported(client: httpx.Client, reranker: Reranker) -> None:
    text = "Goethe wrote Faust in Weimar, a small town in Thuringia that is known for its poets."
    body = {"query": QUERY, "documents": [text, "short"], "max_tokens_per_doc": 7}
    reply = client.post("/v2/rerank", json=body).json()
    rows = {row["index"]: row for row in reply["results"]}
    cut = reranker.rank(QUERY, ["Goethe wrote Faust in Weimar, a"])
    assert cut[0].tokens == 7
    assert math.isclose(rows[0]["relevance_score"], cut[0].score or 0, abs_tol=1e-6)
    assert (rows[0]["truncated"], rows[1]["truncated"]) == (True, False)

    tokens = client.post("/v1/rerank", json={"query": QUERY, "documents": [LONG]}).json()["usage"]
    assert tokens["total_tokens"] == 512
    body = {"query": QUERY, "documents": [LONG], "truncate_prompt_tokens": 64}
    assert 48 < client.post("/v1/rerank", json=body).json()["usage"]["total_tokens"] <= 64
    body = {"query": LONG, "documents": ["short"], "max_tokens_per_query": 10, "max_tokens_per_doc": 0}
    assert client.post("/v1/rerank", json=body).json()["usage"]["total_tokens"] <= 14
    body = {"query": LONG, "documents": ["short"], "truncate_prompt_tokens": 64}
    refused = client.post("/v1/rerank", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, 400)


@pytest.mark.parametrize(
    ("path", "name", "field"),
    [
        ("/v1/rerank", "documents", {"truncation": False}),
        ("/v1/rerank", "documents", {"truncation_side": "left"}),
        ("/rerank", "texts", {"truncate": False}),
        ("/rerank", "texts", {"truncation_direction": "Left"}),
        ("/score", "documents", {"truncation_side": "left"}),
    ],
)
def test_what_may_not_be_cut_or_only_at_the_other_end_is_refused(
    client: httpx.Client, path: str, name: str, field: dict[str, Any]
) -> None:
    key = "queries" if path == "/score" else "query"
    refused = client.post(path, json={key: QUERY, name: [LONG, "short"], **field})
    assert refused.status_code == 422
    assert "1 documents" in refused.text
    assert client.post(path, json={key: QUERY, name: ["short"], **field}).status_code == 200


def test_models_by_name(client: httpx.Client) -> None:
    body = {"query": QUERY, "documents": DOCUMENTS}
    assert client.post("/v2/rerank", json=body | {"model": "rerank-v3.5"}).json()["model"] == "bundled"
    refused = client.post("/v2/rerank", json=body | {"model": "gpt"}, headers={"X-Request-ID": "r"})
    assert refused.status_code == 404
    error = refused.json()
    assert "'bundled'" in error["message"]
    assert error == {
        "message": error["message"],
        "id": "r",
        "detail": error["message"],
        "error": {"message": error["message"], "type": "unknown_model", "param": None, "code": 404},
    }
    refused = client.post("/rerank", json={"query": QUERY, "texts": DOCUMENTS, "model": "gpt"})
    assert refused.status_code == 404
    assert set(refused.json()) == {"error", "error_type"}


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank"])
def test_texts_that_are_null_are_not_there(client: httpx.Client, reranker: Reranker, path: str) -> None:
    body = {"query": QUERY, "documents": DOCUMENTS, "texts": None}
    reply = client.post(path, json=body).json()
    assert same(got(reply["results"]), expected(reranker))
    refused = client.post(path, json={"query": QUERY, "texts": None})
    assert (refused.status_code, "documents" in refused.json()["message"]) == (400, True)


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/score"])
def test_tei_is_spoken_on_its_own_path_only(client: httpx.Client, path: str) -> None:
    refused = client.post(path, json={"query": 3, "texts": DOCUMENTS, "model": 5})
    assert refused.status_code == 400
    assert {"message", "detail", "error"} <= set(refused.json())


def test_tei_errors_in_its_own_words(client: httpx.Client) -> None:
    refused = client.post("/rerank", json={"query": 3, "texts": DOCUMENTS})
    assert (refused.status_code, refused.json()["error_type"]) == (422, "Validation")
    many = client.post("/rerank", json={"query": QUERY, "texts": [""] * 3000})
    assert (many.status_code, many.json()["error_type"]) == (413, "Validation")


def test_info_tells_what_a_client_may_send(client: httpx.Client) -> None:
    info = client.get("/info").json()
    assert info["model_id"] == "bundled"
    assert "reranker" in info["model_type"]
    assert (info["max_client_batch_size"], info["max_input_length"]) == (2048, 512)
    (model,) = client.get("/v1/models").json()["data"]
    assert (model["id"], model["loaded"], model["device"]) == ("bundled", True, "cpu")


def test_how_many_results_there_are_is_the_clients_choice(reranker: Reranker) -> None:
    strict = Reranker(reranker.scorer, top_k=1, min_score=0.999, on_error="keep_order")
    with live(create_app(ServerSettings(), pool=ModelPool.of({"strict": strict}))) as url:
        reply = post(f"{url}/v1/rerank", json={"query": QUERY, "documents": DOCUMENTS}).json()
        assert same(got(reply["results"]), expected(reranker))


def test_long_documents_are_read_as_the_server_says(reranker: Reranker) -> None:
    windows = Reranker(reranker.scorer, long_documents="max_passage", passage_tokens=64, max_passages=3)
    near = " ".join(LONG.split()[:40])
    far = f"{near} Goethe wrote Faust."
    with live(create_app(ServerSettings(), pool=ModelPool.of({"windows": windows}))) as url:
        body = {"query": QUERY, "documents": [near, far], "truncation": False}
        reply = post(f"{url}/v1/rerank", json=body).json()
        ranking = windows.rank(QUERY, [near, far])
        assert ranking[0].passages > 1
        assert same(got(reply["results"]), [(ranked.index, ranked.score) for ranked in ranking])
        assert [row["truncated"] for row in reply["results"]] == [False, False]
        limited = post(f"{url}/v1/rerank", json={**body, "documents": [far * 3]})
        assert limited.status_code == 422, "more windows than are read"


def test_behind_a_proxy_that_strips_a_path(reranker: Reranker) -> None:
    settings = ServerSettings(keys=["0123456789abcdef"])
    app = create_app(settings, pool=ModelPool.of({"bundled": reranker}))
    with live(app, root_path="/reranker") as url:
        headers = {"Authorization": "Bearer 0123456789abcdef"}
        body = {"query": QUERY, "documents": DOCUMENTS}
        assert post(f"{url}/v1/rerank", json=body, headers=headers).status_code == 200
        assert get(f"{url}/health").status_code == 200
        document = get(f"{url}/openapi.json", headers=headers).json()
        assert document["servers"] == [{"url": "/reranker"}]
