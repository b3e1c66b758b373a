"""Token-budget batches: which pairs run together.

Batches are bounded by padded tokens, not by documents, so memory does not depend on how many or how
long the documents are. Pairs are sorted by length, and cut where padding and the fixed cost of a batch
add up to the least.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["plan_batches"]


def plan_batches(
    lengths: NDArray[np.int64],
    max_tokens: int,
    batch_cost: int = 0,
    *,
    pads: bool = True,
    in_order: bool = False,
) -> list[NDArray[np.int64]]:
    """Split pairs into batches of similar length, at the least cost.

    The cost of a batch is its padded tokens (pairs times the longest) plus `batch_cost`. Over pairs in
    order of length the best cuts are found exactly, by dynamic programming. Without padding, full batches
    are best.

    Args:
        lengths: int64 [n], tokens of each pair.
        max_tokens: Padded tokens of a batch at most; a single pair that is longer makes a batch of its
            own.
        batch_cost: What a batch costs besides its tokens, in tokens; 0 pads nothing that it can help.
        pads: Whether the pairs of a batch are padded to the longest.
        in_order: Leave the pairs in order where nothing is padded, so that few batches hold one request's.

    Returns:
        int64 index arrays, longest pairs first, so that the largest memory need comes first; every
        index in exactly one of them. Without padding, what fits into one batch keeps its order.
    """
    if not len(lengths):
        return []
    if not pads and (in_order or lengths.sum() <= max_tokens):
        return np.split(np.arange(len(lengths)), _fewest_cuts(lengths, max_tokens))
    order = np.argsort(-lengths, kind="stable")
    ordered = lengths[order]
    cuts = _cheapest_cuts(ordered, max_tokens, batch_cost) if pads else _fewest_cuts(ordered, max_tokens)
    return np.split(order, cuts)


def _fewest_cuts(lengths: NDArray[np.int64], max_tokens: int) -> list[int]:
    """Return where to cut so that each batch holds as many tokens as it may, and one pair at least."""
    ends = np.cumsum(lengths)
    cuts: list[int] = []
    begin = 0
    while True:
        before = int(ends[begin - 1]) if begin else 0
        begin = max(int(np.searchsorted(ends, before + max_tokens, side="right")), begin + 1)
        if begin >= len(lengths):
            return cuts
        cuts.append(begin)


def _cheapest_cuts(lengths: NDArray[np.int64], max_tokens: int, batch_cost: int) -> list[int]:
    """Return where to cut lengths that go down; the least number of batches among equals."""
    n = len(lengths)
    least = np.full(n + 1, np.iinfo(np.int64).max)
    least[0] = 0
    begin = np.zeros(n + 1, dtype=np.int64)  # where the last batch begins, if it ends here
    for i, longest in enumerate(np.maximum(lengths, 1).tolist()):
        # Batches that begin here: the longest comes first, so each pair more costs as much again.
        stop = min(n, i + max(1, max_tokens // longest))
        costs = least[i] + batch_cost + longest * np.arange(1, stop - i + 1)
        ends = slice(i + 1, stop + 1)
        better = costs < least[ends]
        least[ends][better] = costs[better]
        begin[ends][better] = i
    cuts: list[int] = []
    end = n
    while end and begin[end]:
        end = int(begin[end])
        cuts.append(end)
    return cuts[::-1]
