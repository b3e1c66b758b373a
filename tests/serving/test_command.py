"""`rerank-plugins serve` and `new-key`, as processes."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from rerank_plugins.cli.serve import add_key
from tests.serving.live import post
from tests.serving.test_faults import send, wait_until

GOOD = {"query": "who wrote Faust?", "documents": ["A fist is a hand.", "Goethe wrote Faust."]}
COMMAND = [sys.executable, "-m", "rerank_plugins"]
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "120"}


class Running:
    """A server process, and what it logs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(iter(self.process.stderr.readline, ""))

    @property
    def url(self) -> str:
        found = re.search(r"running on (http://[\w.:]+)", "".join(self.lines))
        return found[1] if found else ""

    def wait(self) -> int:
        status = self.process.wait(300)
        self._reader.join()
        return status


@contextmanager
def serving(*arguments: str, **environment: str) -> Iterator[Running]:
    process = subprocess.Popen(
        [*COMMAND, "serve", "-m", "bundled", "--port", "0", "--device", "cpu", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT | environment,
    )
    running = Running(process)
    try:
        wait_until(lambda: running.url or process.poll() is not None)
        yield running
    finally:
        process.kill()
        running.wait()


def test_it_serves_logs_and_drains(tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    made = subprocess.run(
        [*COMMAND, "new-key", "tests", "--keys-file", str(keys)], capture_output=True, text=True, check=True
    )
    key = made.stdout.strip()
    assert made.stderr == ""
    assert key not in keys.read_text()
    assert keys.stat().st_mode & 0o077 == 0

    options = ("--keys-file", str(keys), "--alias", "*=bundled", "--max-body-bytes", "2000000")
    with serving(*options) as running:
        headers = {"Authorization": f"Bearer {key}", "X-Request-ID": "first"}
        with httpx.Client(base_url=running.url, headers=headers, timeout=600) as client:
            reply = client.post("/v2/rerank", json=GOOD | {"model": "rerank-v3.5"})
            assert reply.json()["results"][0]["index"] == 1
            assert post(f"{running.url}/v2/rerank", json=GOOD).status_code == 401
            drain(running, client, headers)
        assert running.wait() == 0
    logged = [json.loads(line) for line in running.lines]
    requests = [line for line in logged if line["message"] == "request"]
    assert requests[0] | {"time": 0, "ms": 0, "queue_ms": 0, "compute_ms": 0} == {
        "time": 0,
        "level": "info",
        "logger": "rerank_plugins.serving.requests",
        "message": "request",
        "request_id": "first",
        "method": "POST",
        "path": "/v2/rerank",
        "status": 200,
        "ms": 0,
        "caller": "tests",
        "dialect": "rerank",
        "model": "bundled",
        "documents": 2,
        "tokens": 24,
        "truncated": 0,
        "queue_ms": 0,
        "compute_ms": 0,
    }
    assert "Faust" not in "".join(running.lines)
    assert key not in "".join(running.lines)


def drain(running: Running, client: httpx.Client, headers: dict[str, str]) -> None:
    """Stop a server while a request is inside: it is finished, and what comes meanwhile is sent away."""
    content = json.dumps(GOOD).encode()
    head = (
        f"POST /v1/rerank HTTP/1.1\nHost: a\nAuthorization: {headers['Authorization']}\n"
        f"Content-Type: application/json\nContent-Length: {len(content)}\nExpect: 100-continue"
    )
    with send(client, head) as inside:
        assert inside.recv(100).startswith(b"HTTP/1.1 100"), "the server waits for the body"
        running.process.send_signal(signal.SIGTERM)
        wait_until(lambda: client.get("/ready").status_code == 503)
        assert client.get("/ready").json() == {"status": "draining"}
        assert client.get("/health").status_code == 200
        refused = client.post("/v1/rerank", json=GOOD)
        assert refused.status_code == 503
        assert refused.headers["Retry-After"] == "1"
        inside.sendall(content)
        assert inside.recv(100).startswith(b"HTTP/1.1 200")


def test_draining_ends_in_time() -> None:
    with (
        serving("--drain-seconds", "0.2") as running,
        httpx.Client(base_url=running.url, timeout=600) as client,
    ):
        head = "POST /v1/rerank HTTP/1.1\nHost: a\nContent-Type: application/json\nContent-Length: 1000"
        with send(client, head, b'{"query": '):
            wait_until(lambda: client.get("/health").status_code == 200)
            running.process.send_signal(signal.SIGTERM)
            assert running.wait() == 0


def failing(*arguments: str) -> str:
    done = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, env=ENVIRONMENT, check=False
    )
    assert done.returncode in (2, 3)
    return f"{done.returncode} {done.stderr.splitlines()[-1]}"


def test_what_cannot_be_served(tmp_path: Path) -> None:
    exposed = failing("serve", "-m", "bundled", "--host", "0.0.0.0", "--port", "0")
    assert exposed.startswith("2 rerank-plugins: host '0.0.0.0'")
    assert failing("serve", "-m", str(tmp_path), "--port", "0").startswith("3 rerank-plugins: ")
    assert "not-there" in failing("serve", "-m", "bundled", "--keys-file", "not-there")
    keys = tmp_path / "keys.txt"
    subprocess.run([*COMMAND, "new-key", "a", "--keys-file", str(keys)], check=True, capture_output=True)
    assert "named 'a' already" in failing("new-key", "a", "--keys-file", str(keys))
    assert "cannot: No such file" in failing("new-key", "a", "--keys-file", str(tmp_path / "no" / "keys.txt"))


def test_a_key_gets_a_line_of_its_own(tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    add_key("alice", keys)
    keys.write_text(keys.read_text().removesuffix("\n"))  # as some editors leave it
    add_key("bob", keys)
    assert [line.partition(":")[0] for line in keys.read_text().splitlines()] == ["alice", "bob"]
