"""The benchmark's parts: texts, rounds, arithmetic, reports."""

import io
import json
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from rerank_plugins import CrossEncoderScorer, InvalidInputError, ScoringError
from rerank_plugins.bench.contestants import (
    Contestant,
    PeerModel,
    Skipped,
    our_contestant,
    peer_contestant,
)
from rerank_plugins.bench.flops import needed_flops
from rerank_plugins.bench.measure import Load, Race, agreement, measure_callers, measure_tasks, race
from rerank_plugins.bench.models import make_random_checkpoint
from rerank_plugins.bench.report import Report, Result, machine, tables
from rerank_plugins.bench.run import Plan, _long_request, _requests, _topics, run_benchmark
from rerank_plugins.bench.workload import LENGTHS, make_topics, read_topics
from rerank_plugins.scoring.family import FAMILY


@pytest.mark.parametrize("name", LENGTHS)
def test_texts_have_the_lengths_they_are_named_for(bundled: CrossEncoderScorer, name: str) -> None:
    topics = make_topics(LENGTHS[name], queries=4, candidates=100, seed=5)
    pairs = [(query, document) for query, documents in topics for document in documents]
    tokens = bundled._loaded.encoder.encode(pairs).lengths
    assert tokens.mean() == pytest.approx(LENGTHS[name].mean, rel=0.08)
    assert 0.25 < tokens.std() / tokens.mean() < 0.55


def test_texts_are_the_same_for_a_seed_and_never_come_twice() -> None:
    first = make_topics(LENGTHS["msmarco"], queries=2, candidates=50, seed=1)
    assert first == make_topics(LENGTHS["msmarco"], queries=2, candidates=50, seed=1)
    second = make_topics(LENGTHS["msmarco"], queries=2, candidates=50, seed=2)
    texts = [document for topics in (first, second) for _, documents in topics for document in documents]
    assert len(set(texts)) == len(texts) == 200


def test_own_texts_are_read_and_mistakes_named(tmp_path: Path) -> None:
    path = tmp_path / "topics.jsonl"
    path.write_text('{"query": "q", "documents": ["a", "b"]}\n\n')
    assert read_topics(path) == [("q", ["a", "b"])]
    path.write_text('{"query": "q"}\n')
    with pytest.raises(InvalidInputError, match=r"topics\.jsonl:1 .*documents"):
        read_topics(path)
    for documents in ("[]", '"text"', "null", '["a", null]'):
        path.write_text(f'{{"query": "q", "documents": {documents}}}\n')
        with pytest.raises(InvalidInputError, match=r"topics\.jsonl:1 must be"):
            read_topics(path)
    path.write_text("\n")
    with pytest.raises(InvalidInputError, match="has none"):
        read_topics(path)


def test_rounds_take_own_topics_by_turns(tmp_path: Path) -> None:
    path = tmp_path / "topics.jsonl"
    path.write_text("".join(f'{{"query": "{i}", "documents": ["a", "b", "c"]}}\n' for i in range(5)))
    plan = Plan(lengths=str(path), queries=2)
    rounds = [_topics(plan, 2, number) for number in range(4)]
    assert [[query for query, _ in topics] for topics in rounds] == [
        ["0", "1"],
        ["2", "3"],
        ["4", "0"],
        ["1", "2"],
    ]
    assert rounds[0][0] == ("0", ["a", "b"])
    again = replace(plan, repeat_documents=True)
    assert _topics(again, 2, 3) == rounds[0]
    assert len(_topics(replace(plan, queries=9), 2, 0)) == 5


def test_callers_take_own_topics_by_turns(tmp_path: Path) -> None:
    path = tmp_path / "topics.jsonl"
    path.write_text("".join(f'{{"query": "{i}", "documents": ["a{i}", "b{i}"]}}\n' for i in range(3)))
    plan = Plan(lengths=str(path), caller_documents=1, background=5, repeat_documents=True)
    requests = _requests(plan, 7)
    assert len(requests) == 7
    assert dict(requests) == {"0": ["a0"], "1": ["a1"], "2": ["a2"]}
    assert _long_request(plan) == ("0", ["a0", "b0", "a1", "b1", "a2"])
    assert len(_long_request(replace(plan, background=99))[1]) == 6, "all there are"


def test_callers_ask_for_texts_as_long_as_those_of_the_rounds() -> None:
    def words(lengths: str) -> float:
        plan = Plan(lengths=lengths, background=60)
        topics = [*_requests(plan, 2), _long_request(plan)]
        return float(np.mean([len(text.split()) for _, texts in topics for text in texts]))

    assert words("rag") > 3 * words("msmarco")


class Clock:
    """A clock that scoring turns forward."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def contestant(self, name: str, seconds: list[float]) -> Contestant:
        turns = iter(seconds)

        def score(query: str, documents: list[str]) -> np.ndarray:
            self.order.append(name)
            self.now += next(turns)
            return np.zeros(len(documents), dtype=np.float32)

        return Contestant(name, score)


def test_rounds_are_interleaved_and_ratios_paired() -> None:
    clock = Clock()
    # The machine is twice as slow in the third round: the paired ratio does not notice.
    everybody = [clock.contestant("a", [9, 1, 2, 1]), clock.contestant("b", [9, 3, 6, 3])]
    found = race(everybody, [[("q", ["x"] * 6)]] * 4, clock=lambda: clock.now, pause=0)
    assert clock.order == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert found["a"].rates == [6, 3, 6]  # without the warm-up
    assert found["a"].rate == 6
    assert found["a"].ratio(found["b"]) == 3
    assert (found["b"].p50, found["b"].p99) == (3, 6)
    assert found["a"].spread == (4.5, 6)


def test_agreement_is_exact_for_equals_and_sees_a_reversal() -> None:
    def up(query: str, documents: list[str]) -> np.ndarray:
        return np.arange(len(documents), dtype=np.float32)

    def down(query: str, documents: list[str]) -> np.ndarray:
        return -up(query, documents)

    topics = [("q", ["a", "b", "c"]), ("p", ["a"])]
    assert agreement(up, up, topics).largest == 0
    assert agreement(up, up, topics).tau == 1
    assert agreement(up, down, topics).tau == -1
    assert agreement(up, down, topics).largest == 4
    assert agreement(np_zeros, np_zeros, topics).tau is None  # equal scores have no order


def test_flops_of_a_network_counted_by_hand() -> None:
    config = {"hidden_size": 2, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 1}
    lengths = np.array([3, 5])
    # Per token of the first layer 12 H^2 multiply-adds; scores and sums 2 H per token and neighbour.
    first = 2 * (12 * 4 * 8) + 2 * (2 * 2 * (9 + 25))
    # The last: 12 H^2 for each [CLS], and heads * 2 H for each token.
    last = 2 * (12 * 4 * 2) + 2 * (2 * 2 * 8)
    assert needed_flops(config, lengths) == first + last


def test_callers_at_once_are_all_answered_beside_a_long_request(tiny_scorer: CrossEncoderScorer) -> None:
    topics = [make_topics(LENGTHS["msmarco"], queries=1, candidates=5, seed=i)[0] for i in range(12)]
    long = make_topics(LENGTHS["msmarco"], queries=1, candidates=300, seed=99)[0]
    load = measure_callers(tiny_scorer.score, topics, 4, long)
    assert (load.callers, load.documents, load.background) == (4, 5, 300)
    assert 0 < load.p50 <= load.p99
    assert load.rate > 0


def test_nothing_of_the_long_request_is_left_for_what_is_measured_next() -> None:
    running: set[int] = set()
    long: list[int] = []

    def score(query: str, documents: Iterable[str]) -> np.ndarray:
        me = threading.get_ident()
        running.add(me)
        read = list(documents) if query == "short" else [next(iter(documents), "")]
        if query == "long":
            long.append(len(read))
            time.sleep(0.3)  # what is in the queue when its documents end
        running.discard(me)
        return np.zeros(len(read), dtype=np.float32)

    measure_callers(score, [("short", ["a"])] * 4, 2, ("long", ["b"] * 9))
    assert long
    assert not running


def test_a_long_request_that_fails_is_no_load() -> None:
    def score(query: str, documents: Iterable[str]) -> np.ndarray:
        if query == "long":
            raise ScoringError("the queue is full")
        return np.zeros(1, dtype=np.float32)

    with pytest.raises(ScoringError, match="full"):
        measure_callers(score, [("short", ["a"])], 1, ("long", ["b"]))


@pytest.mark.parametrize(("count", "place"), [(1, 1), (7, 7), (99, 99), (100, 99), (200, 198)])
def test_of_few_latencies_the_99th_percentile_is_the_slowest(count: int, place: int) -> None:
    assert Race([1], [float(i) for i in range(count, 0, -1)]).p99 == place


def test_lengths_are_those_of_all_rounds_that_count(tiny: Path) -> None:
    plan = Plan(model=str(tiny), ours=("torch:float32",), peers=(), candidates=(1,), rounds=3, seed=1)
    seeds = (10_001, 10_002, 10_003)
    topics = [make_topics(LENGTHS["msmarco"], queries=1, candidates=1, seed=seed)[0] for seed in seeds]
    with CrossEncoderScorer(str(tiny), device="cpu", engine="torch") as scorer:
        tokens = [scorer.score_detailed(*topic).tokens for topic in topics]
    report = run_benchmark(plan)
    assert report.tokens_per_pair == pytest.approx(np.mean(tokens))


def test_random_weights_have_the_members_shape_and_load(tmp_path: Path) -> None:
    shape = min(FAMILY, key=lambda member: member.parameters)
    folder = make_random_checkpoint(shape, tmp_path)
    with CrossEncoderScorer(str(folder), device="cpu", engine="torch") as scorer:
        scores = scorer.score("a question", ["one", "another text", "a third"])
    assert len(set(scores.tolist())) == 3
    from transformers import AutoModelForSequenceClassification

    model, report = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert sum(weight.numel() for weight in model.parameters()) == pytest.approx(shape.parameters, rel=0.02)


def test_who_cannot_run_is_named_with_the_reason(tiny: Path, tmp_path: Path) -> None:
    found = our_contestant("torch:int8", str(tiny), device="cpu", token_cache=False)
    assert isinstance(found, Skipped)
    assert "int8" in found.reason
    with pytest.raises(InvalidInputError, match="engine:dtype"):
        our_contestant("warp:float32", str(tiny), device="cpu", token_cache=False)
    astray = our_contestant("torch:float32", str(tiny), device="gpu", token_cache=False)
    assert isinstance(astray, Skipped)
    assert "device" in astray.reason
    broken = peer_contestant("sentence-transformers", PeerModel(tmp_path / "nothing"))
    assert isinstance(broken, Skipped)
    assert broken.reason
    with pytest.raises(InvalidInputError, match="--peer"):
        peer_contestant("fastest", PeerModel(tmp_path))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan(peers=("fastest",)), "--peer must be one of"),
        (Plan(ours=("torch:int8",), peers=()), "at least one contestant"),
        (Plan(ours=("torch:float32",), peers=(), baseline="me"), "--baseline"),
        (Plan(ours=("torch:float32",), peers=(), lengths="no.jsonl"), "--lengths"),
        (Plan(ours=("torch:float32",), peers=(), lengths="."), "--lengths"),
        (Plan(random_weights=True), "member of the family"),
        (Plan(device="auto"), "--device must be cpu or cuda:N, but got 'auto'"),
        (Plan(device="gpu"), "--device must be"),
    ],
)
def test_plans_that_cannot_be_run(plan: Plan, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        run_benchmark(plan)


def test_a_report_is_json_and_tables() -> None:
    report = Report("m", 73.2, "msmarco", 2, "b", machine(), skipped=[Skipped("c", "not installed")])
    result = Result("a", Race([10, 20], [0.1, 0.2]), 2.0, agreement(np_zeros, np_zeros, []), 0.5)
    report.results[100] = [result]
    read = json.loads(report.to_json())
    assert read["results"]["100"][0]["docs_per_second"] == 15
    assert read["results"]["100"][0]["kendall_tau"] is None
    assert read["skipped"] == {"c": "not installed"}
    assert read["machine"]["cores"] > 0
    assert len(tables(report)) == 2
    assert (read["device"], read["card"], read["results"]["100"][0]["latencies"]) == ("cpu", None, 2)
    host = f"{read['machine']['cores']} cores of {read['machine']['cpu']}"
    assert report.where == host
    assert replace(report, device="cuda:0", card="NVIDIA H200").where == f"NVIDIA H200 (cuda:0) and {host}"


def shown(report: Report) -> str:
    console = Console(width=116, file=io.StringIO())
    console.print(*tables(report))
    return console.file.getvalue()


@pytest.mark.parametrize("count", [99, 100])
def test_tables_say_what_is_no_percentile(count: int) -> None:
    report = Report("m", 73.2, "msmarco", count, "a", machine())
    report.results[5] = [Result("a", Race([1.0], [0.1] * count), 1.0, agreement(np_zeros, np_zeros, []))]
    report.loads.append(Load(callers=4, documents=5, rate=9, p50=1, p99=3, latencies=count, name="b"))
    text = shown(report)
    assert f"latencies of {count} queries" in text
    assert "callers at once, answered by b" in text
    expected = (True, 2, 1) if count < 100 else (False, 0, 2)
    assert ("slowest 3,000" in text, text.count("slowest"), text.count("p99 ms")) == expected


def test_callers_are_answered_by_ours_or_not_at_all(tiny: Path) -> None:
    plan = Plan(model=str(tiny), peers=("sentence-transformers",), candidates=(2,), rounds=1, callers=(2,))
    theirs = run_benchmark(replace(plan, ours=("torch:int8",)))
    assert theirs.loads == []
    assert [one.name for one in theirs.skipped] == ["rerank-plugins torch:int8", "callers at once"]
    (load,) = run_benchmark(replace(plan, ours=("torch:int8", "torch:float32"))).loads
    assert (load.name, load.latencies) == ("rerank-plugins torch:float32", 8)


@pytest.mark.gpu
def test_a_card_is_named(tiny: Path) -> None:
    plan = Plan(model=str(tiny), ours=("torch:float32",), peers=(), candidates=(2,), rounds=1, device="cuda")
    report = run_benchmark(plan)
    assert json.loads(report.to_json())["card"] == torch.cuda.get_device_name()


def np_zeros(query: str, documents: list[str]) -> np.ndarray:
    time.sleep(0)
    return np.zeros(len(documents), dtype=np.float32)


async def test_tasks_are_all_answered(tiny_scorer: CrossEncoderScorer) -> None:
    topics = make_topics(LENGTHS["msmarco"], queries=9, candidates=5, seed=3)
    load = await measure_tasks(tiny_scorer.ascore, topics, 4)
    assert (load.callers, load.documents, load.background) == (4, 5, 0)
    assert 0 < load.p50 <= load.p99
    assert load.rate > 0
