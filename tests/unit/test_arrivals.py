"""Answers reach the tasks of an event loop, which is woken once for many; and nobody else is bothered."""

import asyncio
import gc
import logging
import threading
import weakref
from concurrent.futures import Future
from typing import Any

import pytest

from rerank_plugins import ScoringError
from rerank_plugins.scoring.arrivals import arrival


async def started(answers: list[Future[Any]]) -> list[asyncio.Task[Any]]:
    """Return tasks that wait for answers."""
    tasks = [asyncio.ensure_future(arrival(answer)) for answer in answers]
    await asyncio.sleep(0)
    return tasks


def answer_from_another_thread(answers: list[Future[Any]]) -> None:
    def answer_all() -> None:
        for i, answer in enumerate(answers):
            answer.set_result(i)

    thread = threading.Thread(target=answer_all)
    thread.start()
    thread.join()  # the loop stands still meanwhile


def test_answers_that_come_together_wake_the_loop_once() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        calls = []
        call = loop.call_soon_threadsafe
        loop.call_soon_threadsafe = lambda *args: calls.append(args) or call(*args)  # type: ignore[method-assign, assignment, func-returns-value]
        for rounds in (1, 2):
            answers: list[Future[Any]] = [Future() for _ in range(50)]
            tasks = await started(answers)
            answer_from_another_thread(answers)
            assert await asyncio.gather(*tasks) == list(range(50))
            assert len(calls) == rounds

    asyncio.run(run())


def test_answers_from_many_threads_all_arrive() -> None:
    async def run() -> None:
        answers: list[Future[Any]] = [Future() for _ in range(2000)]
        tasks = await started(answers)
        parts = [answers[i::8] for i in range(8)]
        threads = [
            threading.Thread(target=lambda part=part: [one.set_result(id(one)) for one in part])
            for part in parts
        ]
        for thread in threads:
            thread.start()
        assert await asyncio.wait_for(asyncio.gather(*tasks), 10) == [id(one) for one in answers]
        for thread in threads:
            thread.join()

    asyncio.run(run())


def test_errors_and_answers_that_are_there_already_arrive_too() -> None:
    async def run() -> None:
        ready: Future[str] = Future()
        ready.set_result("ready")
        assert await arrival(ready) == "ready"
        failed: Future[str] = Future()
        (task,) = await started([failed])
        failed.set_exception(ScoringError("the engine failed"))
        with pytest.raises(ScoringError, match="the engine failed"):
            await task

    asyncio.run(run())


def test_a_task_that_was_cancelled_bothers_nobody() -> None:
    async def run() -> None:
        answers: list[Future[Any]] = [Future(), Future()]
        given_up, kept = await started(answers)
        given_up.cancel()
        await asyncio.sleep(0)
        answer_from_another_thread(answers)
        assert await kept == 1
        assert given_up.cancelled()

    asyncio.run(run())


def test_a_loop_that_is_gone_is_let_go(caplog: pytest.LogCaptureFixture) -> None:
    answers: list[Future[Any]] = [Future(), Future()]
    loop = asyncio.new_event_loop()
    tasks = loop.run_until_complete(started(answers))
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()
    with caplog.at_level(logging.DEBUG):
        answers[0].set_result(None)
    gone = weakref.ref(loop)
    del loop, tasks, task
    with caplog.at_level(logging.DEBUG):
        answers[1].set_result(None)
    assert not caplog.records
    answers.clear()
    gc.collect()
    assert gone() is None
