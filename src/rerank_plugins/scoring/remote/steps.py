"""The words between what is to be done over the network, and who does it, blocking or not.

A call is a generator that yields steps and is sent what came of them; it knows no thread and no event loop.
"""

import math
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

__all__ = ["All", "Answer", "Deadline", "Pause", "Send", "Step", "Steps"]

T = TypeVar("T")


class Deadline:
    """A moment at which a call must be over; without seconds, never."""

    def __init__(self, seconds: float | None) -> None:
        self._end = math.inf if seconds is None else time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds that are left; below 0 if it has passed."""
        return self._end - time.monotonic()


@dataclass(frozen=True)
class Send:
    """Send a request; what comes back is an `Answer`, whatever its status, or an error of httpx."""

    method: str
    url: str
    body: Mapping[str, Any] | None
    deadline: Deadline


@dataclass(frozen=True)
class Pause:
    """Wait; nothing comes back."""

    seconds: float


@dataclass(frozen=True)
class All:
    """Do all of these, several at once; what comes back are their results in this order."""

    each: Sequence["Steps[Any]"]


@dataclass(frozen=True)
class Answer:
    """What a server answered: status, headers with lower-case names, and the whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


Step = Send | Pause | All
Steps = Generator[Step, Any, T]
