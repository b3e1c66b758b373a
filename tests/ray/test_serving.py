"""The server on Ray Serve: real replicas, real sockets, real kills."""

import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote_to_bytes

import httpx
import numpy as np
import pytest
import yaml
from ray import serve
from ray.serve.schema import ServeDeploySchema

from rerank_plugins import CrossEncoderScorer
from rerank_plugins.errors import InvalidInputError
from rerank_plugins.serving.join import join
from rerank_plugins.serving.ray import Call, Options, app, url_of
from tests.ray.processes import pids_of

KEY = "a-key-of-the-test"
QUERY = "who wrote Faust?"
DOCUMENTS = [f"{name} wrote {work}." for name in ("Goethe", "Kafka", "Woolf") for work in ("Faust", "Emma")]


@pytest.fixture(scope="module")
def client(cluster: None) -> Iterator[httpx.Client]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    options = Options(models="bundled", keys=KEY, min_replicas=2, max_body_bytes=100_000)
    serve.run(app(options), name="rerank", route_prefix="/search")
    with httpx.Client(
        base_url=f"http://127.0.0.1:{port}/search", timeout=60, headers={"Authorization": f"Bearer {KEY}"}
    ) as client:
        yield client
    serve.shutdown()


def rerank(client: httpx.Client, documents: list[str]) -> dict[int, float]:
    reply = client.post("/v1/rerank", json={"query": QUERY, "documents": documents, "model": "bundled"})
    assert reply.status_code == 200, reply.text
    return {result["index"]: result["relevance_score"] for result in reply.json()["results"]}


def expect(scorer: CrossEncoderScorer, documents: list[str]) -> np.ndarray:
    return 1 / (1 + np.exp(-scorer.score(QUERY, documents).astype(float)))


def test_replicas_answer_as_the_application_does(client: httpx.Client, bundled: CrossEncoderScorer) -> None:
    want = expect(bundled, DOCUMENTS)
    got = rerank(client, DOCUMENTS)
    np.testing.assert_allclose([got[i] for i in range(len(DOCUMENTS))], want, atol=1e-4)
    tei = client.post("/rerank", json={"query": QUERY, "texts": DOCUMENTS})
    assert tei.headers["X-Rerank-Scale"] == "probability"
    assert {row["index"]: pytest.approx(row["score"], abs=1e-4) for row in tei.json()} == dict(
        enumerate(want)
    )

    stranger = client.post("/v1/rerank", json={}, headers={"Authorization": "Bearer somebody-else's"})
    assert stranger.status_code == 401
    unknown = client.post("/v1/rerank", json={"query": QUERY, "documents": ["x"], "model": "nobody's"})
    assert (unknown.status_code, "bundled" in unknown.json()["message"]) == (404, True)
    assert client.post("/rerank", content=b"{").status_code in {400, 415, 422}
    large = json.dumps({"query": QUERY, "documents": ["x" * 200_000]})
    assert (
        client.post("/v1/rerank", content=large, headers={"Content-Type": "application/json"}).status_code
        == 413
    )
    pieces = client.post(
        "/v1/rerank", content=(b"x" * 50_000 for _ in range(5)), headers={"Content-Type": "application/json"}
    )
    assert pieces.status_code == 413
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/nothing").status_code == 404
    for path in ("/%C3%A9", "/x%23y", "/x%3Fy", "/%20", "/x?y=%C3%A9#z"):
        assert client.get(path).status_code == 404
        assert client.get(path, headers={"Authorization": "no"}).status_code == 401
    assert client.head("/ready?from=balancer").status_code == 200
    # One scrape tells of all replicas, behind the same keys.
    assert client.get("/metrics", headers={"Authorization": "no"}).status_code == 401
    samples = [
        line
        for line in client.get("/metrics").text.splitlines()
        if line.startswith("rerank_documents_total{")
    ]
    assert sum(float(line.rpartition(" ")[2]) for line in samples) == 2 * len(DOCUMENTS)
    assert len(set(re.findall(r'replica="(\w+)"', client.get("/metrics").text))) == 2


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait for what must come about; the limit only ends a test that fails."""
    end = time.monotonic() + 300
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_replica_that_is_killed_costs_no_request(client: httpx.Client, bundled: CrossEncoderScorer) -> None:
    wanted = [expect(bundled, DOCUMENTS[i:]) for i in range(len(DOCUMENTS))]
    replicas = pids_of(":Replica")
    assert len(replicas) == 2
    done, wrong = [0] * 8, []
    stop = threading.Event()

    def call(caller: int) -> None:
        while not stop.is_set():
            start = (caller + done[caller]) % len(DOCUMENTS)
            try:
                got = rerank(client, DOCUMENTS[start:])
                np.testing.assert_allclose([got[i] for i in range(len(got))], wanted[start], atol=1e-4)
            except Exception as error:
                wrong.append(error)
            done[caller] += 1

    callers = [threading.Thread(target=call, args=(i,)) for i in range(len(done))]
    for caller in callers:
        caller.start()

    def wait_for(more: int) -> None:
        least = [count + more for count in done]
        wait_until(lambda: all(count >= one for count, one in zip(done, least, strict=True)))

    try:
        wait_for(3)
        os.kill(replicas[0], signal.SIGKILL)
        wait_for(5)
        # The one that was left alone dies too; whatever is inside waits for its successor.
        wait_until(lambda: len(pids_of(":Replica")) == 2)
        os.kill(replicas[1], signal.SIGKILL)
        wait_for(5)
    finally:
        stop.set()
        for caller in callers:
            caller.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/", b""),
        ("/v1/rerank", b""),
        ("/é", b""),
        ("/x#y", b""),
        ("/a?b/%41 c", b"a=%C3%A9&b"),
        ("//x", b"a?b"),
        ("/x", b"\xc3\xa9#z \x00"),
    ],
)
def test_the_application_gets_the_path_that_the_front_got(path: str, query: bytes) -> None:
    url = url_of(Call("GET", path, query, [], b""))
    assert url.path == path
    assert url.host == "replica"
    assert unquote_to_bytes(url.query) == unquote_to_bytes(query)
    assert (b"?" in url.raw_path) == bool(query)


def test_the_yaml_is_what_ray_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = yaml.safe_load((Path(__file__).parents[2] / "deploy" / "ray-serve.yaml").read_text())
    (application,) = ServeDeploySchema.model_validate(config).applications
    monkeypatch.setenv("RERANK_SERVER_KEYS_FILE", str(tmp_path / "keys"))
    (tmp_path / "keys").write_text(f"somebody:{64 * '0'}\n")
    assert application.import_path == "rerank_plugins.serving.ray:app"
    options = Options(**application.args)
    assert app(options)
    assert options.settings().keys_file == tmp_path / "keys"


def test_nobody_is_let_in_by_accident() -> None:
    with pytest.raises(InvalidInputError, match="keys are needed"):
        Options(models="bundled").settings()
    assert Options(models="bundled", allow_unauthenticated=True).settings().models == ("bundled",)
    with pytest.raises(InvalidInputError, match="replica_count"):
        app(Options(models="bundled", keys=KEY, replica_count=3))


def test_metrics_of_replicas_are_told_apart() -> None:
    text = '# HELP a_total A.\n# TYPE a_total counter\na_total{model="m"} %d\n'
    joined = join({"one": text % 1, "two": text % 2}).decode()
    assert joined.count("# TYPE") == 1
    assert 'a_total{model="m",replica="one"} 1.0' in joined
    assert 'a_total{model="m",replica="two"} 2.0' in joined
