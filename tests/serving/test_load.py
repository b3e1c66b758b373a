"""What waits is bounded, has a deadline, and is dropped when nobody wants it any more."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from rerank_plugins import CrossEncoderScorer, Reranker
from rerank_plugins.serving import admission
from rerank_plugins.serving.admission import Queue
from rerank_plugins.serving.app import create_app
from rerank_plugins.serving.errors import RequestError
from rerank_plugins.serving.models import ModelPool
from rerank_plugins.serving.settings import ServerSettings
from tests.serving.live import live, post
from tests.serving.test_faults import send, wait_until

GOOD = {"query": "who wrote Faust?", "documents": ["A fist is a hand.", "Goethe wrote Faust."]}


PATIENT = {"max_wait_ms": 600_000, "deadline_ms": 600_000}


def body(i: int, documents: int = 40, words: int = 30) -> dict[str, Any]:
    return {"query": f"question {i}?", "documents": [f"text {i} {j} " * words for j in range(documents)]}


class Gate:
    """A scorer that waits until it is opened."""

    def __init__(self) -> None:
        self.open = threading.Event()

    def score(self, query: str, documents: list[str]) -> Any:
        assert self.open.wait(300)
        return np.zeros(len(documents), dtype=np.float32)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


def gated(gate: Gate, **settings: Any) -> FastAPI:
    return create_app(ServerSettings(**settings), pool=ModelPool.of({"gate": Reranker(gate)}))


@pytest.fixture
def held(bundled: CrossEncoderScorer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hold the bundled model's engine in its first batch until the test is over."""
    over = threading.Event()
    (line,) = bundled._loaded.worker._lines
    launch = line._engine.launch

    def wait(*args: Any) -> Any:
        assert over.wait(300)
        return launch(*args)

    monkeypatch.setattr(line._engine, "launch", wait)
    yield
    over.set()


def test_replies_of_many_at_once_are_not_mixed_up(client: httpx.Client, reranker: Reranker) -> None:
    def ask(i: int) -> None:
        asked = body(i, documents=1 + i % 7, words=4)
        reply = client.post("/v1/rerank", json=asked).json()
        ranking = reranker.rank(asked["query"], asked["documents"])
        scores = {ranked.index: ranked.score for ranked in ranking}
        assert len(reply["results"]) == len(scores)
        for row in reply["results"]:
            assert row["relevance_score"] == pytest.approx(scores[row["index"]], abs=1e-5)

    with ThreadPoolExecutor(16) as callers:
        list(callers.map(ask, range(60)))


def test_more_requests_than_may_be_inside_are_refused_at_the_door(gate: Gate) -> None:
    app = gated(gate, max_waiting_requests=2)
    with (
        live(app) as url,
        ThreadPoolExecutor(2) as callers,
        httpx.Client(base_url=url, timeout=600) as client,
    ):
        inside = [callers.submit(client.post, "/v1/rerank", json=GOOD) for _ in range(2)]
        wait_until(lambda: app.state.service.door.inside == 2)
        # Its body is not read, however long it is.
        refused = client.post("/v1/rerank", json=body(0, documents=1000))
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
        assert client.get("/health").status_code == 200
        assert client.get("/ready").status_code == 200
        gate.open.set()
        assert [each.result().status_code for each in inside] == [200, 200]
        assert client.post("/v1/rerank", json=GOOD).status_code == 200


def test_more_tokens_than_may_wait_are_refused(gate: Gate) -> None:
    app = gated(gate, max_queue_tokens=100)
    with (
        live(app) as url,
        ThreadPoolExecutor(1) as callers,
        httpx.Client(base_url=url, timeout=600) as client,
    ):
        # When nothing waits, a request is taken, whatever its size.
        inside = callers.submit(client.post, "/v1/rerank", json=body(1, documents=2))
        wait_until(lambda: any(queue.tokens for queue in list(app.state.service.queues.values())))
        tei = {"query": "a", "texts": ["b" * 1000]}
        refused = client.post("/rerank", json=tei)
        assert (refused.status_code, refused.json()["error_type"]) == (429, "Overloaded")
        assert int(refused.headers["Retry-After"]) >= 1
        gate.open.set()
        assert inside.result().status_code == 200
        assert client.post("/rerank", json=tei).status_code == 200


def test_what_would_wait_longer_than_the_client_does_is_refused_at_once() -> None:
    queue = Queue(most=10**9, max_wait=5.0, batch_tokens=10)
    with queue.admit(50, patience=1.0):
        pass
    queue._done, queue._seconds = 1000.0, 1.0  # a pace of 1,000 tokens a second
    with queue.admit(900, patience=1.0):
        with pytest.raises(RequestError, match="429") as refused, queue.admit(600, patience=1.0):
            pass
        assert refused.value.headers == {"Retry-After": "1"}
        with queue.admit(600, patience=2.0), pytest.raises(RequestError) as refused, queue.admit(8000, 100.0):
            pass
        assert refused.value.headers == {"Retry-After": "5"}, "1,500 are inside, and 5 s are the limit"
    assert queue.tokens == 0


@pytest.mark.parametrize("seconds", [0.1, 10.0, 30.0])
def test_the_pace_does_not_depend_on_how_long_a_request_takes(
    monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    now = [100.0]
    monkeypatch.setattr(admission.time, "monotonic", lambda: now[0])
    queue = Queue(most=10**9, max_wait=5.0, batch_tokens=10)
    for _ in range(5):
        with queue.admit(round(1000 * seconds), patience=1.0):
            now[0] += seconds
        now[0] += 60  # nothing to do, which counts for nothing
    # What came last counts in full, and what it took too.
    assert queue.pace == pytest.approx(1000, rel=0.01)


def test_the_pace_is_measured_while_there_is_work(client: httpx.Client, app: FastAPI) -> None:
    client.post("/v1/rerank", json=body(1))
    queue = app.state.service.queues["bundled"]
    assert queue.pace > 0
    assert queue.tokens == 0


@pytest.mark.usefixtures("held")
def test_a_deadline_ends_the_wait_and_drops_the_work(
    client: httpx.Client, bundled: CrossEncoderScorer, app: FastAPI
) -> None:
    reply = client.post("/v1/rerank", json=body(2, documents=1000), headers={"X-Request-Timeout-Ms": "200"})
    assert reply.status_code == 504
    assert reply.json()["error"]["type"] == "deadline"
    wait_until(lambda: all_gone(app, bundled))


def test_the_servers_own_deadline(gate: Gate) -> None:
    with live(gated(gate, deadline_ms=50)) as url:
        late = post(f"{url}/v1/rerank", json=GOOD, headers={"X-Request-Timeout-Ms": "60000"})
        assert late.status_code == 504, "a header cannot make it longer"
        gate.open.set()


@pytest.mark.usefixtures("held")
def test_the_work_of_a_client_that_leaves_is_dropped(
    client: httpx.Client, bundled: CrossEncoderScorer, app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    worker = bundled._loaded.worker
    with caplog.at_level("INFO"):
        content = client.build_request("POST", "/v1/rerank", json=body(3, documents=1000)).content
        head = "POST /v1/rerank HTTP/1.1\nHost: a\nContent-Type: application/json"
        with send(client, f"{head}\nContent-Length: {len(content)}", content):
            wait_until(lambda: worker.waiting_tokens)
        wait_until(lambda: app.state.service.door.inside == 0)
        # Though the engine is still in its first round.
        assert worker.waiting_tokens == 0
        assert app.state.service.queues["bundled"].tokens == 0

        def statuses() -> list[int]:
            return [record.fields["status"] for record in list(caplog.records) if hasattr(record, "fields")]

        wait_until(lambda: 499 in statuses())


def all_gone(app: FastAPI, scorer: CrossEncoderScorer) -> bool:
    inside = [queue.tokens for queue in app.state.service.queues.values()]
    return scorer._loaded.worker.waiting_tokens == 0 and not any(inside) and not app.state.service.door.inside


def test_models_load_on_demand_once_and_off_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []
    load = Reranker.from_settings
    monkeypatch.setattr(
        Reranker, "from_settings", classmethod(lambda cls, *args: loads.append(args[0].model) or load(*args))
    )
    monkeypatch.setenv("RERANK_DEVICE", "cpu")
    app = create_app(ServerSettings(models=("bundled",), load="lazy", **PATIENT))
    with (
        live(app) as url,
        httpx.Client(base_url=url, timeout=600) as client,
        ThreadPoolExecutor(8) as callers,
    ):
        assert client.get("/ready").json() == {"status": "ready"}
        assert client.get("/v1/models").json()["data"][0]["loaded"] is False
        assert not loads
        first = [callers.submit(client.post, "/v1/rerank", json=GOOD) for _ in range(8)]
        assert [each.result().status_code for each in first] == [200] * 8
        assert loads == ["bundled"]
        assert client.get("/v1/models").json()["data"][0]["loaded"] is True


def test_several_models_at_once_keep_their_scores_apart(
    reranker: Reranker, tiny_scorer: CrossEncoderScorer
) -> None:
    other = Reranker(tiny_scorer)
    pool = ModelPool.of({"bundled": reranker, "tiny": other}, {"small": "tiny"})
    app = create_app(ServerSettings(**PATIENT), pool=pool)
    with live(app) as url, httpx.Client(base_url=url, timeout=600) as client:

        def ask(i: int) -> None:
            name, expected = (("bundled", reranker), ("tiny", other), ("small", other))[i % 3]
            asked = body(i, documents=5, words=4)
            reply = client.post("/v1/rerank", json=asked | {"model": name}).json()
            ranking = expected.rank(asked["query"], asked["documents"])
            assert reply["model"] == ("bundled" if i % 3 == 0 else "tiny")
            assert [row["relevance_score"] for row in reply["results"]] == pytest.approx(
                [ranked.score for ranked in ranking], abs=1e-5
            )

        with ThreadPoolExecutor(6) as callers:
            list(callers.map(ask, range(18)))


async def test_who_stops_waiting_does_not_stop_a_load(
    monkeypatch: pytest.MonkeyPatch, reranker: Reranker
) -> None:
    go, loads = threading.Event(), []

    def load(*settings: Any) -> Reranker:
        loads.append(settings)
        assert go.wait(300)
        return reranker

    monkeypatch.setattr(Reranker, "from_settings", load)
    pool = ModelPool.from_settings(ServerSettings(models=("bundled",)))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await pool.get("bundled")
    go.set()
    assert await pool.get() is reranker
    assert len(loads) == 1
    pool._models = {}  # the reranker is the session's
    pool.close()
