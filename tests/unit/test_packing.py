"""Batches by tokens, and joining of requests."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins.scoring.dispatch import join
from rerank_plugins.scoring.packing import plan_batches
from rerank_plugins.scoring.pairs import EncodedPairs


@given(lengths=st.lists(st.integers(1, 512), max_size=200), budget=st.integers(1, 4096))
def test_every_pair_once_within_the_budget_and_no_batch_too_small(lengths: list[int], budget: int) -> None:
    array = np.array(lengths, dtype=np.int64)
    batches = plan_batches(array, budget)
    assert sorted(np.concatenate([*batches, np.zeros(0, int)]).tolist()) == list(range(len(lengths)))
    for i, batch in enumerate(batches):
        longest = int(array[batch].max())
        assert len(batch) * longest <= budget or len(batch) == 1
        assert array[batch][0] == longest
        if i + 1 < len(batches):  # the next pair would not have fitted
            assert (len(batch) + 1) * longest > budget


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
