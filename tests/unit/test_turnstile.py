"""Threads that are answered together go on one after the other, and none of them is forgotten."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from rerank_plugins import ScoringError
from rerank_plugins.scoring import turnstile as module
from rerank_plugins.scoring.turnstile import Queued, Turn, Turnstile


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class Slow(Turnstile):
    """Holds whoever goes on until it may, and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.may = threading.Semaphore(0)
        self.passed = 0

    def leave(self, turn: Turn) -> None:
        assert self.may.acquire(timeout=10)
        self.passed += 1
        super().leave(turn)


def wait_for(answers: list[Future[Any]], turnstile: Turnstile, pool: ThreadPoolExecutor) -> list[Future[Any]]:
    """Let threads wait for answers."""
    queued = [Queued(answer, turnstile) for answer in answers]
    threads = [pool.submit(one.result) for one in queued]
    until(lambda: all(one._turn.awaited for one in queued))
    return threads


def test_the_next_is_woken_when_the_one_before_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LONGEST_TURN", 60)
    turnstile = Slow()
    answers: list[Future[Any]] = [Future() for _ in range(5)]
    with ThreadPoolExecutor(5) as pool:
        threads = wait_for(answers, turnstile, pool)
        for i, answer in enumerate(answers):
            answer.set_result(i)
        for done in range(5):
            assert len(turnstile._due) == 4 - done  # all but one are asleep
            turnstile.may.release()
            assert threads[done].result(10) == done  # in the order of their answers
    assert turnstile.passed == 5


def test_who_does_not_wait_yet_or_any_more_holds_nobody_up() -> None:
    turnstile = Turnstile()
    early, given_up, last = (Queued(answer, turnstile) for answer in (Future(), Future(), Future()))
    early._answer.set_result("early")  # before anybody asks for it
    given_up.cancel()
    last._answer.set_exception(ScoringError("the engine failed"))
    with pytest.raises(ScoringError, match="the engine failed"):
        last.result()
    assert early.result() == "early"


def test_an_engine_gives_way_until_all_are_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LONGEST_WAY", 10)
    monkeypatch.setattr(module, "_LONGEST_TURN", 60)
    turnstile = Slow()
    answers: list[Future[Any]] = [Future() for _ in range(3)]
    with ThreadPoolExecutor(4) as pool:
        turnstile.give_way()  # nobody is there
        threads = wait_for(answers, turnstile, pool)
        for answer in answers:
            answer.set_result(None)
        giving = pool.submit(turnstile.give_way)
        for thread in threads:
            assert not giving.done()
            turnstile.may.release()
            thread.result(10)
        giving.result(5)


def test_an_engine_does_not_give_way_for_long_and_lets_others_pass_who_is_slow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_LONGEST_TURN", 60)
    turnstile = Slow()
    answers: list[Future[Any]] = [Future() for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        threads = wait_for(answers, turnstile, pool)
        for answer in answers:
            answer.set_result(None)
        assert len(turnstile._due) == 1
        turnstile.give_way()
        assert not turnstile._due
        turnstile.give_way()
        assert turnstile._passing is None  # the engine waits for nobody twice
        assert not any(thread.done() for thread in threads)
        turnstile.may.release(2)


def test_a_thread_that_never_lets_the_next_one_through_holds_it_up_for_a_while_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_LONGEST_TURN", 0.05)
    turnstile = Turnstile()
    lost = Turn()
    lost.awaited = True
    turnstile.enter(lost)
    answers: list[Future[Any]] = [Future() for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        threads = wait_for(answers, turnstile, pool)
        for i, answer in enumerate(answers):
            answer.set_result(i)
        assert [thread.result(10) for thread in threads] == [0, 1, 2]
    assert turnstile._passing is None
