"""A small rerank server that speaks the dialects, and misbehaves as told: a real socket, no model."""

import json
import math
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# Given what would be answered, does something else; returns what to answer instead, or None if it is done.
Fault = Callable[["_Handler", Any], Any]


def true_logit(query: str, text: str) -> float:
    """Return the right score: any of -10 to 10 in steps of 1/64, which float32 holds exactly."""
    return zlib.crc32(f"{query}\n{text}".encode()) % 1281 / 64 - 10


@dataclass
class RerankServer:
    """What was asked, and what to do wrong next; faults are used up, one a request."""

    url: str = ""
    faults: deque[Fault] = field(default_factory=deque)
    always: Fault | None = None
    requests: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    most: int = 10**9
    info: Any = field(default_factory=lambda: {"model_id": "m", "max_client_batch_size": 4})
    name_scale: bool = False
    in_air: int = 0
    most_in_air: int = 0
    released: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @property
    def state(self) -> RerankServer:
        return self.server.state  # type: ignore[attr-defined,no-any-return]

    def do_GET(self) -> None:
        self.reply(self.state.info)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        state = self.state
        with state.lock:
            state.requests.append(body | {"path": self.path})
            state.times.append(time.monotonic())
            state.headers.append(dict(self.headers))
            fault = state.faults.popleft() if state.faults else state.always
            state.in_air += 1
            state.most_in_air = max(state.most_in_air, state.in_air)
        try:
            texts = body["texts"] if "texts" in body else body["documents"]
            answer: Any = self.answer(body, texts)
            if len(texts) > state.most:
                self.reply({"error": "batch too large", "error_type": "Validation"}, 413)
                return
            if fault is not None:
                answer = fault(self, answer)
            if answer is not None:
                self.reply(answer)
        finally:
            with state.lock:
                state.in_air -= 1

    def answer(self, body: dict[str, Any], texts: list[str]) -> Any:
        raw = body.get("raw_scores") or body.get("use_activation") is False
        logits = [true_logit(body["query"], text) for text in texts]
        scores = logits if raw else [1 / (1 + math.exp(-x)) for x in logits]
        name = "score" if "texts" in body else "relevance_score"
        rows = [{"index": i, name: score} for i, score in enumerate(scores)]
        rows.sort(key=lambda row: -float(row[name]))
        if "texts" in body:
            return rows
        whole = {"id": "1", "results": rows, "data": rows, "usage": {"total_tokens": 3 * len(rows)}}
        return whole | ({"scale": "logit" if raw else "probability"} if self.state.name_scale else {})

    def reply(self, answer: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send(json.dumps(answer).encode(), status, headers)

    def send(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def hang_up(self) -> None:
        self.close_connection = True

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *args: Any) -> None:
        """Say nothing of clients that hang up."""


@contextmanager
def rerank_server() -> Iterator[RerankServer]:
    """Serve on a free port of this machine."""
    server = _Server(("127.0.0.1", 0), _Handler)
    state = RerankServer(f"http://127.0.0.1:{server.server_address[1]}")
    server.state = state  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def status(code: int, **headers: str) -> Fault:
    """Answer with an error."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    def fail(handler: _Handler, _: Any) -> None:
        handler.reply({"message": f"sorry, {code}"}, code, named)

    return fail


def drop(handler: _Handler, _: Any) -> None:
    """Close the connection without a word."""
    handler.hang_up()


def half(handler: _Handler, answer: Any) -> None:
    """Promise a body and send half of it."""
    body = json.dumps(answer).encode()
    handler.send(body[: len(body) // 2], headers={"Content-Length": str(len(body))})
    handler.hang_up()


def half_without_length(handler: _Handler, answer: Any) -> None:
    """Send half of a body whose end is the end of the connection."""
    body = json.dumps(answer).encode()
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2])
    handler.hang_up()


def html(handler: _Handler, _: Any) -> None:
    """Answer like a proxy that does not know better."""
    handler.send(b"<html><body>Please sign in</body></html>", headers={"Content-Type": "text/html"})


def stall(handler: _Handler, _: Any) -> None:
    """Never answer."""
    handler.state.released.wait(30)
    handler.hang_up()


def drip(handler: _Handler, _: Any) -> None:
    """Send a byte now and then, for ever."""
    handler.send(b" ", headers={"Content-Length": "1000000"})
    while not handler.state.released.wait(0.02):
        try:
            handler.wfile.write(b" ")
        except OSError:
            break
    handler.hang_up()


def slowly(handler: _Handler, answer: Any) -> Any:
    """Answer, but not at once."""
    handler.state.released.wait(0.1)
    return answer


def changed(change: Callable[[list[dict[str, Any]]], Any]) -> Fault:
    """Change the list of results."""

    def apply(_: _Handler, answer: Any) -> Any:
        rows = answer if isinstance(answer, list) else answer["results"]
        new = change([dict(row) for row in rows])
        return new if isinstance(answer, list) else answer | {"results": new, "data": new}

    return apply


def instead(answer: Any) -> Fault:
    """Answer something else."""
    return lambda _handler, _answer: answer


# What another attempt may mend.
TRANSIENT: dict[str, Fault] = {
    "drop": drop,
    "half": half,
    "half without length": half_without_length,
    "html": html,
    **{str(code): status(code) for code in (429, 500, 502, 503, 504)},
    "429 with Retry-After": status(429, Retry_After="0"),
}
