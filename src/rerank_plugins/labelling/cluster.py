"""The Ray that labelling runs on, and its pool of workers."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import ray
from ray._private import worker
from ray.exceptions import RayError

from rerank_plugins.errors import InvalidInputError, RerankError, ScoringError
from rerank_plugins.settings import ScorerSettings

__all__ = ["Pool", "cluster", "told"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pool:
    """How many workers there are, and what each has.

    Attributes:
        least: Workers at least.
        most: Workers at most.
        cpus: CPUs of each.
        gpus: GPUs of each.
    """

    least: int
    most: int
    cpus: float
    gpus: float

    @classmethod
    def of(
        cls,
        workers: int | None,
        most: int | None,
        cpus: float,
        gpus: float | None,
        settings: ScorerSettings,
    ) -> Self:
        """Return the pool that was asked for; see `label`.

        Raises:
            InvalidInputError: If a number cannot be used, or no worker will ever fit.
        """
        for name, value in {"workers": workers, "max_workers": most}.items():
            if value is not None and value < 1:
                msg = f"{name} must be at least 1, but got {value}"
                raise InvalidInputError(msg)
        if cpus <= 0 or (gpus or 0) < 0:
            msg = f"cpus must be above 0 and gpus at least 0, but got {cpus} and {gpus}"
            raise InvalidInputError(msg)
        there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        all_cpus, all_gpus = there.get("CPU", 0), there.get("GPU", 0)
        if gpus is None:
            gpus = 1.0 if all_gpus and settings.device != "cpu" else 0.0
        room = int(min(all_cpus / cpus, all_gpus / gpus if gpus else float("inf")))
        if not room and _started_here():  # on a cluster that may grow, waiting can help
            msg = (
                f"a worker must fit into the Ray that was started here, which has {all_cpus:g} CPUs and "
                f"{all_gpus:g} GPUs, but got cpus={cpus:g} and gpus={gpus:g}; ask for no more than there is, "
                "or give the address of a cluster that has it"
            )
            raise InvalidInputError(msg)
        least = workers or max(1, min(room, most or room))
        if least > room:
            logger.warning("there is room for %d of %d workers now", room, least)
        if (most or least) < least:
            msg = f"max_workers must be at least workers, but got {most} and {least}"
            raise InvalidInputError(msg)
        return cls(least, most or least, cpus, gpus)

    @property
    def threads(self) -> int:
        """Threads that a worker computes with."""
        return max(1, int(self.cpus))

    def place(self, settings: ScorerSettings) -> ScorerSettings:
        """Return settings for a worker: without a GPU of its own it must not take one that it sees."""
        here = self.gpus or settings.device != "auto"
        return settings if here else settings.model_copy(update={"device": "cpu"})


@contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """Use the Ray that runs, or one for as long as this takes."""
    if ray.is_initialized():
        yield
        return
    try:
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError) as error:
        msg = f"address must be that of a Ray cluster, but {address!r}: {error}"
        raise InvalidInputError(msg) from error
    except Exception as error:  # Ray raises bare ones, where the machine is too busy for its 30 seconds
        msg = f"Ray must start, but: {error}"
        raise ScoringError(msg) from error
    try:
        yield
    finally:
        ray.shutdown()


def _started_here() -> bool:
    """Say whether this process started the Ray it uses, which then is this machine and does not grow."""
    node = worker._global_node  # Ray tells it nowhere else
    return node is not None and node.is_head()


@contextmanager
def told() -> Iterator[None]:
    """Raise what went wrong in a worker as if it had happened here."""
    try:
        yield
    except RayError as error:
        causes = list(_causes(error))
        ours = next((cause for cause in causes if isinstance(cause, RerankError)), None)
        if ours is not None:
            raise ours from None
        reason = str(causes[-1]).strip().partition("\n")[0] or repr(causes[-1])
        msg = f"workers failed: {reason}; what is labelled stays, the same call continues"
        raise ScoringError(msg) from error


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = getattr(cause, "cause", None) or cause.__cause__
