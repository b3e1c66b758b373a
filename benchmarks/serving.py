"""The server under load, over loopback: throughput, latency, overload. Every reply is checked.

    python benchmarks/serving.py [--output benchmarks/results/serving.json]

`rerank-plugins serve --model bundled` runs in a process of its own, on the same cores as the client. Texts
have MS MARCO's lengths. Latency counts from when a request was due, not from when the client got round to it.
"""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import typer

from rerank_plugins import CrossEncoderScorer, Reranker
from rerank_plugins.bench.workload import LENGTHS, Topic, make_topics
from rerank_plugins.machine import machine

# Of a full request: some seven batches on a CPU.
FULL = 100
# Requests at once, of both sides: one is scored while the next is on its way.
CALLERS = 2
# Of a request under load: small, so that there are enough of them for a p99.
SMALL = 10
SHARES = (0.25, 0.5, 0.75, 1.0)
OVERLOAD = 3.0
# Batches of other sizes sum in another order.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Answer:
    """A reply: its status, and seconds from when it was due and from when it was sent."""

    status: int
    due: float
    sent: float


class Checked:
    """Counts replies, and compares those with scores to what they should be.

    Attributes:
        replies: How many had scores.
        wrong: How many of them had others than they should.
    """

    def __init__(self) -> None:
        self.replies = 0
        self.wrong = 0
        self._expected: dict[str, np.ndarray] = {}

    def expect(self, topic: Topic, scores: np.ndarray) -> None:
        """Remember what a topic's documents should get, in their order."""
        self._expected["\n".join([topic[0], *topic[1]])] = scores

    def check(self, topic: Topic, reply: httpx.Response) -> None:
        """Compare a reply, if it has scores."""
        if reply.status_code != 200:
            return
        results = reply.json()["results"]
        scores = np.full(len(topic[1]), np.nan)
        scores[[result["index"] for result in results]] = [result["relevance_score"] for result in results]
        self.replies += 1
        self.wrong += not np.allclose(
            scores, self._expected["\n".join([topic[0], *topic[1]])], rtol=0, atol=TOLERANCE
        )


@contextmanager
def server() -> Iterator[tuple[str, int]]:
    """Run the server; yield its URL and process id."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "rerank_plugins", "serve", "--model", "bundled", "--device", "cpu"]
    process = subprocess.Popen([*command, "--port", str(port), "--quiet"])  # noqa: S603 - of its own
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                if httpx.get(f"{url}/ready").status_code == 200:
                    break
            except httpx.TransportError:
                if process.poll() is not None:
                    raise
            time.sleep(0.1)
        yield url, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def memory(process: int) -> int:
    """Return the resident memory of a process, in MiB."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) // 1024


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Return p50, p95 and p99 in milliseconds."""
    values = np.percentile(seconds, [50, 95, 99]) if seconds else [float("nan")] * 3
    return {f"p{p}_ms": round(float(v) * 1000, 1) for p, v in zip((50, 95, 99), values, strict=True)}


def score(reranker: Reranker, topics: list[Topic], checked: Checked) -> None:
    """Score topics in this process, as many callers at once as the server has, and expect just that."""
    with ThreadPoolExecutor(CALLERS) as callers:
        rankings = callers.map(lambda topic: reranker.rank(*topic), topics)
        for topic, ranking in zip(topics, rankings, strict=True):
            scores = np.zeros(len(ranking))
            scores[[ranked.index for ranked in ranking]] = [ranked.score for ranked in ranking]
            checked.expect(topic, scores)


async def ask(client: httpx.AsyncClient, topic: Topic, due: float) -> tuple[Answer, httpx.Response]:
    """Send one request."""
    sent = time.perf_counter()
    reply = await client.post("/v1/rerank", json={"query": topic[0], "documents": topic[1]})
    done = time.perf_counter()
    return Answer(reply.status_code, done - due, done - sent), reply


async def closed(url: str, topics: list[Topic], callers: int) -> list[tuple[Topic, httpx.Response]]:
    """Let callers send requests one after the other, until all topics are answered."""
    waiting = list(reversed(topics))
    answered = []
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:

        async def caller() -> None:
            while waiting:
                topic = waiting.pop()
                _, reply = await ask(client, topic, time.perf_counter())
                reply.raise_for_status()
                answered.append((topic, reply))

        await asyncio.gather(*(caller() for _ in range(callers)))
    return answered


async def opened(
    url: str, topics: list[Topic], rate: float, seconds: float, checked: Checked
) -> list[Answer]:
    """Send requests at random times, `rate` a second, whether or not others are answered."""
    random = np.random.default_rng(round(rate * 1000))
    dues = np.cumsum(random.exponential(1 / rate, size=round(rate * seconds)))
    answers: list[Answer] = []
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        began = time.perf_counter()

        async def one(topic: Topic, due: float) -> None:
            await asyncio.sleep(began + due - time.perf_counter())
            answer, reply = await ask(client, topic, began + due)
            answers.append(answer)
            checked.check(topic, reply)

        await asyncio.gather(*(one(topics[i % len(topics)], due) for i, due in enumerate(dues.tolist())))
    return answers


def throughput(url: str, reranker: Reranker, rounds: int, requests: int, checked: Checked) -> dict[str, Any]:
    """Return documents a second through the server and in this process, by turns, on the same new texts."""
    rates: dict[str, list[float]] = {"in_process": [], "server": []}
    for number in range(rounds + 1):
        topics = make_topics(LENGTHS["msmarco"], queries=requests, candidates=FULL, seed=number)
        if number % 2:
            topics = topics[::-1]
        started = time.perf_counter()
        score(reranker, topics, checked)
        between = time.perf_counter()
        answered = asyncio.run(closed(url, topics, CALLERS))
        done = time.perf_counter()
        for topic, reply in answered:
            checked.check(topic, reply)
        if number:  # the first round warms up
            rates["in_process"].append(requests * FULL / (between - started))
            rates["server"].append(requests * FULL / (done - between))
    ratios = [there / here for there, here in zip(rates["server"], rates["in_process"], strict=True)]
    return {
        "documents_per_request": FULL,
        "callers": CALLERS,
        "rounds": {name: [round(rate, 1) for rate in found] for name, found in rates.items()},
        **{f"{name}_docs_per_second": round(float(np.median(found)), 1) for name, found in rates.items()},
        "ratio": round(float(np.median(ratios)), 3),
    }


def under_load(
    url: str, process: int, topics: list[Topic], seconds: float, checked: Checked
) -> dict[str, Any]:
    """Return capacity in small requests, latency at shares of it, and what happens beyond."""
    started = time.perf_counter()
    for topic, reply in asyncio.run(closed(url, topics, 8)):
        checked.check(topic, reply)
    capacity = len(topics) / (time.perf_counter() - started)
    rows = []
    for share in (*SHARES, OVERLOAD):
        before = memory(process)
        answers = asyncio.run(opened(url, topics, capacity * share, seconds, checked))
        accepted = [answer.due for answer in answers if answer.status == 200]
        refused = [answer.sent for answer in answers if answer.status == 429]
        rows.append(
            {
                "share": share,
                "requests": len(answers),
                "accepted": len(accepted),
                "refused": len(refused),
                "other": len(answers) - len(accepted) - len(refused),
                **percentiles(accepted),
                "refusals": percentiles(refused) if refused else None,
                "memory_mib": [before, memory(process)],
            }
        )
    return {"documents_per_request": SMALL, "capacity_requests_per_second": round(capacity, 2), "rows": rows}


def main(
    output: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    rounds: Annotated[int, typer.Option(help="Turns of throughput.")] = 4,
    requests: Annotated[int, typer.Option(help="Full requests a turn.")] = 8,
    seconds: Annotated[float, typer.Option(help="Of each load.")] = 30.0,
) -> None:
    """Measure the server."""
    checked = Checked()
    topics = make_topics(LENGTHS["msmarco"], queries=100, candidates=SMALL, seed=1000)
    with server() as (url, process):
        with CrossEncoderScorer("bundled", device="cpu") as scorer:
            reranker = Reranker(scorer)
            score(reranker, topics, checked)
            full = throughput(url, reranker, rounds, requests, checked)
            engine = {"engine": scorer.info.engine, "dtype": scorer.info.dtype}
        load = under_load(url, process, topics, seconds, checked)
    report = {
        "machine": machine(),
        "model": "bundled",
        **engine,
        "throughput": full,
        "load": load,
        "replies_checked": checked.replies,
        "replies_wrong": checked.wrong,
    }
    text = json.dumps(report, indent=2)
    typer.echo(text)
    if output is not None:
        output.write_text(text + "\n", encoding="utf-8")
    if checked.wrong:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
