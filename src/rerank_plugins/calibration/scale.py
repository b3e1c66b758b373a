"""`Calibration`: a scale with two numbers, stored as data."""

import math
from dataclasses import dataclass
from functools import cache
from numbers import Real
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError

from rerank_plugins.errors import InvalidInputError
from rerank_plugins.files import written
from rerank_plugins.inputs import shorten

__all__ = ["PLAIN", "Calibration"]


@dataclass(frozen=True)
class Calibration:
    """A scale: `sigmoid((logit - offset) / temperature)`, which keeps the order of the logits.

    Attributes:
        temperature: Above 0. Above 1 makes the model less sure, below 1 surer.
        offset: The logit that becomes 0.5.
        model: The model it was fitted for, as `scorer.info.model` names it.
        revision: Its revision, as `scorer.info.revision` names it.
        method: How it was fitted.
        data: What it was fitted on.
        pairs: How many labelled pairs it was fitted on.
        relevant: How many of them were relevant.

    Raises:
        InvalidInputError: If temperature or offset is not finite, or the temperature not above 0.

    Examples:
        >>> from rerank_plugins.calibration import Calibration
        >>> Calibration(temperature=2.0, offset=1.0).apply([1.0, 3.0]).round(3).tolist()
        [0.5, 0.731]
    """

    temperature: float
    offset: float
    model: str | None = None
    revision: str | None = None
    method: str | None = None
    data: str | None = None
    pairs: int | None = None
    relevant: int | None = None

    __pydantic_config__ = ConfigDict(extra="forbid")

    def __post_init__(self) -> None:
        for name in ("temperature", "offset"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
                msg = f"Calibration.{name} must be a finite number, but got {value!r}"
                raise InvalidInputError(msg)
            object.__setattr__(self, name, float(value))
        if self.temperature <= 0:
            msg = f"Calibration.temperature must be above 0, but got {self.temperature!r}"
            raise InvalidInputError(msg)

    def apply(self, logits: ArrayLike) -> NDArray[np.float64]:
        """Return probabilities, float64 of the logits' shape, 0 to 1; very large logits saturate."""
        with np.errstate(over="ignore"):
            steps = (np.asarray(logits, dtype=np.float64) - self.offset) / self.temperature
        # 1 / (1 + exp(-x)), without overflow for x far below 0.
        small = np.exp(-np.abs(steps))
        return np.where(steps >= 0, 1.0, small) / (1.0 + small)

    def save(self, path: str | Path) -> None:
        """Write JSON that `load` reads, and `RerankSettings.calibration` by its path.

        Raises:
            InvalidInputError: If the file cannot be written.
        """
        with written("calibration", Path(path)):
            Path(path).write_bytes(_adapter().dump_json(self, indent=2) + b"\n")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            InvalidInputError: If the file cannot be read, or holds no calibration.
        """
        try:
            found: Self = _adapter().validate_json(Path(path).read_bytes())
        except OSError as error:
            msg = f"calibration must be a file that can be read, but {str(path)!r}: {error.strerror}"
            raise InvalidInputError(msg) from error
        except ValidationError as error:
            issues = "; ".join(
                ".".join(map(str, issue["loc"])) + f": {issue['msg']}, but got {shorten(issue['input'])}"
                for issue in error.errors(include_url=False)
            )
            msg = f"calibration must be JSON that Calibration.save wrote, but {str(path)!r}: {issues}"
            raise InvalidInputError(msg) from None
        return found


@cache
def _adapter() -> TypeAdapter[Any]:
    return TypeAdapter(Calibration)


# The sigmoid itself: `scale="probability"`.
PLAIN = Calibration(temperature=1.0, offset=0.0)
"""The calibration that changes nothing: its probabilities are the plain sigmoid of the logit."""
