"""Intervals and tests against scipy's own, on simulated runs with a known effect and with none."""

import itertools

import numpy as np
import pytest
from scipy import stats

from rerank_plugins import InvalidInputError
from rerank_plugins.evaluation import compare

SIMULATIONS = 200


def simulate(effect: float, queries: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return two runs whose values differ by `effect` in expectation, and are alike otherwise."""
    draw = np.random.default_rng(seed)
    hardness = draw.beta(2, 2, queries)
    before = hardness + draw.normal(0, 0.15, queries)
    return before, hardness + draw.normal(0, 0.15, queries) + effect


def test_counts_and_means() -> None:
    found = compare(np.array([0.1, 0.5, 0.5, 0.1 + 0.2]), np.array([0.2, 0.4, 0.5, 0.3]))
    assert (found.wins, found.losses, found.ties) == (1, 1, 2)  # 0.1 + 0.2 is 0.3
    assert found.delta == pytest.approx(found.after - found.before)


def test_the_interval_is_that_of_a_paired_bootstrap_of_two_samples() -> None:
    before, after = simulate(0.05, 120, seed=3)
    ours = compare(before, after)
    theirs = stats.bootstrap(
        (after, before),
        lambda x, y, axis: x.mean(axis) - y.mean(axis),
        paired=True,
        method="percentile",
        n_resamples=9999,
        rng=np.random.default_rng(99),
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.03 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.03 * width)
    student = stats.ttest_rel(after, before).confidence_interval()
    assert ours.low == pytest.approx(student.low, abs=0.05 * width)
    assert ours.high == pytest.approx(student.high, abs=0.05 * width)


def test_p_is_exact_for_few_queries() -> None:
    before, after = simulate(0.15, 9, seed=1)
    deltas = after - before
    flipped = [np.mean(deltas * signs) for signs in itertools.product((1, -1), repeat=9)]
    exact = np.mean(np.abs(flipped) >= abs(deltas.mean()) - 1e-12)
    assert compare(before, after).p_value == pytest.approx(exact)


def test_p_agrees_with_scipy_on_a_known_effect() -> None:
    before, after = simulate(0.04, 200, seed=5)
    ours = compare(before, after).p_value
    assert ours == pytest.approx(stats.ttest_rel(after, before).pvalue, abs=0.01)
    small = compare(*simulate(0.1, 200, seed=6))
    assert small.p_value < 0.001
    assert small.better
    assert not small.worse


@pytest.mark.parametrize("effect", [0.0, 0.06])
def test_intervals_hold_the_truth_as_often_as_they_say(effect: float) -> None:
    runs = [compare(*simulate(effect, 50, seed), resamples=999) for seed in range(SIMULATIONS)]
    held = np.mean([found.low <= effect <= found.high for found in runs])
    # 95 % of 200, give or take three standard errors; the percentile bootstrap is a little narrow at 50.
    assert 0.89 < held < 0.995


def test_a_null_effect_is_called_one_in_one_of_twenty_cases() -> None:
    called = [compare(*simulate(0.0, 50, seed), resamples=999).p_value < 0.05 for seed in range(SIMULATIONS)]
    assert 0.01 < np.mean(called) < 0.1


def test_a_known_effect_is_found_as_often_as_a_t_test_finds_it() -> None:
    effect, queries = 0.08, 50
    runs = [simulate(effect, queries, seed) for seed in range(SIMULATIONS)]
    ours = np.mean([compare(*pair, resamples=999).p_value < 0.05 for pair in runs])
    theirs = np.mean([stats.ttest_rel(after, before).pvalue < 0.05 for before, after in runs])
    shift = effect / (0.15 * np.sqrt(2) / np.sqrt(queries))
    bound = stats.t.ppf(0.975, queries - 1)
    power = stats.nct.sf(bound, queries - 1, shift) + stats.nct.cdf(-bound, queries - 1, shift)
    assert 0.6 < power < 0.9, "neither certain nor hopeless, so that a wrong test would show"
    assert ours == pytest.approx(theirs, abs=0.03)
    assert ours == pytest.approx(power, abs=0.1)  # three standard errors of 200 draws


def test_the_same_seed_gives_the_same_figures() -> None:
    runs = simulate(0.03, 40, seed=2)
    assert compare(*runs, seed=7) == compare(*runs, seed=7)
    assert compare(*runs, seed=7) != compare(*runs, seed=8)


def test_runs_that_are_alike_and_single_queries() -> None:
    same = np.full(30, 0.5)
    found = compare(same, same)
    assert (found.delta, found.low, found.high, found.p_value) == (0, 0, 0, 1)
    assert not found.better
    assert not found.worse
    one = compare(np.array([0.1]), np.array([0.9]))
    assert (one.low, one.high, one.p_value) == (None, None, None)
    assert not one.better


def test_bad_arguments_are_named() -> None:
    with pytest.raises(InvalidInputError, match="one value a query"):
        compare(np.zeros(3), np.zeros(4))
    with pytest.raises(InvalidInputError, match="one value a query"):
        compare(np.zeros(0), np.zeros(0))
    for bad in ({"confidence": 1.0}, {"resamples": 10}):
        with pytest.raises(InvalidInputError, match="confidence must be"):
            compare(np.zeros(3), np.zeros(3), **bad)
