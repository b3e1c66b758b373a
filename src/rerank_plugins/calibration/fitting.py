"""Fit a calibration: Platt scaling (Platt 1999; Lin, Lin and Weng 2007)."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rerank_plugins.calibration.pairs import check_labelled
from rerank_plugins.calibration.scale import Calibration
from rerank_plugins.errors import InvalidInputError

__all__ = ["fit"]


def fit(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    model: str | None = None,
    revision: str | None = None,
    data: str | None = None,
) -> Calibration:
    """Fit a calibration to labelled pairs by maximum likelihood (Platt scaling).

    The targets are smoothed as Platt (1999) does, `(n1 + 1) / (n1 + 2)` for the n1 relevant pairs and
    `1 / (n0 + 2)` for the n0 others, so that pairs that can be told apart without error have a finite
    optimum too. The probabilities hold for pairs like these: label whole candidate lists of your first
    stage, not chosen pairs.

    Args:
        logits: n logits of one model.
        labels: n of 0 or 1, or booleans: whether the document answers the query.
        model: Put into the result.
        revision: Put into the result.
        data: Put into the result.

    Returns:
        The calibration.

    Raises:
        InvalidInputError: If the two differ in length or hold other values, the labels are all the same, or
            the logits do not rise with them.
    """
    values, relevant = check_labelled(logits, labels, "logits")
    positives, negatives = int(relevant.sum()), int((~relevant).sum())
    if not positives or not negatives:
        msg = f"labels must hold both 0 and 1, but got {negatives} and {positives} of them; label more pairs"
        raise InvalidInputError(msg)
    targets = np.where(relevant, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    mean, spread = values.mean(), values.std()
    slope, intercept = _maximum_likelihood((values - mean) / (spread or 1.0), targets)
    if slope <= 0:
        msg = (
            f"logits must rise with labels, but the best slope is {slope:.3g}; check that 1 means relevant, "
            "and that labels and logits are in the same order"
        )
        raise InvalidInputError(msg)
    temperature = float(spread / slope)
    return Calibration(
        temperature=temperature,
        offset=float(mean - intercept * temperature),
        model=model,
        revision=revision,
        method="platt",
        data=data,
        pairs=len(values),
        relevant=positives,
    )


def _maximum_likelihood(values: NDArray[np.float64], targets: NDArray[np.float64]) -> tuple[float, float]:
    """Return slope and intercept of the logistic regression of soft targets on values."""
    import torch

    # Whatever mode the caller is in, this needs gradients.
    with torch.inference_mode(mode=False), torch.enable_grad():
        x, y = torch.from_numpy(values), torch.from_numpy(targets)
        weights = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.LBFGS(
            [weights],
            max_iter=500,
            tolerance_grad=1e-12,
            tolerance_change=1e-14,
            line_search_fn="strong_wolfe",
        )

        def loss() -> Any:
            optimiser.zero_grad()
            value = torch.nn.functional.binary_cross_entropy_with_logits(weights[0] * x + weights[1], y)
            value.backward()  # type: ignore[no-untyped-call]
            return value

        optimiser.step(loss)  # type: ignore[no-untyped-call]
        slope, intercept = weights.tolist()
    return slope, intercept
