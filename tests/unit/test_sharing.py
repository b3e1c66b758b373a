"""One loaded model, many callers: sharing, concurrency, closing, failing."""

import asyncio
import gc
import multiprocessing
import os
import pickle
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from rerank_plugins import (
    CrossEncoderScorer,
    InvalidInputError,
    ModelError,
    QueueFullError,
    ScorerClosedError,
    ScorerSettings,
    ScoringError,
)
from rerank_plugins.scoring import registry
from rerank_plugins.scoring.dispatch import Worker
from rerank_plugins.scoring.engines.base import PaddingEngine
from rerank_plugins.scoring.engines.torch import TorchEngine
from rerank_plugins.scoring.pairs import EncodedPairs, Texts
from rerank_plugins.scoring.registry import loaded_models
from tests.texts import make_text

REQUESTS = [
    (
        make_text(1 + n % 30, seed=n),
        [make_text(1 + (7 * n + i) % 120, seed=1000 * n + i) for i in range(n % 12)],
    )
    for n in range(216)
]


@pytest.fixture(scope="module")
def expected(tiny_scorer: CrossEncoderScorer) -> list[np.ndarray]:
    return [tiny_scorer.score(query, documents) for query, documents in REQUESTS]


def test_sixteen_threads_and_two_hundred_tasks_at_once(
    tiny: Path, tiny_scorer: CrossEncoderScorer, expected: list[np.ndarray]
) -> None:
    def from_thread(i: int) -> np.ndarray:
        with CrossEncoderScorer(str(tiny), device="cpu") as own:  # equal settings: the same engine
            assert own._loaded is tiny_scorer._loaded
            return own.score(*REQUESTS[i])

    async def from_tasks() -> list[np.ndarray]:
        return await asyncio.gather(*(tiny_scorer.ascore(*REQUESTS[i]) for i in range(16, 216)))

    with ThreadPoolExecutor(17) as pool:
        tasks = pool.submit(asyncio.run, from_tasks())
        threads = list(pool.map(from_thread, range(16)))
        results = [*threads, *tasks.result()]
    assert sum(info.model == str(tiny.resolve()) for info in loaded_models()) == 1
    for result, alone in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, alone, atol=1e-5, rtol=0)


def test_concurrent_loading_loads_once(tiny: Path) -> None:
    barrier = threading.Barrier(8)

    def load(_: int) -> CrossEncoderScorer:
        barrier.wait()
        return CrossEncoderScorer(str(tiny), device="cpu", max_length=100)

    with ThreadPoolExecutor(8) as pool:
        scorers = list(pool.map(load, range(8)))
    assert len({id(scorer._loaded) for scorer in scorers}) == 1
    for scorer in scorers[:-1]:
        scorer.close()
    assert scorers[-1].score("q", ["a"]).shape == (1,)
    scorers[-1].close()
    assert not any(info.max_length == 100 for info in loaded_models())


def test_the_last_close_frees_the_weights(tiny: Path) -> None:
    options = {"device": "cpu", "engine": "torch", "dtype": "float32", "max_length": 102}
    first, last = (CrossEncoderScorer(str(tiny), **options) for _ in range(2))
    network = weakref.ref(first._loaded.worker._lines[0]._engine._network)
    first.close()
    gc.collect()
    assert network() is not None
    last.close()
    gc.collect()
    assert network() is None  # though the scorers are still there


def test_the_queue_is_bounded_as_the_setting_says(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, gate, forward = threading.Event(), threading.Event(), TorchEngine.forward

    def held(engine: TorchEngine, pairs: EncodedPairs, indices: np.ndarray) -> np.ndarray:
        entered.set()
        assert gate.wait(60)
        return forward(engine, pairs, indices)

    monkeypatch.setattr(TorchEngine, "forward", held)
    options = {"device": "cpu", "engine": "torch", "dtype": "float32", "max_queue_tokens": 20}
    with CrossEncoderScorer(str(tiny), **options) as scorer, ThreadPoolExecutor(2) as pool:
        try:
            inside = pool.submit(scorer.score, "q", ["a"])
            assert entered.wait(60)
            waiting = pool.submit(scorer.score, "q", ["word " * 10])
            while not (scorer.stats.waiting_tokens or waiting.done()):
                time.sleep(0.001)
            with pytest.raises(QueueFullError, match="at most 20 tokens may wait"):
                scorer.score("q", ["word " * 20])
        finally:
            gate.set()
        assert inside.result(60).shape == waiting.result(60).shape == (1,)


@pytest.mark.parametrize("as_async", [False, True])
def test_a_call_is_not_refused_for_what_it_brings_itself(tiny: Path, as_async: bool) -> None:
    documents = [f"{i} word" for i in range(3000)]
    with CrossEncoderScorer(str(tiny), device="cpu", max_queue_tokens=5000) as scorer:
        found = asyncio.run(scorer.ascore("q", documents)) if as_async else scorer.score("q", documents)
    assert found.shape == (3000,)


async def test_closing_under_tasks_that_still_tokenise_is_no_cancelling(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, gate, encode = threading.Event(), threading.Event(), Worker.encode

    def held(worker: Worker, texts: Texts) -> EncodedPairs:
        entered.set()
        assert gate.wait(60)
        return encode(worker, texts)

    monkeypatch.setattr(Worker, "encode", held)
    scorer = CrossEncoderScorer(str(tiny), device="cpu", max_length=104)
    few = [asyncio.create_task(scorer.ascore("q", ["a"])) for _ in range(5)]
    many = asyncio.create_task(scorer.ascore("q", [f"{i}" for i in range(3000)]))
    await asyncio.to_thread(entered.wait, 60)
    scorer.close()
    gate.set()
    found = await asyncio.gather(*few, many, return_exceptions=True)
    assert {type(one) for one in found} == {ScorerClosedError}


def test_what_was_made_is_freed_if_the_rest_of_loading_fails(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[TorchEngine] = []
    monkeypatch.setattr(TorchEngine, "close", lambda engine: closed.append(engine))

    def fail(*_: object) -> int:
        raise ModelError("no room for a batch")

    monkeypatch.setattr(registry, "_batch_tokens", fail)
    with pytest.raises(ModelError, match="no room"):
        CrossEncoderScorer(str(tiny), devices=["cpu", "cpu"], engine="torch", dtype="float32")
    assert len(closed) == 2


def test_settings_that_differ_do_not_share(tiny: Path, tiny_scorer: CrossEncoderScorer) -> None:
    with CrossEncoderScorer(str(tiny), device="cpu", dtype="bfloat16") as other:
        assert other._loaded is not tiny_scorer._loaded


def test_a_closed_scorer_says_so_and_others_go_on(tiny: Path, tiny_scorer: CrossEncoderScorer) -> None:
    scorer = CrossEncoderScorer(str(tiny), device="cpu")
    scorer.close()
    scorer.close()
    assert scorer.closed
    assert scorer.info.device == "cpu"
    with pytest.raises(ScorerClosedError, match="make a new one"):
        scorer.score("q", ["a"])
    with pytest.raises(ScorerClosedError):
        asyncio.run(scorer.ascore("q", ["a"]))
    assert tiny_scorer.score("q", ["a"]).shape == (1,)


def test_a_forked_child_gives_back_nothing_of_its_parents(
    tiny_scorer: CrossEncoderScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, _ = registry.acquire(tiny_scorer.settings)
    users = held.users
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: -1)
        held.release()
    assert held.users == users
    held.release()
    assert held.users == users - 1


def test_a_scorer_whose_engine_has_ended_can_be_made_anew(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = CrossEncoderScorer(str(tiny), device="cpu", engine="torch", max_length=99)

    def panic(*_: object) -> None:
        raise SystemExit("no more")

    with monkeypatch.context() as patched:
        patched.setattr(TorchEngine, "launch", panic)
        with pytest.raises(ScoringError, match="ended by SystemExit"):
            ended.score("q", ["a"])
    with pytest.raises(ScoringError, match="make a new scorer"):
        ended.score("q", ["a"])
    with CrossEncoderScorer(settings=ended.settings) as new:
        ended.close()
        assert new.score("q", ["a"]).shape == (1,)
    assert not any(info.max_length == 99 for info in loaded_models())


def test_numbers_of_windows_are_checked(tiny_scorer: CrossEncoderScorer) -> None:
    for wrong in (
        {"overlap": "x"},
        {"overlap": None},
        {"overlap": 0, "size": 10.5},
        {"overlap": 0, "most": "1"},
    ):
        with pytest.raises(InvalidInputError, match="must be an integer"):
            tiny_scorer.windows("q", ["a"], **wrong)


def test_a_tokenizer_that_fails_is_a_failure_to_score(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class OddError(Exception):
        pass

    def fail(*_: object) -> None:
        raise OddError("no such token")

    with CrossEncoderScorer(str(tiny), device="cpu", max_length=98) as scorer:
        monkeypatch.setattr(scorer._loaded.encoder._texts, "ids", fail)
        for use in (lambda: scorer.score("q", ["a"]), lambda: scorer.windows("q", ["a"], overlap=0)):
            with pytest.raises(ScoringError, match="the tokenizer failed on 2 texts: no such token"):
                use()


def test_a_short_window_keeps_room_for_the_document(tiny: Path) -> None:
    for max_length, query in ((8, 4), (12, 8), (16, 12), (32, 24)):
        with CrossEncoderScorer(str(tiny), device="cpu", max_length=max_length) as scorer:
            assert scorer.info.max_query_tokens == query
            assert scorer.score("long " * 30, ["word " * 30]).shape == (1,)


def test_a_forgotten_scorer_frees_its_model(tiny: Path) -> None:
    scorer = CrossEncoderScorer(str(tiny), device="cpu", max_length=101)
    assert any(info.max_length == 101 for info in loaded_models())
    del scorer
    gc.collect()
    assert not any(info.max_length == 101 for info in loaded_models())


def test_a_failed_load_leaves_nothing_behind(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match=r"config\.json"):
            CrossEncoderScorer(str(tmp_path), device="cpu")
    assert not any(info.model == str(tmp_path) for info in loaded_models())


def test_pickling_carries_settings_and_shares_the_model(tiny_scorer: CrossEncoderScorer) -> None:
    copy = pickle.loads(pickle.dumps(tiny_scorer))
    assert copy._loaded is tiny_scorer._loaded
    copy.close()


def test_settings_or_options_but_not_both(tiny: Path) -> None:
    with pytest.raises(InvalidInputError, match="device"):
        CrossEncoderScorer(settings=ScorerSettings(model=str(tiny)), device="cpu")


def test_lone_surrogates_are_named(tiny_scorer: CrossEncoderScorer) -> None:
    with pytest.raises(InvalidInputError, match=r"\\ud800.*position 3"):
        tiny_scorer.score("q", ["fine", "bad\ud800"])


@pytest.mark.parametrize("pair", ["ab", ("a",), ("a", None), ("a", "b", "c"), 5])
def test_what_is_no_pair_is_named(tiny_scorer: CrossEncoderScorer, pair: object) -> None:
    with pytest.raises(TypeError, match=r"pairs\[1\]"):
        tiny_scorer.score_pairs([("q", "d"), pair])  # type: ignore[list-item]


def test_pairs_must_be_a_list(tiny_scorer: CrossEncoderScorer) -> None:
    with pytest.raises(TypeError, match="pairs must be"):
        tiny_scorer.score_pairs("qd")  # type: ignore[arg-type]
    assert tiny_scorer.score_pairs([]).shape == (0,)


def test_more_documents_than_a_chunk(tiny_scorer: CrossEncoderScorer) -> None:
    documents = [make_text(1 + i % 5, seed=i % 40) for i in range(2500)]
    scores = tiny_scorer.score_detailed("river", documents)
    assert scores.logits.shape == (2500,)
    np.testing.assert_allclose(
        scores.logits[-40:], tiny_scorer.score("river", documents[-40:]), atol=1e-5, rtol=0
    )


def use_in_child(scorer: CrossEncoderScorer, queue: "multiprocessing.Queue[str]") -> None:
    for use in (lambda: scorer.score("q", ["a"]), lambda: asyncio.run(scorer.ascore("q", ["a"]))):
        try:
            use()
        except ScoringError as error:
            queue.put(str(error))
    queue.put(str(len(loaded_models())))
    for use in (lambda: scorer.extents("q", ["a"]), lambda: scorer.windows("q", ["a"], overlap=0)):
        with pytest.raises(ScoringError, match="forked"):
            use()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_is_told_instead_of_hanging(tiny_scorer: CrossEncoderScorer) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=use_in_child, args=(tiny_scorer, queue))
    asyncio.run(tiny_scorer.ascore("q", ["a"]))  # so that there is a thread that the child lacks
    child.start()
    assert "forked" in queue.get(timeout=30)
    assert "forked" in queue.get(timeout=30)
    assert queue.get(timeout=30) == "0", "one that is made there shares nothing with the parent's"
    child.join(30)
    assert tiny_scorer.score("q", ["a"]).shape == (1,)


class Gated(PaddingEngine):
    """An engine that waits to be let through, and counts its batches."""

    name = "gated"
    memory = 0

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.batches: list[int] = []
        self.closed = False

    def forward(self, pairs: EncodedPairs, indices: np.ndarray) -> np.ndarray:
        self.entered.set()
        self.gate.wait(10)
        self.batches.append(len(indices))
        if (pairs.ids[pairs.offsets[indices]] == 666).any():
            raise RuntimeError("device lost")
        return pairs.ids[pairs.offsets[indices]].astype(np.float32)

    def close(self) -> None:
        self.closed = True


def pair(token: int, length: int = 2) -> EncodedPairs:
    return EncodedPairs(
        ids=np.full(length, token, dtype=np.int32),
        offsets=np.array([0, length]),
        boundaries=np.array([1], dtype=np.int32),
        document_type=1,
        document_tokens=np.array([1], dtype=np.int32),
        truncated=np.zeros(1, dtype=bool),
        query_truncated=np.zeros(1, dtype=bool),
    )


@pytest.fixture
def gated() -> Gated:
    return Gated()


def test_waiting_requests_share_a_batch_and_cancelled_ones_cost_nothing(gated: Gated) -> None:
    worker = Worker([gated], max_batch_tokens=64)
    first = worker.submit(pair(1))
    assert gated.entered.wait(10)
    waiting = [worker.submit(pair(token)) for token in (2, 3, 4, 5)]
    assert waiting[1].cancel()
    gated.gate.set()
    assert first.result(10).logits.tolist() == [1.0]
    assert [waiting[i].result(10).logits.item() for i in (0, 2, 3)] == [2.0, 4.0, 5.0]
    assert gated.batches == [1, 3]
    assert waiting[0].result().queue_ms > 0
    worker.close()
    assert gated.closed


def test_a_failing_batch_fails_only_its_own_requests(gated: Gated) -> None:
    worker = Worker([gated], max_batch_tokens=8)
    first = worker.submit(pair(1))
    assert gated.entered.wait(10)
    bad, good = worker.submit(pair(666, length=8)), worker.submit(pair(7))
    gated.gate.set()
    assert first.result(10).logits.item() == 1.0
    assert good.result(10).logits.item() == 7.0
    with pytest.raises(ScoringError, match="device lost"):
        bad.result(10)
    assert worker.submit(pair(9)).result(10).logits.item() == 9.0
    worker.close()


def test_closing_fails_what_waits_and_nothing_hangs(gated: Gated) -> None:
    worker = Worker([gated], max_batch_tokens=64)
    running = worker.submit(pair(1))
    assert gated.entered.wait(10)
    waiting = worker.submit(pair(2))
    closer = threading.Thread(target=worker.close)
    closer.start()
    with pytest.raises(ScorerClosedError):
        waiting.result(10)
    gated.gate.set()
    assert running.result(10).logits.item() == 1.0
    closer.join(10)
    assert not closer.is_alive()
    with pytest.raises(ScorerClosedError):
        worker.submit(pair(3))


async def test_cancelling_a_task_drops_its_work(tiny_scorer: CrossEncoderScorer) -> None:
    task = asyncio.create_task(tiny_scorer.ascore("q", [f"{i} " + "word " * 400 for i in range(3000)]))
    async with asyncio.timeout(60):
        while not tiny_scorer.stats.waiting_tokens:
            await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert tiny_scorer.stats.waiting_tokens == 0
    assert (await tiny_scorer.ascore("q", ["a"])).shape == (1,)


def test_equal_documents_get_equal_scores_and_cost_once(tiny_scorer: CrossEncoderScorer) -> None:
    documents = [make_text(1 + i % 7, seed=i % 7) for i in range(50)]
    scores = tiny_scorer.score_detailed("river", documents)
    assert len(set(scores.logits.tolist())) == 7
    assert scores.tokens == tiny_scorer.score_detailed("river", documents[:7]).tokens
    assert [scores.logits[i] == scores.logits[i % 7] for i in range(50)] == [True] * 50


def test_replicas_score_like_one(tiny: Path) -> None:
    documents = [f"document {i} " + "word " * (i % 50) for i in range(300)]
    with CrossEncoderScorer(str(tiny), device="cpu") as one:
        expected = one.score("query", documents)
    with CrossEncoderScorer(str(tiny), devices=["cpu", "cpu"], max_batch_tokens=256) as two:
        assert two.info.device == "cpu,cpu"
        assert two.info.memory == 2 * one.info.memory
        assert two.settings.devices == ("cpu", "cpu")
        assert two.score("query", documents) == pytest.approx(expected, abs=1e-5)
    # One device in a list is that device: the engine is shared with who names it singly.
    with (
        CrossEncoderScorer(str(tiny), devices=["cpu"]) as a,
        CrossEncoderScorer(str(tiny), device="cpu") as b,
    ):
        assert a._loaded is b._loaded


def test_devices_are_checked(tiny: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"either device or devices, but got 'cpu' and \('cpu',\)"):
        CrossEncoderScorer(str(tiny), device="cpu", devices=["cpu"])
    with pytest.raises(InvalidInputError, match="of one kind"):
        CrossEncoderScorer(str(tiny), devices=["cpu", "cuda:0"])
    with pytest.raises(InvalidInputError, match="devices"):
        CrossEncoderScorer(str(tiny), devices=[])
    with pytest.raises(InvalidInputError, match=r"devices.*'gpu'"):
        CrossEncoderScorer(str(tiny), devices=["gpu"])


def test_a_model_that_does_not_fit_into_memory_is_our_error(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    monkeypatch.setattr(registry, "make_engine", full)
    with pytest.raises(ModelError, match=r"must fit into the free memory of cpu.*tried to allocate"):
        CrossEncoderScorer(str(tiny), device="cpu", max_batch_tokens=4097)
