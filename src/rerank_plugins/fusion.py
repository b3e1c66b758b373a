"""Fusion of a cross-encoder with the first stage: one order out of two.

Functions of arrays, so that weights can be tried on logits that are known. For one query and its n
documents, with logits x and first-stage scores y, the fused value is

- with `"rrf"`: `1 / (60 + rank by x) + 1 / (60 + rank by y)`. Ranks begin at 1, equals share the better
  one (reciprocal rank fusion; Cormack, Clarke and Büttcher, SIGIR 2009, with their constant);
- with a weight w: `w * m(x) + (1 - w) * m(y)`, where `m(v) = (v - min v) / (max v - min v)` over the n
  documents, 1 if all are equal (convex combination of min-max normalised scores; Bruch, Gai and Ingber,
  TOIS 2023). Of the logits, since their sigmoids saturate: among good documents they hardly differ.

A document without a first-stage score adds 0 for it under both: with `"rrf"` it was not found, with a weight
it is no better than the lowest that was. Equal fused values are told apart by the logit.
"""

from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.errors import InvalidInputError
from rerank_plugins.inputs import check_first_stage
from rerank_plugins.settings import Fusion

__all__ = ["RRF_CONSTANT", "best_first", "fuse", "read_first_stage"]

RRF_CONSTANT: Final = 60
"""What reciprocal rank fusion adds to each rank, as in its paper; larger ones favour the first less."""


def read_first_stage(
    fusion: Fusion | None, scores: Iterable[float | None] | None, count: int
) -> NDArray[np.float64] | None:
    """Return the first-stage scores that a fusion needs.

    Args:
        fusion: What to fuse by; None needs none, then the scores are not looked at.
        scores: One for each document, higher is better; None where there is none. Nothing but None
            counts as no scores: then `"rrf"` takes the input order, and a weight has nothing to weigh.
        count: How many documents there are.

    Returns:
        float64 [count] with NaN where there is no score, or None without fusion.

    Raises:
        InvalidInputError: If there is not one finite score or None for each document, or a weight is to
            fuse documents without scores.
    """
    if fusion is None:
        return None
    found = np.full(count, np.nan) if scores is None else np.array(check_first_stage(scores, count))
    if not np.isnan(found).all():
        return found
    if fusion != "rrf" and count:
        msg = (
            f"fusion={fusion!r} needs first-stage scores, but none of the {count} documents has one; pass "
            "first_stage= to rank (adapters: documents that carry a score; LangChain: first_stage_key), or "
            'set fusion="rrf", which can go by the input order'
        )
        raise InvalidInputError(msg)
    return -np.arange(count, dtype=np.float64)


def fuse(
    fusion: Fusion | None, logits: NDArray[np.float64], first_stage: NDArray[np.float64] | None
) -> NDArray[np.float64] | None:
    """Return fused values, higher is better.

    Args:
        fusion: What to fuse by.
        logits: float64 [n], finite.
        first_stage: float64 [n], finite, or NaN where there is no score; from `read_first_stage`.

    Returns:
        float64 [n]: with a weight 0 to 1, with `"rrf"` above 0 and at most 2 / 61. None without fusion.
    """
    if fusion is None or first_stage is None:
        return None
    if fusion == "rrf":
        return _reciprocal_ranks(logits) + _reciprocal_ranks(first_stage)
    return fusion * _min_max(logits) + (1.0 - fusion) * _min_max(first_stage)


def best_first(logits: NDArray[np.float64], fused: NDArray[np.float64] | None = None) -> NDArray[np.int64]:
    """Return positions [n], best first: by fused value if there is one, then by logit, then as given."""
    # The last key counts most; the sort is stable.
    return np.lexsort((-logits,) if fused is None else (-logits, -fused))


def _reciprocal_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 / (60 + rank), highest value first; 0 for NaN."""
    missing = np.isnan(values)
    better = np.searchsorted(np.sort(-values[~missing]), -values, side="left")
    return np.where(missing, 0.0, 1.0 / (RRF_CONSTANT + 1 + better))


def _min_max(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values moved and stretched to 0 to 1; 1 if all are equal, 0 for NaN."""
    missing = np.isnan(values)
    if missing.all():
        return np.zeros_like(values)
    # Smaller by a power of two, which is exact, so that no difference is too large for a float.
    _, exponent = np.frexp(np.nanmax(np.abs(values)))
    scaled = np.ldexp(values, -exponent)
    low, high = np.nanmin(scaled), np.nanmax(scaled)
    stretched = (scaled - low) / (high - low) if high > low else np.ones_like(values)
    return np.where(missing, 0.0, stretched)
