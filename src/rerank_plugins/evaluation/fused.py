"""Fusion with the first stage, at known logits: which weight to set, and what it is worth."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.errors import InvalidInputError
from rerank_plugins.evaluation.folds import fold_of
from rerank_plugins.evaluation.measures import PRIMARY, Judge
from rerank_plugins.evaluation.statistics import Comparison
from rerank_plugins.evaluation.systems import reorder
from rerank_plugins.evaluation.topics import Topic
from rerank_plugins.settings import Fusion, check_fusion

__all__ = ["FUSION_WEIGHTS", "FittedWeight", "Fused", "Wanted", "check_wanted", "fit_weight", "title"]

Wanted = Fusion | Literal["fit"]

FUSION_WEIGHTS = tuple(step / 20 for step in range(21))
_TOP = 10  # of PRIMARY, nDCG@10


@dataclass(frozen=True)
class FittedWeight:
    """A weight chosen on labelled queries.

    Attributes:
        weight: The best on all queries: the one to set.
        fold_weights: The best on all queries but those of a fold, for each fold.
        curve: (weight, mean nDCG@10 of all queries) of each weight that was tried.
        by_query: The weight chosen without the query, by its id: what it is judged with.
    """

    weight: float
    fold_weights: tuple[float, ...]
    curve: tuple[tuple[float, float], ...]
    by_query: dict[str, float]


@dataclass(frozen=True)
class Fused:
    """How a system came from another one by fusing it with the first stage.

    Attributes:
        of: Name of the other one: the same logits alone.
        fusion: What to set.
        comparison: nDCG@10 against `of`.
        fold_weights: If it was fitted, the weights that queries were judged with, a fold each; else empty.
        curve: If it was fitted, (weight, mean nDCG@10) of each weight tried on all queries; else empty.
    """

    of: str
    fusion: Fusion
    comparison: Comparison
    fold_weights: tuple[float, ...] = ()
    curve: tuple[tuple[float, float], ...] = ()


def check_wanted(wanted: Sequence[Any], topics: Sequence[Topic]) -> tuple[Wanted, ...]:
    """Return fusions that can be tried on these topics, each once.

    Raises:
        InvalidInputError: If one is neither `"rrf"`, `"fit"` nor a weight from 0 to 1, or a weight has
            no first-stage scores to weigh, or one is to be fitted to a single query.
    """
    checked: list[Wanted] = ["fit" if one == "fit" else _check(one) for one in wanted]
    if "fit" in checked:
        fold_of(len(topics), 0)
    if any(one != "rrf" for one in checked):
        for topic in topics:
            if topic.candidates and all(candidate.score is None for candidate in topic.candidates):
                msg = (
                    f"a weight needs first-stage scores, but no candidate of query {topic.id!r} has one; "
                    'fuse by "rrf", which takes their order'
                )
                raise InvalidInputError(msg)
    return tuple(dict.fromkeys(checked))


def _check(fusion: Any) -> Fusion:
    if fusion is None:
        raise InvalidInputError('fusions must be "rrf", "fit" or weights from 0 to 1, but got None')
    found: Fusion = check_fusion(fusion)
    return found


def title(name: str, wanted: Wanted) -> str:
    """Return the name of a system after fusion."""
    named = {"fit": "fitted fusion", "rrf": "rrf"}
    return f"{name} + {named.get(str(wanted), f'fusion {wanted}')}"


def fit_weight(
    topics: Sequence[Topic],
    logits: Mapping[str, NDArray[np.float64]],
    judge: Judge,
    *,
    seed: int = 0,
    tried: Callable[[int, int], None] = lambda *_: None,
) -> FittedWeight:
    """Choose the weight with the highest mean nDCG@10, of equals the largest: that which changes least.

    Args:
        topics: Judged queries with candidates.
        logits: Of the first candidates of each query, by its id.
        judge: Judges nDCG@10.
        seed: Of the folds.
        tried: Told how many weights were tried, of how many.

    Raises:
        InvalidInputError: If there are fewer than two queries.
    """
    folds = fold_of(len(topics), seed)
    values = np.empty((len(FUSION_WEIGHTS), len(topics)))
    for row, weight in enumerate(FUSION_WEIGHTS):
        tried(row, len(FUSION_WEIGHTS))
        orders = {topic.id: _first_ids(topic, logits[topic.id], weight) for topic in topics}
        by_query = judge.measure(orders).by_query[PRIMARY]
        values[row] = [by_query[topic.id] for topic in topics]
    fold_weights = tuple(_best(values[:, folds != fold]) for fold in range(int(folds.max()) + 1))
    return FittedWeight(
        weight=_best(values),
        fold_weights=fold_weights,
        curve=tuple(zip(FUSION_WEIGHTS, values.mean(axis=1).tolist(), strict=True)),
        by_query={topic.id: fold_weights[fold] for topic, fold in zip(topics, folds, strict=True)},
    )


def _first_ids(topic: Topic, logits: NDArray[np.float64], weight: float) -> list[str]:
    """Return ids of the first documents, as many as count; chunks of one document are one."""
    order = reorder(topic.candidates, logits, weight)
    return list(dict.fromkeys(candidate.id for candidate in order))[:_TOP]


def _best(values: NDArray[np.float64]) -> float:
    # Rounded, so that the last digits of a mean do not choose between equals.
    means = np.round(values.mean(axis=1), 12)
    return FUSION_WEIGHTS[len(means) - 1 - int(means[::-1].argmax())]
