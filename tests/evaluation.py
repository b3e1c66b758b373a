"""Test sets with known answers, and scorers whose logits are known."""

import random
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.evaluation import Candidate, Topic, Topics


class ByText:
    """A scorer that reads its logits off the documents."""

    def __init__(self, logit: Callable[[str], float]) -> None:
        self.logit = logit
        self.calls: list[int] = []

    def score(self, query: str, documents: Sequence[str]) -> NDArray[np.float32]:
        self.calls.append(len(documents))
        return np.array([self.logit(text) for text in documents], dtype=np.float32)


def right(text: str) -> float:
    """Put the relevant document on top, the others in an order of no meaning."""
    return 9.0 if "right" in text else chance(text)


def wrong(text: str) -> float:
    """Put the relevant document at the bottom."""
    return -9.0 if "right" in text else chance(text)


def chance(text: str) -> float:
    return random.Random(text).random()


def make_topics(queries: int = 40, candidates: int = 20, seed: int = 0) -> Topics:
    """Return topics with one relevant document each, at a random place of the first stage."""
    draw = random.Random(seed)
    topics = []
    for q in range(queries):
        place = draw.randrange(candidates)
        found = tuple(
            Candidate(f"d{q}-{i}", f"{'right' if i == place else 'other'} text {q} {i}", float(-i))
            for i in range(candidates)
        )
        topics.append(Topic(f"q{q}", f"question {q}", found, {f"d{q}-{place}": 1}))
    return Topics("synthetic", tuple(topics), first_stage="random order")
