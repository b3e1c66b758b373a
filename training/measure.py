"""How well scores order held-out lists, by source."""

import math
from collections import defaultdict
from typing import Any

from torch import Tensor


def choose_held_out(lists: list[dict[str, Any]], queries: int) -> list[dict[str, Any]]:
    """Return labelled held-out lists, as many of each source."""
    chosen = defaultdict(list)
    for row in lists:
        if row["held_out"] and row["labelled"]:
            chosen[row["source"]].append(row)
    return [row for name in sorted(chosen) for row in chosen[name][: queries // len(chosen)]]


def gain(scores: Tensor) -> float:
    """Return nDCG@10 of a list whose only relevant passage is the first; ties count against it."""
    rank = int((scores[1:] >= scores[0]).sum())
    return 1 / math.log2(rank + 2) if rank < 10 else 0.0


def by_source(lists: list[dict[str, Any]], scores: list[Tensor]) -> dict[str, float]:
    """Return mean nDCG@10 of each source, and the mean of these as "mean"."""
    found = defaultdict(list)
    for row, values in zip(lists, scores, strict=True):
        found[row["source"]].append(gain(values))
    means = {name: sum(values) / len(values) for name, values in sorted(found.items())}
    return {name: round(value, 4) for name, value in means.items()} | {
        "mean": round(sum(means.values()) / len(means), 4)
    }
