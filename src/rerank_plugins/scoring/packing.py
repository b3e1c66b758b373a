"""Token-budget batches: which pairs run together.

Batches are bounded by padded tokens, not by documents, so memory does not depend on how many or how
long the documents are. Pairs are sorted by length first, so that neighbours need little padding.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["plan_batches"]


def plan_batches(lengths: NDArray[np.int64], max_tokens: int) -> list[NDArray[np.int64]]:
    """Split pairs into batches of similar length.

    Args:
        lengths: int64 [n], tokens of each pair.
        max_tokens: Padded tokens (pairs times the longest) of a batch; a single pair that is longer
            makes a batch of its own.

    Returns:
        int64 index arrays, longest pairs first, so that the largest memory need comes first; every
        index in exactly one of them.
    """
    order = np.argsort(-lengths, kind="stable")
    batches = []
    start = 0
    while start < len(order):
        longest = max(1, int(lengths[order[start]]))
        stop = start + max(1, max_tokens // longest)
        batches.append(order[start:stop])
        start = stop
    return batches
