"""Cross-fitting: what is chosen on some queries is judged on the others, so that every query is judged."""

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.errors import InvalidInputError

__all__ = ["FOLDS", "fold_of"]

FOLDS = 5


def fold_of(queries: int, seed: int) -> NDArray[np.int64]:
    """Deal queries into 5 folds, or one each if there are fewer.

    Args:
        queries: How many there are.
        seed: The same seed deals the same way.

    Returns:
        int64 [queries]: the number of each query's fold, from 0; folds differ in size by one at most.

    Raises:
        InvalidInputError: If there are fewer than two queries.
    """
    if queries < 2:
        msg = f"at least 2 queries must be there to choose on some and judge on others, but got {queries}"
        raise InvalidInputError(msg)
    dealt = np.arange(queries) % min(FOLDS, queries)
    return np.random.default_rng(seed).permutation(dealt)
