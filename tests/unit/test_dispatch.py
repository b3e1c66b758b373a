"""The worker's order of service: full batches, fairness, bounds, cancellation."""

import itertools
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from rerank_plugins import CrossEncoderScorer, QueueFullError, ScorerClosedError, ScoringError
from rerank_plugins.scoring import jobs
from rerank_plugins.scoring.direct import Direct
from rerank_plugins.scoring.dispatch import Worker
from rerank_plugins.scoring.engines.base import Launched, PaddingEngine
from rerank_plugins.scoring.engines.batches import Shape
from rerank_plugins.scoring.jobs import ROW, Job, Scored, join
from rerank_plugins.scoring.pairs import Cost, EncodedPairs, Texts
from rerank_plugins.scoring.tally import WorkerStats
from rerank_plugins.scoring.turnstile import Queued

BUDGET = 64
ROUND = 4 * BUDGET


def request(pairs: int, *, name: int = 1, length: int = 4) -> EncodedPairs:
    """Make pairs of equal length; their ids name the request, their order within it comes after."""
    ids = np.empty((pairs, length), dtype=np.int32)
    ids[:, 0] = name
    ids[:, 1:] = np.arange(pairs)[:, None]
    none = np.zeros(pairs, dtype=bool)
    return EncodedPairs(
        ids=ids.ravel(),
        offsets=np.arange(pairs + 1) * length,
        boundaries=np.ones(pairs, dtype=np.int32),
        document_type=1,
        document_tokens=np.full(pairs, length - 1, dtype=np.int32),
        truncated=none,
        query_truncated=none,
    )


class Recorder(PaddingEngine):
    """An engine that notes whose pairs each batch held, and waits for leave to begin."""

    name = "recorder"
    memory = 0

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.after = lambda: None

    def forward(self, pairs: EncodedPairs, indices: np.ndarray) -> np.ndarray:
        self.entered.set()
        assert self.gate.wait(10)
        starts = pairs.offsets[indices]
        self.batches.append(pairs.ids[starts].tolist())
        self.after()
        return pairs.ids[starts + 1].astype(np.float32)

    def close(self) -> None:
        pass


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def held(recorder: Recorder, **limits: int) -> tuple[Worker, "Future[Scored]"]:
    """Return a worker whose engine is held in the round of one first pair."""
    worker = Worker([recorder], BUDGET, **limits)
    first = worker.submit(request(1, name=0))
    assert recorder.entered.wait(10)
    return worker, first


def test_small_requests_fill_batches_together(recorder: Recorder) -> None:
    worker, _ = held(recorder)
    answers = [worker.submit(request(4, name=i)) for i in range(1, 17)]  # a quarter of a batch each
    recorder.gate.set()
    for answer in answers:
        assert answer.result(10).logits.tolist() == [0, 1, 2, 3]
    assert [len(batch) for batch in recorder.batches] == [1, 16, 16, 16, 16]
    worker.close()


def test_rounds_grow_with_what_waits(recorder: Recorder) -> None:
    worker, _ = held(recorder)
    # A batch's worth each, short pairs and long ones by turns; a round is scored longest first.
    answers = [worker.submit(request(BUDGET // length, name=length, length=length)) for length in [2, 8] * 20]
    recorder.gate.set()
    for answer in answers:
        answer.result(10)
    served = [batch[0] for batch in recorder.batches[1:]]
    rounds = 1 + sum(before < after for before, after in itertools.pairwise(served))
    assert rounds == 3  # of 16 batches, 16, and 8
    worker.close()


def test_a_long_request_is_answered_in_order_and_starves_nobody(recorder: Recorder) -> None:
    worker, _ = held(recorder)
    long = worker.submit(request(1000, name=1))
    small = [worker.submit(request(8, name=i)) for i in range(2, 40)]
    recorder.gate.set()
    for answer in small:
        assert answer.result(10).logits.tolist() == list(range(8))
    assert long.result(10).logits.tolist() == list(range(1000))
    served = [name for batch in recorder.batches for name in batch]
    last_small = max(i for i, name in enumerate(served) if name > 1)
    # The long one came first and has a quarter of each round while small ones wait.
    before = served[:last_small].count(1)
    small_pairs = 8 * len(small)
    assert 0 < before <= small_pairs / 3 + ROUND // 4
    # Small ones in the order they came.
    order = [name for name in served if name > 1]
    assert order == sorted(order)
    worker.close()


def test_a_small_request_that_comes_late_waits_for_one_round(recorder: Recorder) -> None:
    worker, _ = held(recorder)
    long = worker.submit(request(1000, name=1))
    late: list[Future[Scored]] = []

    def arrive() -> None:
        if len(recorder.batches) == 20:
            late.append(worker.submit(request(4, name=2)))

    recorder.after = arrive
    recorder.gate.set()
    long.result(10)
    assert late[0].result(10).logits.tolist() == [0, 1, 2, 3]
    came_in = next(i for i, batch in enumerate(recorder.batches) if 2 in batch)
    assert came_in <= 21  # a round of a long one alone is a batch
    worker.close()


def test_long_requests_move_while_small_ones_keep_coming(recorder: Recorder) -> None:
    worker, _ = held(recorder)
    long = worker.submit(request(600, name=1))

    def keep_coming() -> None:
        if not long.done():
            for _ in range(2):  # more than the engine scores
                worker.submit(request(16, name=2))

    recorder.after = keep_coming
    recorder.gate.set()
    assert long.result(10).logits.tolist() == list(range(600))
    worker.close()


def test_a_full_queue_says_so_and_recovers(recorder: Recorder) -> None:
    worker, first = held(recorder, max_queue_tokens=100)
    # Alone it may be any size: it could never be scored otherwise.
    big = worker.submit(request(50))
    assert worker.waiting_tokens == 200
    with pytest.raises(QueueFullError, match=r"at most 100 tokens may wait .* 200 do and 4 came"):
        worker.submit(request(1))
    assert big.cancel()
    assert worker.waiting_tokens == 0
    kept = worker.submit(request(20))
    recorder.gate.set()
    assert first.result(10).logits.tolist() == [0]
    assert kept.result(10).logits.tolist() == list(range(20))
    assert worker.submit(request(1)).result(10).logits.tolist() == [0]
    worker.close()


def test_cancelling_drops_what_no_round_has_taken(recorder: Recorder) -> None:
    worker, _ = held(recorder)
    long = worker.submit(request(1000, name=1))
    recorder.after = lambda: long.cancel()
    recorder.gate.set()
    assert worker.submit(request(1, name=2)).result(10).logits.tolist() == [0]
    assert long.cancelled()
    assert sum(batch.count(1) for batch in recorder.batches) <= ROUND // 4
    worker.close()


@pytest.mark.parametrize("lengths", [[3, 9, 1, 9], [5], [1, 2, 3]])
def test_taking_pairs_keeps_them(lengths: list[int]) -> None:
    parts = [request(1, name=i, length=length) for i, length in enumerate(lengths)]
    joined = join(parts)
    order = np.argsort(lengths)[::-1]
    taken = joined.take(order)
    assert [taken.pair_ids(i).tolist() for i in range(len(taken))] == [
        joined.pair_ids(int(i)).tolist() for i in order
    ]
    assert taken.lengths.tolist() == [lengths[i] for i in order]


class Small(PaddingEngine):
    """An engine with memory for some tokens only, that may run ahead and pad nothing."""

    name = "small"
    memory = 0
    pads = False

    def __init__(self, room: int, *, ahead: int = 0, at_collect: bool = False) -> None:
        self.room = room
        self.ahead = ahead
        self.at_collect = at_collect
        self.done = False
        self.sizes: list[int] = []
        self.log: list[str] = []
        self.launched = 0

    def launch(self, pairs: EncodedPairs, indices: np.ndarray) -> Launched:
        tokens = int(pairs.lengths[indices].sum())
        number = self.launched
        self.launched += 1
        self.log.append(f"launch {number}")
        answer = pairs.ids[pairs.offsets[indices] + 1].astype(np.float32)

        def check() -> None:
            if tokens > self.room:
                raise torch.OutOfMemoryError(f"{tokens} tokens")

        def collect() -> np.ndarray:
            self.log.append(f"collect {number}")
            check()
            self.sizes.append(tokens)
            return answer

        if not self.at_collect:
            check()
        return Launched(collect, lambda: self.done)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("at_collect", [False, True])
def test_running_out_of_memory_halves_the_batch_and_loses_nothing(ahead: int, at_collect: bool) -> None:
    engine = Small(20, ahead=ahead, at_collect=at_collect)
    worker = Worker([engine], max_batch_tokens=64)
    scored = worker.submit(request(40)).result(10)
    assert scored.logits.tolist() == list(range(40))
    assert scored.out_of_memory > 0
    assert max(engine.sizes) <= 20
    assert worker.max_batch_tokens <= 32
    # The next request is planned with what was learnt.
    for _ in range(2):
        worker.submit(request(40)).result(10)
    assert worker.submit(request(40)).result(10).out_of_memory == 0
    worker.close()


def test_a_batch_that_did_not_fit_is_gone_before_its_halves_are_tried() -> None:
    class Activating(Small):
        attempts: list[weakref.ref[np.ndarray]] = []

        def launch(self, pairs: EncodedPairs, indices: np.ndarray) -> Launched:
            assert not any(activations() is not None for activations in self.attempts)
            activations = np.empty(8)  # what the attempt gets of the device's memory before there is no more
            self.attempts.append(weakref.ref(activations))
            return super().launch(pairs, indices)

    worker = Worker([Activating(20)], max_batch_tokens=64)
    assert worker.submit(request(40)).result(10).out_of_memory > 0
    worker.close()


def test_a_pair_that_never_fits_fails_alone() -> None:
    worker = Worker([Small(20)], max_batch_tokens=64)
    big = worker.submit(request(1, length=30))
    with pytest.raises(ScoringError, match="no memory for one pair of 30 tokens"):
        big.result(10)
    assert worker.submit(request(3)).result(10).logits.tolist() == [0, 1, 2]
    worker.close()


def test_an_engine_runs_ahead_by_one_batch_and_drains() -> None:
    engine = Small(10**6, ahead=1)
    worker = Worker([engine], max_batch_tokens=40)
    scored = worker.submit(request(40)).result(10)
    assert scored.logits.tolist() == list(range(40))
    assert engine.log == [
        *("launch 0", "launch 1", "collect 0", "launch 2", "collect 1", "launch 3", "collect 2", "collect 3")
    ]
    worker.close()


def hold(engine: Small, recorder: Recorder) -> None:
    """Let an engine's launches wait for leave."""
    launch = engine.launch

    def gated(pairs: EncodedPairs, indices: np.ndarray) -> Launched:
        recorder.entered.set()
        assert recorder.gate.wait(10)
        return launch(pairs, indices)

    engine.launch = gated  # type: ignore[method-assign]


@pytest.mark.parametrize("done", [True, False])
def test_what_a_device_is_through_with_is_answered_before_more_is_launched(
    done: bool, recorder: Recorder
) -> None:
    engine = Small(10**6, ahead=1)
    engine.done = done
    hold(engine, recorder)
    worker = Worker([engine], max_batch_tokens=64)
    answers = [worker.submit(request(1))]
    assert recorder.entered.wait(10)
    answers.append(worker.submit(request(1)))
    recorder.gate.set()
    for answer in answers:
        answer.result(10)
    answered_first = ["launch 0", "collect 0", "launch 1", "collect 1"]
    launched_first = ["launch 0", "launch 1", "collect 0", "collect 1"]
    assert engine.log == (answered_first if done else launched_first)
    worker.close()


def test_a_device_that_fails_when_asked_fails_the_batch_alone() -> None:
    engine = Small(10**6, ahead=1)
    worker = Worker([engine], max_batch_tokens=64)

    def lost() -> bool:
        raise RuntimeError("the device is lost")

    with patch.object(engine, "launch", lambda *_: Launched(lost, lost)):
        for _ in range(2):
            with pytest.raises(ScoringError, match="the device is lost"):
                worker.submit(request(3)).result(10)
    assert worker.submit(request(3)).result(10).logits.tolist() == [0, 1, 2]
    worker.close()


class Instant(Small):
    """An engine with a device of its own that takes any batch at once."""

    at_once = Shape(100, 32)

    def __init__(self) -> None:
        super().__init__(10**6, ahead=1)
        self.threads: list[threading.Thread] = []
        self.fails = 0

    def takes_at_once(self, pairs: EncodedPairs) -> bool:
        return True

    def launch(self, pairs: EncodedPairs, indices: np.ndarray) -> Launched:
        if self.fails:
            self.fails -= 1
            raise torch.OutOfMemoryError("injected")
        self.threads.append(threading.current_thread())
        return super().launch(pairs, indices)


@pytest.fixture
def instant() -> Iterator[tuple[Instant, Worker]]:
    engine = Instant()
    worker = Worker([engine], max_batch_tokens=64)
    yield engine, worker
    worker.close()


def started(worker: Worker, pairs: int = 5) -> Direct:
    """Return what a caller launched, as soon as the engine's thread has nothing to do."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        answer = worker.start(request(pairs))
        if isinstance(answer, Direct):
            return answer
        answer.result()
    raise AssertionError


def test_a_caller_launches_on_an_idle_device_itself(instant: tuple[Instant, Worker]) -> None:
    engine, worker = instant
    assert worker.at_once == Shape(59, 32)  # no more than a batch may have, and some room for estimates
    answer = worker.start(request(5))
    assert isinstance(answer, Direct)
    assert engine.threads == [threading.current_thread()]
    assert engine.log == ["launch 0"]  # collected when asked for
    assert answer.result().logits.tolist() == list(range(5))
    assert (worker.stats.pairs, worker.stats.batches) == (5, 1)


def test_no_more_are_in_the_air_than_may_be_and_those_given_up_make_room(
    instant: tuple[Instant, Worker],
) -> None:
    _, worker = instant
    first, second = worker.start(request(5)), worker.start(request(5))
    assert isinstance(first, Direct)
    assert isinstance(second, Direct)
    queued = worker.start(request(5))
    assert isinstance(queued, Queued)
    assert queued.result().logits.tolist() == list(range(5))
    first.cancel()
    first.cancel()  # gives up one place, not two
    third = started(worker)
    assert isinstance(worker.start(request(5)), Queued)
    for answer in (second, third):
        assert answer.result().logits.tolist() == list(range(5))
    started(worker)


def test_what_does_not_fit_fails_or_comes_too_late_is_queued(instant: tuple[Instant, Worker]) -> None:
    engine, worker = instant
    large = worker.start(request(40))  # more tokens than a batch has
    assert isinstance(large, Queued)
    assert large.result().logits.tolist() == list(range(40))
    engine.fails = 2  # here, and in the engine's thread, where running out of memory is dealt with
    while isinstance(failing := worker.start(request(5)), Direct):
        failing.cancel()
    scored = failing.result()
    assert engine.fails == 0
    assert (scored.out_of_memory, scored.logits.tolist()) == (1, list(range(5)))
    worker.close()
    with pytest.raises(ScorerClosedError):
        worker.start(request(5))


def test_engines_without_a_device_of_their_own_run_in_their_thread() -> None:
    worker = Worker([Small(10**6)], max_batch_tokens=64)
    assert worker.at_once is None
    assert isinstance(worker.start(request(5)), Queued)
    worker.close()


def test_damaged_scores_are_refused_on_the_short_way_too(instant: tuple[Instant, Worker]) -> None:
    engine, worker = instant
    with patch.object(engine, "launch", lambda *_: Launched(lambda: np.array([np.nan], dtype=np.float32))):
        for _ in range(3):  # and leave their place
            answer = started(worker, 1)
            with pytest.raises(ScoringError, match="must be finite"):
                answer.result()


def test_callers_on_both_ways_get_their_own(instant: tuple[Instant, Worker]) -> None:
    _, worker = instant

    def ask(name: int) -> list[float]:
        pairs = request(1 + name % 9)
        pairs.ids[1::4] += 100 * name
        return worker.start(pairs).result().logits.tolist()

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(ask, range(1, 600)))
    assert found == [[100 * name + i for i in range(1 + name % 9)] for name in range(1, 600)]
    assert worker.stats.pairs == sum(map(len, found))


class Letters:
    """An encoder that makes a token of each letter of the documents, and says who was encoded together."""

    def __init__(self) -> None:
        self.together: list[int] = []

    def expected_tokens(self, texts: Texts) -> int:
        return sum(map(len, texts.documents))

    def encode_together(self, parts: list[Texts]) -> tuple[EncodedPairs, list[Cost]]:
        self.together.append(len(parts))
        encoded = join([request(1, length=len(text)) for part in parts for text in part.documents])
        return encoded, [Cost(self.expected_tokens(part)) for part in parts]


def texts(*lengths: int) -> Texts:
    return Texts(["q"] * len(lengths), ["x" * length for length in lengths])


@pytest.fixture
def gated_texts(recorder: Recorder) -> Iterator[tuple[Instant, Letters, Worker]]:
    """Yield a worker that tokenises, held in the launch of a first pair."""
    engine, letters = Instant(), Letters()
    engine.at_once = Shape(20, 4)
    hold(engine, recorder)
    worker = Worker([engine], 64, letters)  # type: ignore[arg-type]
    worker.submit(texts(10))
    assert recorder.entered.wait(10)
    yield engine, letters, worker
    recorder.gate.set()
    worker.close()


def test_texts_that_wait_are_tokenised_together_in_batches_taken_at_once(
    gated_texts: tuple[Instant, Letters, Worker], recorder: Recorder
) -> None:
    engine, letters, worker = gated_texts
    waiting = [worker.submit(texts(5, 5)) for _ in range(10)]
    cancelled = worker.submit(texts(5, 5))
    assert worker.waiting_tokens == 110
    assert cancelled.cancel()
    recorder.gate.set()
    for answer in waiting:
        assert answer.result(10).cost.tokens == 10
    # Four batches a round.
    assert letters.together == [1, 8, 2]
    assert engine.sizes == [10, *[20] * 4, 20]
    # As much as a full batch in the air, 64 tokens, before the first is collected.
    assert engine.log[:6] == ["launch 0", "launch 1", "launch 2", "launch 3", "collect 0", "launch 4"]


def test_pairs_of_a_round_of_texts_are_bounded_and_the_first_is_taken_as_a_whole(
    gated_texts: tuple[Instant, Letters, Worker], recorder: Recorder
) -> None:
    _, letters, worker = gated_texts
    answers = [worker.submit(texts(*[2] * pairs)) for pairs in (30, 10, 10)]  # 16 pairs a round
    recorder.gate.set()
    assert [len(answer.result(10).logits) for answer in answers] == [30, 10, 10]
    assert letters.together == [1, 1, 1, 1]


def test_what_comes_tokenised_has_full_batches(
    gated_texts: tuple[Instant, Letters, Worker], recorder: Recorder
) -> None:
    engine, _, worker = gated_texts
    answer = worker.submit(request(40))
    recorder.gate.set()
    assert answer.result(10).logits.tolist() == list(range(40))
    assert engine.sizes[1:] == [64, 64, 32]


def test_texts_wait_within_the_queues_bound(recorder: Recorder) -> None:
    worker = Worker([recorder], BUDGET, Letters(), max_queue_tokens=30)  # type: ignore[arg-type]
    assert not worker.tokenizes  # its engine leaves no time for that
    first = worker.submit(request(1))
    assert recorder.entered.wait(10)
    waiting = worker.submit(texts(20))
    with pytest.raises(QueueFullError, match="20 do and 11 came"):
        worker.submit(texts(11))
    waiting.cancel()
    late = worker.submit(texts(11))  # who does not want an answer does not count
    recorder.gate.set()
    assert len(first.result(10).logits) == len(late.result(10).logits) == 1
    worker.close()


def test_replicas_share_one_queue(recorder: Recorder) -> None:
    other = Recorder()
    worker = Worker([recorder, other], BUDGET)
    assert worker.lines == 2
    long = worker.submit(request(400, name=1))
    small = [worker.submit(request(4, name=i)) for i in range(2, 12)]
    assert recorder.entered.wait(10)
    assert other.entered.wait(10)  # one holds the long request's first round, the other goes on
    recorder.gate.set()
    other.gate.set()
    assert long.result(10).logits.tolist() == list(range(400))
    assert all(answer.result(10).logits.tolist() == [0, 1, 2, 3] for answer in small)
    assert recorder.batches
    assert other.batches
    worker.close()


def test_what_batches_held_is_counted(recorder: Recorder) -> None:
    worker, _ = held(recorder, batch_cost=100)
    late = worker.submit(join([request(5, length=4), request(5, length=6)]))  # one batch: another costs more
    assert worker.stats == WorkerStats(waiting_tokens=50)
    recorder.gate.set()
    late.result(10)
    assert worker.stats == WorkerStats(
        batches=2,
        pairs=1 + 10,
        tokens=4 + 50,
        padded_tokens=4 + 10 * 6,
        capacity_tokens=2 * BUDGET,
    )
    worker.submit(request(1, length=2 * BUDGET)).result(10)  # longer than a batch may be: fills its own
    assert worker.stats.capacity_tokens == 4 * BUDGET
    worker.close()


def test_an_engine_that_does_not_pad_counts_no_padding() -> None:
    worker = Worker([Small(10**6)], BUDGET)
    worker.submit(join([request(2, length=3), request(2, length=9)])).result(10)
    assert (worker.stats.tokens, worker.stats.padded_tokens) == (24, 24)
    worker.close()


def test_scorers_that_share_a_model_share_its_figures(bundled: CrossEncoderScorer) -> None:
    before = bundled.stats
    tokens = bundled.score_detailed("who wrote Faust?", ["Goethe wrote Faust.", "A fist is a hand."]).tokens
    after = bundled.stats
    assert (after.pairs - before.pairs, after.tokens - before.tokens) == (2, tokens)
    assert after.batches > before.batches


def test_parts_that_replicas_place_at_once_are_all_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    made, empty = [], np.empty

    def slowly(*args: Any, **options: Any) -> np.ndarray:
        made.append(args)
        time.sleep(0.05)  # another part comes
        return empty(*args, **options)

    job = Job(request(100), 400)
    rows = np.zeros(100, dtype=ROW)
    rows["logits"] = np.arange(100)
    halves = np.arange(50), np.arange(50, 100)
    with monkeypatch.context() as patched, ThreadPoolExecutor(2) as pool:
        patched.setattr(jobs.np, "empty", slowly)
        list(pool.map(lambda half: job.place(half, rows[half]), halves))
    assert len(made) == 1
    assert job.future.result(0).logits.tolist() == list(range(100))


class Panic(BaseException):
    """What is no Exception, as those that come from Rust."""


def test_whatever_ends_an_engines_thread_nobody_waits_forever(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    def panic() -> None:
        raise Panic("with somebody's text")

    recorder.after = panic
    worker, inside = held(recorder)
    waiting = worker.submit(request(1, name=2))
    recorder.gate.set()
    for answer in (inside, waiting):
        with pytest.raises(ScoringError, match="engine's thread ended by Panic"):
            answer.result(10)
    assert worker.closed
    with pytest.raises(ScoringError, match="thread has ended, as the log says"):
        worker.submit(request(1, name=3))
    worker.close()
    assert "ended by Panic" in caplog.text
    assert "somebody" not in caplog.text


class OddError(Exception):
    """An error of another library's own."""


def test_an_error_of_any_kind_is_explained(recorder: Recorder) -> None:
    def fail() -> None:
        raise OddError("no such kernel")

    recorder.after = fail
    worker, inside = held(recorder)
    recorder.gate.set()
    with pytest.raises(ScoringError, match="recorder engine failed on 1 pairs: no such kernel") as caught:
        inside.result(10)
    assert isinstance(caught.value.__cause__, OddError)
    worker.close()


def test_logits_that_are_no_numbers_fail_their_own_request_alone(recorder: Recorder) -> None:
    worker, first = held(recorder)
    bad, good = worker.submit(request(2, name=2)), worker.submit(request(3, name=3))

    def forward(pairs: EncodedPairs, indices: np.ndarray) -> np.ndarray:
        names = pairs.ids[pairs.offsets[indices]]
        return np.where(names == 2, np.nan, names).astype(np.float32)

    with patch.object(recorder, "forward", forward):
        recorder.gate.set()
        first.result(10)
        with pytest.raises(ScoringError, match="2 that are not"):
            bad.result(10)
        assert good.result(10).logits.tolist() == [3, 3, 3]
    worker.close()
