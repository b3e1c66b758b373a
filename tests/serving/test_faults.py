"""What broken and rude clients send: the right status each time, and the server lives."""

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from rerank_plugins import CrossEncoderScorer, Reranker
from rerank_plugins.serving.app import create_app
from rerank_plugins.serving.models import ModelPool
from rerank_plugins.serving.settings import ServerSettings
from tests.scorers import Fixed
from tests.serving.live import get, live, post

JSON = {"Content-Type": "application/json"}
GOOD = {"query": "who wrote Faust?", "documents": ["A fist is a hand.", "Goethe wrote Faust."]}


@pytest.fixture(autouse=True)
def alive(client: httpx.Client) -> Iterator[None]:
    """Whatever a test did, the next request is answered rightly."""
    yield
    reply = client.post("/v1/rerank", json=GOOD)
    assert reply.status_code == 200, reply.text
    assert reply.json()["results"][0]["index"] == 1


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, b""),
        (400, b"{"),
        (400, b"null"),
        (400, b"[]"),
        (400, b'"text"'),
        (400, b'{"query": "\xff\xfe", "documents": []}'),
        (400, b'{"query": "\\ud800", "documents": ["a"]}'),
        (400, b'{"query": "a", "documents": ["\\udfff"]}'),
        (400, b'{"query": "a", "documents": ["a"], "top_n": NaN}'),
        (400, b'{"query": "a", "documents": ["a"], "priority": Infinity}'),
        (400, b"[" * 100_000),
        (400, b'{"query": "a", "documents": [' + b'{"text":' * 50_000 + b"1" + b"}" * 50_000 + b"]}"),
        (400, b'{"query": "a", "documents": "text"}'),
        (400, b'{"query": "a", "documents": [1]}'),
        (400, b'{"query": "a", "documents": [null]}'),
        (400, b'{"query": null, "documents": ["a"]}'),
        (400, b'{"documents": ["a"]}'),
        (413, json.dumps({"query": "a", "documents": [""] * 100_000}).encode()),
        (413, json.dumps({"query": "a", "documents": ["word " * 500] * 1500}).encode()),
        (
            200,
            json.dumps(
                {"query": "", "documents": ["\x00", "\U0001f600" * 9, "\u202e", "a" * 99_999]}
            ).encode(),
        ),
    ],
    ids=lambda value: str(value[:40]) if isinstance(value, bytes) else str(value),
)
@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank"])
def test_bodies(client: httpx.Client, path: str, status: int, body: bytes) -> None:
    reply = client.post(path, content=body, headers=JSON)
    assert reply.status_code == status, reply.text
    if status != 200:
        assert reply.json()["message"]
        assert len(reply.content) < 3000, "an error does not send the body back"


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", None]
)
def test_only_json_is_read(client: httpx.Client, kind: str | None) -> None:
    headers = {"Content-Type": kind} if kind else {}
    assert client.post("/v1/rerank", content=json.dumps(GOOD), headers=headers).status_code == 415


@pytest.mark.parametrize("declared", [True, False])
def test_fifty_megabytes(client: httpx.Client, declared: bool) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"query": "a", "documents": ["'
        for _ in range(50):
            yield b"x" * 2**20
        yield b'"]}'

    content: Any = b"".join(chunks()) if declared else chunks()
    reply = client.post("/v1/rerank", content=content, headers=JSON)
    assert reply.status_code == 413
    assert "bytes" in reply.json()["message"]


@pytest.mark.parametrize("over", [0, 1])
def test_the_limit_of_bytes_to_the_byte(reranker: Reranker, over: int) -> None:
    content = json.dumps(GOOD).encode()
    settings = ServerSettings(max_body_bytes=len(content) - over)
    with live(create_app(settings, pool=ModelPool.of({"bundled": reranker}))) as url:
        for body in (content, iter([content[:20], content[20:]])):
            reply = post(f"{url}/v1/rerank", content=body, headers=JSON)
            assert reply.status_code == (413 if over else 200)


def test_paths_and_methods(client: httpx.Client) -> None:
    for reply, status in (
        (client.get("/v1/rerank"), 405),
        (client.get("/nowhere"), 404),
        (client.post("/health"), 405),
        (client.get("/docs"), 404),
    ):
        assert reply.status_code == status
        assert reply.json()["error"]["code"] == status
    preflight = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    reply = client.options("/v1/rerank", headers=preflight)
    assert reply.status_code == 405
    assert not any(name.startswith("access-control") for name in reply.headers)


@pytest.mark.parametrize("path", ["/health", "/ready", "/"])
def test_head_is_answered_as_get_is_without_a_body(client: httpx.Client, path: str) -> None:
    head, get = client.head(path), client.get(path)
    assert (head.status_code, head.content) == (get.status_code, b"") == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert head.headers["content-length"] == get.headers["content-length"]


def test_request_ids_come_back_if_they_are_harmless(client: httpx.Client) -> None:
    def answered(**headers: str) -> str:
        return client.get("/health", headers=headers).headers["X-Request-ID"]

    assert answered(**{"X-Request-ID": "a-b.c:d/1"}) == "a-b.c:d/1"
    for given in ('x"}', "x" * 200, "a b"):
        assert answered(**{"X-Request-ID": given}) != given
    assert answered() != answered()


@pytest.mark.parametrize("given", ["0", "-1", "1.5", "soon", "", "9" * 30])
def test_a_timeout_that_is_no_number_is_refused(client: httpx.Client, given: str) -> None:
    reply = client.post("/v1/rerank", json=GOOD, headers={"X-Request-Timeout-Ms": given})
    assert reply.status_code == 400
    assert "X-Request-Timeout-Ms" in reply.json()["message"]


def send(client: httpx.Client, head: str, body: bytes = b"") -> socket.socket:
    url = client.base_url
    peer = socket.create_connection((url.host, url.port or 0), timeout=300)
    peer.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
    return peer


def test_a_slow_body_runs_into_the_deadline(client: httpx.Client) -> None:
    head = (
        "POST /v1/rerank HTTP/1.1\nHost: a\nContent-Type: application/json\nContent-Length: 1000\n"
        "X-Request-Timeout-Ms: 300"
    )
    with send(client, head, b'{"query": ') as peer:
        assert peer.recv(100).startswith(b"HTTP/1.1 504")


def test_a_client_that_leaves_in_its_body_leaves_nothing_behind(client: httpx.Client, app: FastAPI) -> None:
    head = "POST /v1/rerank HTTP/1.1\nHost: a\nContent-Type: application/json\nContent-Length: 1000"
    peers = [send(client, head, b'{"query": ') for _ in range(20)]
    door = app.state.service.door
    wait_until(lambda: door.inside == 20)
    for peer in peers:
        peer.close()
    wait_until(lambda: door.inside == 0)


def test_broken_http_is_refused(client: httpx.Client) -> None:
    with send(client, "POST /v1/rerank HTTP/1.1\nHost: a\nContent-Length: many") as peer:
        assert peer.recv(100).startswith(b"HTTP/1.1 400")
    with send(client, "what?") as peer:
        assert peer.recv(100).startswith(b"HTTP/1.1 400")


def wait_until(holds: Any) -> None:
    """Wait for what must come about; the limit only ends a test that fails."""
    end = time.monotonic() + 300
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


class Broken:
    """A scorer that fails."""

    def score(self, query: str, documents: list[str]) -> Any:
        raise KeyError(query)


def test_a_crash_is_an_answer_without_content_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    pool = ModelPool.of({"broken": Reranker(Broken())})
    with live(create_app(ServerSettings(), pool=pool)) as url, caplog.at_level("DEBUG"):
        body = {"query": "a secret", "documents": ["another secret"]}
        reply = post(f"{url}/v2/rerank", json=body)
        assert reply.status_code == 500
        assert reply.json()["id"] == reply.headers["X-Request-ID"]
        tei = post(f"{url}/rerank", json={"query": "a secret", "texts": ["another secret"]})
        assert (tei.status_code, tei.json()["error_type"]) == (424, "Backend")
        assert get(f"{url}/health").status_code == 200
    assert "secret" not in reply.text
    logged = [str(vars(record)) for record in caplog.records if record.name.startswith("rerank_plugins")]
    assert any("KeyError" in line for line in logged)
    assert "secret" not in "".join(logged)


@pytest.mark.parametrize("info", [lambda: "mine", {"model": "mine"}], ids=["method", "dict"])
def test_a_scorer_whose_info_is_none_of_ours(info: Any) -> None:
    scorer = Fixed([1.0, 2.0])
    scorer.info = info  # type: ignore[attr-defined]
    with live(create_app(ServerSettings(), pool=ModelPool.of({"mine": Reranker(scorer)}))) as url:
        assert post(f"{url}/v1/rerank", json=GOOD).status_code == 200
        for path in ("/stats", "/info", "/v1/models", "/metrics"):
            assert get(f"{url}{path}").status_code == 200
        assert get(f"{url}/stats").json()["models"] == [{"name": "mine", "loaded": True}]


def test_a_model_that_cannot_be_loaded(bundled: CrossEncoderScorer) -> None:
    settings = ServerSettings(models=("bundled", "not-on/any-hub"))
    with live(create_app(settings)) as url:
        for _ in range(2):
            reply = post(f"{url}/v1/rerank", json=GOOD | {"model": "not-on/any-hub"})
            assert reply.status_code == 503
            assert reply.json()["error"]["type"] == "model_unavailable"
        assert post(f"{url}/v1/rerank", json=GOOD).status_code == 200
