"""Checks of labelled pairs."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rerank_plugins.errors import InvalidInputError
from rerank_plugins.inputs import shorten

__all__ = ["check_labelled"]


def check_labelled(
    values: ArrayLike, labels: ArrayLike, name: str
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return n finite numbers and n booleans.

    Raises:
        InvalidInputError: If they are something else.
    """
    try:
        numbers, marks = np.asarray(values, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    except (TypeError, ValueError) as error:
        msg = f"{name} and labels must be numbers, but got {shorten(values)} and {shorten(labels)}"
        raise InvalidInputError(msg) from error
    if numbers.ndim != 1 or numbers.shape != marks.shape:
        msg = f"{name} and labels must be lists of one length, but got shapes {numbers.shape}, {marks.shape}"
        raise InvalidInputError(msg)
    _refuse(name, "finite", numbers, ~np.isfinite(numbers))
    _refuse(
        "labels", "0 or 1; for graded ones say what counts, as in grade >= 2", marks, ~np.isin(marks, (0, 1))
    )
    return numbers, marks.astype(np.bool_)


def _refuse(name: str, rule: str, values: NDArray[np.float64], wrong: NDArray[np.bool_]) -> None:
    if wrong.any():
        i = int(wrong.argmax())
        msg = f"{name}[{i}] must be {rule}, but got {float(values[i])!r}"
        raise InvalidInputError(msg)
