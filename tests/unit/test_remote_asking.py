"""The small decisions of `RemoteScorer`: how long to wait, where to ask, what to quote."""

import gzip
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import pytest

from rerank_plugins import RemoteError, RemoteScorer
from rerank_plugins.scoring.remote import hosts as hosts_module
from rerank_plugins.scoring.remote import transport
from rerank_plugins.scoring.remote.asking import _message, _retry_after, _root
from rerank_plugins.scoring.remote.hosts import Hosts
from tests import rerank_server as faults
from tests.rerank_server import RerankServer, rerank_server, true_logit


@pytest.fixture
def server() -> Iterator[RerankServer]:
    with rerank_server() as running:
        yield running


@pytest.mark.parametrize(
    ("base", "path", "url"),
    [
        ("http://a", "/v1/rerank", "http://a/v1/rerank"),
        ("http://a/v1", "/v1/rerank", "http://a/v1/rerank"),
        ("http://a/v1/rerank", "/v1/rerank", "http://a/v1/rerank"),
        ("http://a/proxy/v1", "/v1/rerank", "http://a/proxy/v1/rerank"),
        ("http://a/my-v1", "/v1/rerank", "http://a/my-v1/v1/rerank"),
        ("http://a/rerank", "/rerank", "http://a/rerank"),
        ("http://a/proxy", "/rerank", "http://a/proxy/rerank"),
    ],
)
def test_a_base_url_may_hold_the_start_of_the_path(base: str, path: str, url: str) -> None:
    assert _root(base, path) + path == url


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("3", 3.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("soon", None),
        ("inf", None),
        ("nan", None),
        ("", None),
    ],
)
def test_retry_after_in_seconds(value: str | None, seconds: float | None) -> None:
    assert _retry_after(value) == seconds


def test_retry_after_as_a_date() -> None:
    soon = datetime.now(UTC) + timedelta(seconds=100)
    assert 90 < (_retry_after(format_datetime(soon, usegmt=True)) or 0) <= 100
    assert _retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert _retry_after("Wed, 21 Oct 2015 07:28:00 -0000") == 0.0


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"message": "cohere", "id": "1"}', "cohere"),
        (b'{"detail": "jina"}', "jina"),
        (b'{"detail": [{"msg": "fastapi", "input": "private text"}]}', "fastapi"),
        (b'{"error": {"message": "vllm", "type": "x"}}', "vllm"),
        (b'{"error": "tei", "error_type": "Validation"}', "tei"),
        (b"<html>\n  proxy </html>", "<html> proxy </html>"),
        (b'{"other": 1}', '{"other": 1}'),
        (b"\xff", "\N{REPLACEMENT CHARACTER}"),
        (b"", ""),
        (b"[" * 50_000, "[" * 50_000),
    ],
)
def test_the_sentence_of_an_error_is_found(body: bytes, message: str) -> None:
    assert _message(body) == message


def test_a_failed_host_is_last_until_it_should_be_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(hosts_module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    hosts = Hosts(("a", "b"), cooldown=60)
    assert hosts.pick() == "a"
    hosts.failed("a", None)
    assert hosts.pick() == "b"
    assert hosts.another_is_up("a")
    assert not hosts.another_is_up("b")
    hosts.failed("b", 0.05)
    assert not hosts.another_is_up("b")
    assert hosts.pick() == "b", "the one that is back first"
    clock[0] += 0.06
    assert hosts.another_is_up("a")
    hosts.worked("a")
    assert hosts.pick() == "a"
    hosts.failed("a", 10**9)
    assert hosts._down_until["a"] == clock[0] + 60, "no server can switch itself off for ever"


def test_a_reply_without_end_is_cut_off(server: RerankServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_MAX_REPLY_BYTES", 1000)
    server.always = lambda handler, answer: handler.send(b" " * 5000)
    with RemoteScorer(server.url) as scorer, pytest.raises(RemoteError, match="must be at most 1000 bytes"):
        scorer.score("q", ["a"])
    assert len(server.requests) == 1


def test_compressed_replies_are_read_and_broken_ones_asked_again(server: RerankServer) -> None:
    def packed(handler: faults._Handler, answer: object) -> None:
        handler.send(gzip.compress(json.dumps(answer).encode()), headers={"Content-Encoding": "gzip"})

    def broken(handler: faults._Handler, answer: object) -> None:
        handler.send(b"no gzip at all", headers={"Content-Encoding": "gzip"})

    server.faults.extend([broken, packed])
    with RemoteScorer(server.url, dialect="vllm", backoff=0.0) as scorer:
        assert scorer.score("q", ["a"]).tolist() == [true_logit("q", "a")]
    assert len(server.requests) == 2


def test_json_that_is_too_deep_is_no_reply(server: RerankServer) -> None:
    server.always = lambda handler, answer: handler.send(b"[" * 200_000)
    with (
        RemoteScorer(server.url, max_retries=1, backoff=0.0) as scorer,
        pytest.raises(RemoteError, match=r"2 attempts.*the reply is no JSON"),
    ):
        scorer.score("q", ["a"])


def test_pauses_grow_and_stay_within_their_limit(
    server: RerankServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "rerank_plugins")
    server.always = faults.status(503)
    with (
        RemoteScorer(server.url, backoff=0.02, max_pause=0.05, max_retries=4) as scorer,
        pytest.raises(RemoteError, match="5 attempts"),
    ):
        scorer.score("q", ["a"])
    pauses = [record.args[0] for record in caplog.records if "asking again" in record.message]  # type: ignore[index]
    assert len(pauses) == 4
    assert 0.02 <= pauses[0] <= 0.04
    assert pauses[-1] == 0.05
