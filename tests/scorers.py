"""Scorers that stand in for a model where a test is about what is done with logits."""

from collections.abc import Sequence

import numpy as np

from rerank_plugins import ScoringError


class Broken:
    """A scorer that fails."""

    def score(self, query: str, documents: Sequence[str]) -> np.ndarray:
        raise ScoringError("the device fell off")


class Fixed:
    """A scorer with given logits."""

    def __init__(self, logits: Sequence[float]) -> None:
        self.logits = logits

    def score(self, query: str, documents: Sequence[str]) -> np.ndarray:
        return np.array(self.logits, dtype=np.float32)


class Spy:
    """A scorer that remembers what it was given, and prefers long texts."""

    def score(self, query: str, documents: Sequence[str]) -> np.ndarray:
        self.query, self.texts = query, list(documents)
        return np.array([len(text) for text in documents], dtype=np.float32) - 10
