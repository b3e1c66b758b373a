"""The ring behind the status page: right figures, in bounded memory, whatever the clock does."""

import numpy as np
import pytest

from rerank_plugins.serving.status.history import History


class Clock:
    def __init__(self) -> None:
        self.now = 1000.5

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def history(clock: Clock) -> History:
    return History(10, window=2, clock=clock)


def test_a_second_shows_when_it_is_over_and_leaves_after_its_time(history: History, clock: Clock) -> None:
    history.add("documents", 8)
    assert history.series()["documents"] == [0.0] * 10
    clock.now += 1
    assert history.series()["documents"] == [0.0] * 9 + [4.0]  # 8 in a window of two seconds
    clock.now += 1
    history.add("documents", 2)
    assert history.series()["documents"] == [0.0] * 8 + [4.0, 4.0]
    clock.now += 10
    assert history.series()["documents"] == [1.0, 1.0] + [0.0] * 8
    clock.now += 5
    assert history.series()["documents"] == [0.0] * 10
    assert history.totals["documents"] == 10


@pytest.mark.parametrize("pause", [10, 13, 26, 10_000])
def test_nothing_is_left_of_what_was_before_a_long_pause(history: History, clock: Clock, pause: int) -> None:
    for _ in range(30):
        clock.now += 1
        history.answered(0.1)
    clock.now += pause + 3
    assert set(history.series()["requests"]) == {0.0}
    assert set(history.series()["p50"]) == {None}


def test_a_clock_that_steps_back_loses_nothing(history: History, clock: Clock) -> None:
    history.add("tokens", 2)
    clock.now -= 3
    history.add("tokens", 2)
    clock.now += 4
    assert history.series()["tokens"][-1] == 2.0


def test_percentiles_are_those_of_the_latencies_within_a_tenth(history: History, clock: Clock) -> None:
    latencies = np.random.default_rng(7).lognormal(-3, 1, size=2000)
    for latency in latencies:
        history.answered(latency)
    clock.now += 1
    series = history.series()
    for percent in (50, 95, 99):
        assert series[f"p{percent}"][-1] == pytest.approx(np.percentile(latencies, percent), rel=0.1)
        assert series[f"p{percent}"][-2] is None
    assert series["requests"][-1] == 1000.0


@pytest.mark.parametrize("latency", [0.0, 1e-9, 1e9])
def test_latencies_out_of_range_count_at_its_ends(history: History, clock: Clock, latency: float) -> None:
    history.answered(latency)
    clock.now += 1
    assert history.series()["p99"][-1] > 0
