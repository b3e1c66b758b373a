"""Batches by tokens, and joining of requests."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins.scoring.jobs import join
from rerank_plugins.scoring.packing import plan_batches
from rerank_plugins.scoring.pairs import EncodedPairs

LENGTHS = st.lists(st.integers(1, 512), max_size=200)


@given(lengths=LENGTHS, budget=st.integers(1, 4096), cost=st.integers(0, 500))
def test_every_pair_once_within_the_budget_longest_first(lengths: list[int], budget: int, cost: int) -> None:
    array = np.array(lengths, dtype=np.int64)
    batches = plan_batches(array, budget, cost)
    assert sorted(np.concatenate([*batches, np.zeros(0, int)]).tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) * array[batch].max() <= budget or len(batch) == 1
    flat = [array[i] for batch in batches for i in batch]
    assert flat == sorted(flat, reverse=True)


@given(lengths=LENGTHS, budget=st.integers(1, 4096))
def test_without_padding_batches_are_full(lengths: list[int], budget: int) -> None:
    array = np.array(lengths, dtype=np.int64)
    batches = plan_batches(array, budget, 100, pads=False)
    assert sorted(np.concatenate([*batches, np.zeros(0, int)]).tolist()) == list(range(len(lengths)))
    for batch, following in itertools.pairwise([*batches, None]):
        tokens = int(array[batch].sum())
        assert tokens <= budget or len(batch) == 1
        if following is not None:  # no room was left for the next pair
            assert tokens + int(array[following[0]]) > budget


@given(lengths=LENGTHS, budget=st.integers(1, 4096))
def test_batches_in_order_are_full_too(lengths: list[int], budget: int) -> None:
    array = np.array(lengths, dtype=np.int64)
    batches = plan_batches(array, budget, pads=False, in_order=True)
    assert np.concatenate([*batches, np.zeros(0, int)]).tolist() == list(range(len(lengths)))
    for batch, following in itertools.pairwise(batches):
        assert array[batch].sum() + array[following[0]] > budget
        assert array[batch].sum() <= budget or len(batch) == 1


def cost_of(array: np.ndarray, batches: list[np.ndarray], cost: int) -> int:
    return sum(len(batch) * int(array[batch].max()) + cost for batch in batches)


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=9),
    budget=st.integers(1, 120),
    cost=st.integers(0, 60),
)
def test_no_way_to_cut_is_cheaper(lengths: list[int], budget: int, cost: int) -> None:
    array = np.array(lengths, dtype=np.int64)
    ordered = np.sort(array)[::-1]
    found = cost_of(array, plan_batches(array, budget, cost), cost)
    for cuts in itertools.product([False, True], repeat=len(lengths) - 1):
        parts = np.split(ordered, [i + 1 for i, cut in enumerate(cuts) if cut])
        if all(len(part) * part[0] <= budget or len(part) == 1 for part in parts):
            assert found <= sum(len(part) * int(part[0]) + cost for part in parts)


def test_equal_lengths_make_as_few_batches_as_fit() -> None:
    assert [len(batch) for batch in plan_batches(np.full(40, 10), 100, 1)] == [10] * 4


def encoded(*lengths: int) -> EncodedPairs:
    n = len(lengths)
    return EncodedPairs(
        ids=np.arange(sum(lengths), dtype=np.int32) + 100 * n,
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        boundaries=np.array([length // 2 for length in lengths], dtype=np.int32),
        document_type=1,
        document_tokens=np.array(lengths, dtype=np.int32),
        truncated=np.zeros(n, dtype=bool),
        query_truncated=np.zeros(n, dtype=bool),
    )


@given(st.lists(st.lists(st.integers(1, 9), max_size=5), min_size=1, max_size=6))
def test_joining_keeps_every_pair(groups: list[list[int]]) -> None:
    parts = [encoded(*group) for group in groups]
    joined = join(parts)
    pairs = [
        (part.pair_ids(i).tolist(), part.type_ids(i).tolist()) for part in parts for i in range(len(part))
    ]
    assert [(joined.pair_ids(i).tolist(), joined.type_ids(i).tolist()) for i in range(len(joined))] == pairs
