"""`RemoteScorer` against a server that behaves, and one that does not."""

import asyncio
import copy
import json
import logging
import multiprocessing
import os
import pickle
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rerank_plugins import (
    InvalidInputError,
    RemoteError,
    RemoteScorer,
    Reranker,
    ScorerClosedError,
    ScoringError,
)
from rerank_plugins.calibration import PLAIN
from rerank_plugins.scoring.protocol import DetailedScorer
from rerank_plugins.scoring.remote.dialects import DIALECTS, _logits
from tests import rerank_server as faults
from tests.rerank_server import TRANSIENT, RerankServer, rerank_server, true_logit

QUERY = "who wrote Faust?"
TEXTS = [f"passage {i}" for i in range(10)]
DIALECT = pytest.mark.parametrize("dialect", list(DIALECTS))
# Enough for a test, and no pauses.
QUICK: dict[str, Any] = {"backoff": 0.0, "max_pause": 0.0}


@pytest.fixture
def server() -> Iterator[RerankServer]:
    with rerank_server() as running:
        yield running


def expected(query: str, texts: list[str]) -> list[float]:
    return [true_logit(query, text) for text in texts]


@DIALECT
@pytest.mark.parametrize("given", ["", "/", "start", "whole"])
async def test_every_dialect_gives_the_servers_scores(dialect: str, given: str, server: RerankServer) -> None:
    path = DIALECTS[dialect].path  # type: ignore[index]
    base = {"start": path.rpartition("/")[0], "whole": path}.get(given, given)
    with RemoteScorer(server.url + base, dialect=dialect, model="m") as scorer:
        assert isinstance(scorer, DetailedScorer)
        found = scorer.score(QUERY, TEXTS)
        assert found.dtype == np.float32
        assert found.tolist() == pytest.approx(expected(QUERY, TEXTS), abs=1e-5)
        assert (await scorer.ascore(QUERY, TEXTS)).tolist() == found.tolist()
        assert {request["path"] for request in server.requests} == {DIALECTS[dialect].path}  # type: ignore[index]
        assert all(request["model"] == "m" and "top_n" not in request for request in server.requests)


@DIALECT
def test_the_reranker_reports_the_servers_own_scores(dialect: str, server: RerankServer) -> None:
    with RemoteScorer(server.url, dialect=dialect) as scorer:
        ranking = Reranker(scorer).rank(QUERY, TEXTS)
    by_index = {ranked.index: ranked.score for ranked in ranking}
    probabilities = [1 / (1 + np.exp(-logit)) for logit in expected(QUERY, TEXTS)]
    assert [by_index[i] for i in range(len(TEXTS))] == pytest.approx(probabilities, abs=1e-7)
    assert [r.index for r in ranking] == sorted(range(10), key=lambda i: -probabilities[i])
    assert ranking.stats.tokens == (0 if dialect == "tei" else 30)
    assert ranking.stats.device == "remote"


def test_many_documents_go_in_several_requests_and_come_back_in_order(server: RerankServer) -> None:
    texts = [f"text {i}" for i in range(101)]
    with RemoteScorer(server.url, dialect="vllm", max_documents=7, max_concurrency=3) as scorer:
        server.always = faults.slowly
        assert scorer.score(QUERY, texts).tolist() == expected(QUERY, texts)
        assert asyncio.run(scorer.ascore(QUERY, texts)).tolist() == expected(QUERY, texts)
    assert sorted(len(r["documents"]) for r in server.requests) == [3, 3, *[7] * 28]
    assert 1 < server.most_in_air <= 3


def test_all_threads_together_keep_to_the_concurrency(server: RerankServer) -> None:
    server.always = faults.slowly
    found: dict[int, list[float]] = {}
    with RemoteScorer(server.url, dialect="vllm", max_concurrency=2) as scorer:

        def work(i: int) -> None:
            found[i] = scorer.score(f"query {i}", TEXTS).tolist()

        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {i: expected(f"query {i}", TEXTS) for i in range(8)}
    assert 1 < server.most_in_air <= 2


def test_pairs_are_asked_by_query_and_keep_their_order(server: RerankServer) -> None:
    pairs = [(f"query {i % 3}", f"text {i}") for i in range(20)]
    random.Random(1).shuffle(pairs)
    with RemoteScorer(server.url, dialect="vllm") as scorer:
        assert scorer.score_pairs(pairs).tolist() == [true_logit(q, d) for q, d in pairs]
        assert scorer.score_pairs([]).shape == (0,)
    assert len(server.requests) == 3


def test_nothing_to_score_asks_nobody_and_bad_input_is_named(server: RerankServer) -> None:
    with RemoteScorer(server.url, dialect="tei") as scorer:
        assert scorer.score(QUERY, []).shape == (0,)
        with pytest.raises(InvalidInputError, match=r"documents\[1\] must be a str"):
            scorer.score(QUERY, ["a", None])  # type: ignore[list-item]
        with pytest.raises(InvalidInputError, match="lone surrogate"):
            scorer.score(QUERY, ["\ud800"])
    assert server.requests == []


def test_tei_is_asked_for_its_limit_once(server: RerankServer) -> None:
    with RemoteScorer(server.url, dialect="tei") as scorer:
        for _ in range(2):
            assert scorer.score(QUERY, TEXTS).tolist() == expected(QUERY, TEXTS)
    assert [len(r["texts"]) for r in server.requests[:3]] in ([4, 4, 2], [4, 2, 4], [2, 4, 4])
    server.info = {"model_id": "m"}
    with (
        RemoteScorer(server.url, dialect="tei") as scorer,
        pytest.raises(RemoteError, match=r"must say max_client_batch_size.*set max_documents"),
    ):
        scorer.score(QUERY, TEXTS)
    with RemoteScorer(server.url, dialect="tei", max_documents=5) as scorer:
        assert scorer.score(QUERY, TEXTS).tolist() == expected(QUERY, TEXTS)


def test_what_is_too_large_is_halved_until_it_passes(
    server: RerankServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.most = 3
    with RemoteScorer(server.url, dialect="infinity") as scorer:
        assert scorer.score(QUERY, TEXTS).tolist() == expected(QUERY, TEXTS)
        assert "asking again in halves" in caplog.text
        server.most = 0
        with pytest.raises(RemoteError, match="batch too large") as caught:
            scorer.score(QUERY, TEXTS)
    assert caught.value.status == 413
    assert caught.value.url == f"{server.url}/rerank"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    schedule=st.lists(st.sampled_from(sorted(TRANSIENT)), max_size=5),
    count=st.integers(1, 9),
    limit=st.integers(1, 12),
    dialect=st.sampled_from(sorted(DIALECTS)),
    as_async=st.booleans(),
)
def test_any_failures_within_the_retries_give_exactly_the_right_scores(
    schedule: list[str], count: int, limit: int, dialect: str, as_async: bool, server: RerankServer
) -> None:
    server.faults.clear()
    server.faults.extend(TRANSIENT[name] for name in schedule)
    texts = TEXTS[:count]
    # More failures than attempts: only if one request has to bear them all is it sure what comes of it.
    options = {**QUICK, "max_documents": limit if len(schedule) <= 3 else count, "max_retries": 3}
    with RemoteScorer(server.url, dialect=dialect, **options) as scorer:
        too_much = len(schedule) > options["max_retries"]
        failure = pytest.raises(RemoteError, match="no scores after 4 attempts")
        with failure if too_much else nullcontext():
            found = asyncio.run(scorer.ascore(QUERY, texts)) if as_async else scorer.score(QUERY, texts)
            assert found.tolist() == pytest.approx(expected(QUERY, texts), abs=1e-5)


WRONG: dict[str, tuple[faults.Fault, str]] = {
    "one less": (faults.changed(lambda rows: rows[:-1]), "returned 9 results for 10 documents"),
    "one more": (faults.changed(lambda rows: [*rows, rows[0]]), "returned 11 results for 10 documents"),
    "nothing": (faults.changed(lambda _: []), "returned 0 results for 10 documents"),
    "doubled": (faults.changed(lambda rows: [*rows[:-1], rows[0]]), "two results for document"),
    "out of range": (faults.changed(lambda rows: [*rows[1:], {**rows[0], "index": 10}]), "from 0 to 9"),
    "negative": (faults.changed(lambda rows: [*rows[1:], {**rows[0], "index": -1}]), "from 0 to 9"),
    "index as text": (
        faults.changed(lambda rows: [{**row, "index": str(row["index"])} for row in rows]),
        "index",
    ),
    "index as truth": (faults.changed(lambda rows: [{**row, "index": True} for row in rows]), "index"),
    "no index": (faults.changed(lambda rows: [{"relevance_score": 1.0} for _ in rows]), "must have an index"),
    "no objects": (faults.changed(lambda rows: [1.0 for _ in rows]), "must have an index"),
    "null list": (faults.changed(lambda _: {}), "must be"),
    **{
        f"score {score}": (
            faults.changed(
                lambda rows, score=score: [{**row, "relevance_score": score, "score": score} for row in rows]  # type: ignore[misc]
            ),
            "finite number",
        )
        for score in (float("nan"), float("inf"), 1e39, None, "0.5", True, 10**400)
    },
    "a list": (faults.instead([1, 2]), "must be|2 results for 10"),
    "null": (faults.instead({}), "must be"),
    "a text": (faults.instead("ok"), "must be"),
}


def test_parts_of_a_failed_call_ask_no_more(server: RerankServer) -> None:
    refused = threading.Event()

    def refuse(handler: Any, answer: Any) -> Any:
        refused.set()
        return faults.status(400)(handler, answer)

    def fail_after(handler: Any, answer: Any) -> Any:
        refused.wait(10)
        return faults.status(503)(handler, answer)

    server.faults.extend([fail_after, fail_after, refuse])
    server.always = faults.status(503)
    with RemoteScorer(server.url, max_documents=2, max_concurrency=3, max_retries=5, backoff=0.5) as scorer:
        with pytest.raises(RemoteError, match="400"):
            scorer.score(QUERY, TEXTS[:6])
        scorer._transport._open_threads().shutdown(wait=True)
    assert len(server.requests) == 3


def test_what_about_a_reply_is_nonsense(server: RerankServer) -> None:
    def with_scale(handler: Any, answer: Any) -> Any:
        return answer | {"scale": {}}

    def with_tokens(handler: Any, answer: Any) -> Any:
        return answer | {"usage": {"total_tokens": 10**400}}

    with RemoteScorer(server.url, **QUICK) as scorer:
        server.always = with_tokens
        assert scorer.score_detailed(QUERY, TEXTS).tokens == 0
        server.always = with_scale
        with pytest.raises(RemoteError, match="scale must be"):
            scorer.score(QUERY, TEXTS)


def test_what_keeps_a_client_from_being_made_is_told(
    server: RerankServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidInputError, match="name of a header"):
        RemoteScorer(server.url, headers={"ü": "x"})
    monkeypatch.setenv("HTTP_PROXY", "http://:bad:port")
    with RemoteScorer(server.url, **QUICK) as scorer:
        with pytest.raises(RemoteError, match="HTTP_PROXY"):
            scorer.score(QUERY, TEXTS)
        with pytest.raises(RemoteError, match="HTTP_PROXY"):
            asyncio.run(scorer.ascore(QUERY, TEXTS))


@pytest.mark.parametrize("wrong", list(WRONG))
@pytest.mark.parametrize("dialect", ["jina", "tei", "vllm"])
def test_a_wrong_reply_is_an_error_and_never_a_score(wrong: str, dialect: str, server: RerankServer) -> None:
    server.always, message = WRONG[wrong]
    with (
        RemoteScorer(server.url, dialect=dialect, max_documents=10, **QUICK) as scorer,
        pytest.raises(RemoteError, match=message) as caught,
    ):
        scorer.score(QUERY, TEXTS)
    assert len(server.requests) == 1, "what is wrong stays wrong"
    assert caught.value.status == 200


def test_shuffled_replies_are_put_in_order(server: RerankServer) -> None:
    server.always = faults.changed(lambda rows: random.Random(2).sample(rows, len(rows)))
    with RemoteScorer(server.url, dialect="vllm") as scorer:
        assert scorer.score(QUERY, TEXTS).tolist() == expected(QUERY, TEXTS)


@pytest.mark.parametrize("code", [400, 401, 403, 404, 409, 422, 424, 301])
def test_a_refusal_is_not_asked_again(code: int, server: RerankServer) -> None:
    server.always = faults.status(code, Location="/elsewhere")
    with (
        RemoteScorer(server.url, **QUICK) as scorer,
        pytest.raises(RemoteError, match=f"{code} sorry") as caught,
    ):
        scorer.score(QUERY, TEXTS)
    assert caught.value.status == code
    assert isinstance(caught.value, ScoringError)
    assert len(server.requests) == 1


def test_retry_after_is_waited_for(server: RerankServer) -> None:
    server.faults.append(faults.status(429, Retry_After="1"))
    with RemoteScorer(server.url, dialect="vllm", backoff=0.0) as scorer:
        assert scorer.score(QUERY, TEXTS).tolist() == expected(QUERY, TEXTS)
    assert server.times[1] - server.times[0] >= 0.99


def test_a_pause_beyond_the_deadline_is_not_begun(server: RerankServer) -> None:
    server.always = faults.status(503, Retry_After="60")
    with (
        RemoteScorer(server.url, deadline=20.0, max_pause=100.0) as scorer,
        pytest.raises(RemoteError, match=r"1 attempt within the deadline of 20 s.*503"),
    ):
        scorer.score(QUERY, TEXTS)


@pytest.mark.parametrize("as_async", [False, True])
@pytest.mark.parametrize("fault", [faults.stall, faults.drip])
def test_a_server_that_does_not_finish_is_given_up(
    fault: faults.Fault, as_async: bool, server: RerankServer
) -> None:
    server.always = fault
    with (
        RemoteScorer(server.url, deadline=0.5, timeout=5.0, **QUICK) as scorer,
        pytest.raises(RemoteError, match=r"deadline of 0\.5 s") as caught,
    ):
        asyncio.run(scorer.ascore(QUERY, TEXTS)) if as_async else scorer.score(QUERY, TEXTS)
    assert caught.value.status is None


def test_a_timeout_is_tried_again(server: RerankServer) -> None:
    server.faults.append(faults.stall)
    with RemoteScorer(server.url, dialect="vllm", timeout=0.5, **QUICK) as scorer:
        assert scorer.score(QUERY, TEXTS).tolist() == expected(QUERY, TEXTS)
    assert len(server.requests) >= 2


def test_nobody_there() -> None:
    with RemoteScorer("http://127.0.0.1:9", **QUICK) as scorer:
        with pytest.raises(
            RemoteError, match=r"no scores after 4 attempts; last, http://127\.0\.0\.1:9/v1/rerank"
        ):
            scorer.score(QUERY, TEXTS)
        kept = Reranker(scorer, on_error="keep_order").rank(QUERY, TEXTS)
    assert not kept.reranked
    assert "no scores after 4 attempts" in (kept.reason or "")
    assert [ranked.text for ranked in kept] == TEXTS


def test_another_server_takes_over_and_is_remembered(server: RerankServer) -> None:
    urls = ["http://127.0.0.1:9", server.url]
    with RemoteScorer(urls, dialect="vllm", max_pause=100.0, backoff=50.0) as scorer:
        for _ in range(3):  # no pause: the other is up
            assert scorer.score(QUERY, TEXTS).tolist() == expected(QUERY, TEXTS)
    with rerank_server() as first:
        first.faults.append(faults.status(500))
        with RemoteScorer([first.url, server.url], dialect="vllm", backoff=50.0, max_pause=100.0) as scorer:
            for _ in range(3):
                assert scorer.score(QUERY, TEXTS).tolist() == expected(QUERY, TEXTS)
        assert len(first.requests) == 1
        with RemoteScorer([first.url, server.url], dialect="vllm", cooldown=0.0, **QUICK) as scorer:
            first.faults.append(faults.status(503))
            for _ in range(3):
                scorer.score(QUERY, TEXTS)
        assert len(first.requests) >= 3, "it is asked again after the cooldown"


@pytest.mark.parametrize("as_async", [False, True])
def test_one_failing_request_of_many_fails_the_call(as_async: bool, server: RerankServer) -> None:
    texts = [f"text {i}" for i in range(40)]
    server.faults.extend([faults.slowly, faults.slowly, faults.status(500)])
    with (
        RemoteScorer(server.url, max_documents=2, max_retries=0, **QUICK) as scorer,
        pytest.raises(RemoteError, match=r"1 attempt; .* 500"),
    ):
        asyncio.run(scorer.ascore(QUERY, texts)) if as_async else scorer.score(QUERY, texts)


async def test_cancelling_drops_the_requests(server: RerankServer) -> None:
    server.always = faults.stall
    with RemoteScorer(server.url, max_documents=1) as scorer:
        task = asyncio.create_task(scorer.ascore(QUERY, TEXTS))
        async with asyncio.timeout(60):
            while not server.requests:
                await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        server.always = None
        assert len(await scorer.ascore(QUERY, TEXTS)) == 10


LOOPS = """
import asyncio, gc, sys, threading
from rerank_plugins import RemoteScorer

async def used_and_closed(n):
    with RemoteScorer(sys.argv[1], max_documents=1) as scorer:
        await scorer.ascore("q", list("abcdefgh"))
    for _ in range(n):
        await asyncio.sleep(0)

for n in range(6):  # at its end, a loop is as far as it may be with closing
    asyncio.run(used_and_closed(n))

shared = RemoteScorer(sys.argv[1])
def work():
    for _ in range(3):
        assert len(asyncio.run(shared.ascore("q", ["a", "b"]))) == 2
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
gc.collect()

print(len(shared._transport._of_loops))
"""


def test_event_loops_come_and_go_and_nothing_stays_open(server: RerankServer) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "always::ResourceWarning", "-c", LOOPS, server.url],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert int(done.stdout) <= 3


async def test_closed_is_closed(server: RerankServer) -> None:
    scorer = RemoteScorer(server.url)
    await scorer.ascore(QUERY, TEXTS)
    client = next(iter(scorer._transport._of_loops.values())).client
    scorer.score(QUERY, TEXTS)
    scorer.close()
    scorer.close()
    async with asyncio.timeout(60):
        while not client.is_closed:
            await asyncio.sleep(0.05)
    assert scorer.closed
    assert "closed" in repr(scorer)
    for documents in (TEXTS, []):
        with pytest.raises(ScorerClosedError):
            scorer.score(QUERY, documents)
        with pytest.raises(ScorerClosedError):
            await scorer.ascore(QUERY, documents)


def test_closing_under_a_call_ends_it(server: RerankServer) -> None:
    server.always = faults.slowly
    scorer = RemoteScorer(server.url, max_documents=1, max_concurrency=1, **QUICK)
    errors: list[Exception] = []

    def work() -> None:
        try:
            scorer.score(QUERY, [f"text {i}" for i in range(200)])
        except ScoringError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while len(server.requests) < 2 and thread.is_alive():
        time.sleep(0.01)
    scorer.close()
    thread.join(timeout=20)
    assert [type(error) for error in errors] == [ScorerClosedError]


def test_a_threshold_of_a_servers_own_probability_keeps_the_document() -> None:
    scores = [i / 100 for i in range(101)]
    found = _logits(np.array(scores), "probability")
    assert found.dtype == np.float32
    probabilities = PLAIN.apply(found)
    assert (probabilities >= scores).all()
    np.testing.assert_allclose(probabilities, scores, atol=1e-7)


def test_probabilities_become_logits_that_keep_their_order(server: RerankServer) -> None:
    given_scores = [0.0, 1e-30, 1e-12, 0.1, 0.5, 0.9, 1 - 1e-12, 1 - 2**-53, 1.0]
    server.always = faults.instead(
        {"results": [{"index": i, "relevance_score": p} for i, p in enumerate(given_scores)]}
    )
    with RemoteScorer(server.url) as scorer:
        logits = scorer.score(QUERY, TEXTS[:9])
        assert logits[[0, 1, -1]].tolist() == [-40.0, -40.0, 40.0]
        assert (np.diff(logits)[1:] > 0).all()
        ranking = Reranker(scorer).rank(QUERY, TEXTS[:9])
        assert {r.index: r.score for r in ranking} == pytest.approx(dict(enumerate(given_scores)), abs=3e-8)


def test_a_reply_that_names_its_scale_is_believed(server: RerankServer) -> None:
    rows = [{"index": i, "relevance_score": 2.0 * i, "truncated": i == 2} for i in range(3)]
    server.always = faults.instead({"results": rows, "scale": "logit", "usage": {"total_tokens": 12}})
    with RemoteScorer(server.url) as scorer:
        scores = scorer.score_detailed(QUERY, TEXTS[:3])
        assert scores.logits.tolist() == [0.0, 2.0, 4.0]
        assert scores.truncated.tolist() == [False, False, True]
        assert scores.tokens == 12
        server.always = faults.instead({"results": rows, "scale": "stars"})
        with pytest.raises(RemoteError, match="'stars'"):
            scorer.score(QUERY, TEXTS[:3])
        server.always = faults.instead({"results": rows})
        with pytest.raises(RemoteError, match=r"must be 0 to 1, but the server returned 2.0.*scale=.logit."):
            scorer.score(QUERY, TEXTS[:3])
    with RemoteScorer(server.url, scale="logit") as scorer:
        assert scorer.score(QUERY, TEXTS[:3]).tolist() == [0.0, 2.0, 4.0]


KEY = "sk-very-secret"


def test_the_key_is_sent_and_never_shown(
    server: RerankServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    shown = []
    scorer = RemoteScorer(server.url, api_key=KEY + "\n", headers={"X-Team": "team-secret"}, **QUICK)
    scorer.score(QUERY, TEXTS)
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert server.headers[0]["X-Team"] == "team-secret"
    for code in (401, 500):
        server.always = lambda handler, _, code=code: handler.reply({"detail": f"bad key {KEY}"}, code)  # type: ignore[misc]
        with pytest.raises(RemoteError, match=r"bad key \*\*\*") as caught:
            scorer.score(QUERY, TEXTS)
        shown += [str(caught.value), repr(caught.value), caught.value.url, repr(pickle.dumps(caught.value))]
    shown += [repr(scorer), repr(scorer.settings), str(scorer.settings), scorer.settings.model_dump_json()]
    shown += [repr(scorer.info), repr(Reranker(scorer)), repr(pickle.dumps(scorer)), caplog.text]
    for wrong in (
        {"api_kye": KEY},
        {"api_key": KEY + "\x00"},
        {"api_key": [KEY]},
        {"headers": {"a": KEY + "é"}},
    ):
        with pytest.raises(InvalidInputError) as refused:
            RemoteScorer(server.url, **wrong)
        shown += [str(refused.value)]
    for nowhere in ({}, {"base_urls": []}, {"base_urls": "http://a", "timeout": -1}):
        with pytest.raises(InvalidInputError) as refused:
            RemoteScorer(api_key=KEY, headers={"X-Team": "team-secret"}, **nowhere)
        shown += [str(refused.value)]
    for text in (f"{KEY}: x", f'["{KEY}"]', f'{{"a": {{"b": "{KEY}"}}}}'):
        monkeypatch.setenv("RERANK_REMOTE_HEADERS", text)
        with pytest.raises(InvalidInputError, match="headers") as refused:
            RemoteScorer(server.url)
        shown += [str(refused.value)]
    monkeypatch.setenv("RERANK_REMOTE_HEADERS", '{"X-Team": "team-secret"}')
    assert RemoteScorer(server.url).settings.secrets == ("team-secret",)
    monkeypatch.delenv("RERANK_REMOTE_HEADERS")
    with pytest.raises(InvalidInputError, match="no user") as refused:
        RemoteScorer(server.url.replace("//", f"//me:{KEY}@"))
    shown += [str(refused.value)]
    assert not [each for each in shown if KEY in each or "team-secret" in each]

    server.always = None
    copy.deepcopy(scorer).score(QUERY, TEXTS)
    assert server.headers[-1]["Authorization"] == f"Bearer {KEY}"
    monkeypatch.setenv("RERANK_REMOTE_API_KEY", "from-the-environment")
    travelled = pickle.loads(pickle.dumps(scorer))
    travelled.score(QUERY, TEXTS)
    assert server.headers[-1]["Authorization"] == "Bearer from-the-environment"


def test_settings_come_from_the_environment_and_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInputError, match="base_urls"):
        RemoteScorer()
    monkeypatch.setenv("RERANK_REMOTE_BASE_URLS", "http://a:1/, http://b:2")
    monkeypatch.setenv("RERANK_REMOTE_DIALECT", "tei")
    scorer = RemoteScorer()
    assert scorer.settings.base_urls == ("http://a:1", "http://b:2")
    assert scorer.info.engine == "remote:tei"
    assert RemoteScorer(settings=scorer.settings).settings == scorer.settings
    assert hash(scorer.settings) == hash(pickle.loads(pickle.dumps(scorer.settings)))
    for wrong in ("ftp://a", "a:8000", "http://a?x=1", [], 5):
        with pytest.raises(InvalidInputError, match="base_urls"):
            RemoteScorer(wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="dialect"):
        RemoteScorer(dialect="klingon")
    with pytest.raises(InvalidInputError, match="either settings or single options"):
        RemoteScorer("http://a", settings=scorer.settings)


def test_it_needs_neither_torch_nor_a_server_framework(server: RerankServer) -> None:
    code = (
        "import sys, json\n"
        "from rerank_plugins import RemoteScorer, Reranker\n"
        f"ranking = Reranker(RemoteScorer({server.url!r})).rank('q', ['a', 'b'])\n"
        "heavy = ['torch', 'fastapi', 'transformers', 'tokenizers', 'starlette']\n"
        "print(json.dumps([len(ranking), [name for name in heavy if name in sys.modules]]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [2, []]


def ask_in_child(scorer: RemoteScorer, queue: "multiprocessing.Queue[list[float]]") -> None:
    queue.put(scorer.score(QUERY, TEXTS).tolist())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_asks_over_connections_and_threads_of_its_own(server: RerankServer) -> None:
    context = multiprocessing.get_context("fork")
    with RemoteScorer(server.url, dialect="vllm", max_documents=5) as scorer:
        assert scorer.score(QUERY, TEXTS).tolist() == expected(QUERY, TEXTS)  # two requests, so threads
        queue = context.Queue()
        child = context.Process(target=ask_in_child, args=(scorer, queue))
        child.start()
        assert queue.get(timeout=60) == expected(QUERY, TEXTS)
        child.join(30)
        assert scorer.score(QUERY, TEXTS).tolist() == expected(QUERY, TEXTS)


def test_without_a_cooldown_there_are_still_pauses(
    server: RerankServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.faults.append(faults.status(503))
    with (
        caplog.at_level(logging.INFO, "rerank_plugins"),
        RemoteScorer(server.url, dialect="vllm", cooldown=0.0, backoff=0.02) as scorer,
    ):
        assert scorer.score(QUERY, TEXTS).tolist() == expected(QUERY, TEXTS)
    assert "asking again in 0.0" in caplog.text
    assert "asking again in 0.00" not in caplog.text
