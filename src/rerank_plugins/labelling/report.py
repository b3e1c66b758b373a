"""`LabelReport`: what a labelling job did."""

from collections.abc import Callable
from dataclasses import dataclass, field

from rerank_plugins.labelling.job import ModelPrint
from rerank_plugins.labelling.worker import ShardReport

__all__ = ["LabelReport", "Progress", "WorkerReport"]


@dataclass
class WorkerReport:
    """What one worker did.

    Attributes:
        pairs: Pairs it labelled.
        busy: Seconds it spent on them, reading and writing included.
        started: When it began its first shard, in seconds since 1970.
        ended: When it had written its last.
    """

    pairs: int = 0
    busy: float = 0.0
    started: float = float("inf")
    ended: float = 0.0

    @property
    def rate(self) -> float:
        """Pairs a second from its first shard to its last, waiting included."""
        return self.pairs / max(self.ended - self.started, 1e-9)


@dataclass
class LabelReport:
    """What a job did.

    Attributes:
        rows: Rows of all inputs.
        before: How many of them were done when this call began.
        scorer: The model, and how it computes.
        pairs: Pairs labelled by this call.
        bad: How many of them had no text and got null labels.
        truncated: How many documents were cut.
        seconds: What this call took, starting Ray and loading included.
        workers: What each worker did, by host and process.
        done: Rows that are done by now.
    """

    rows: int
    before: int
    scorer: ModelPrint
    pairs: int = 0
    bad: int = 0
    truncated: int = 0
    seconds: float = 0.0
    workers: dict[str, WorkerReport] = field(default_factory=dict)
    done: int = field(init=False)

    def __post_init__(self) -> None:
        self.done = self.before

    def add(self, shard: ShardReport, rows: int) -> None:
        """Count a shard that was labelled, of so many rows."""
        self.done += rows
        self.pairs += shard.pairs
        self.bad += shard.bad
        self.truncated += shard.truncated
        worker = self.workers.setdefault(shard.worker, WorkerReport())
        worker.pairs += shard.pairs
        worker.busy += shard.ended - shard.started
        worker.started = min(worker.started, shard.started)
        worker.ended = max(worker.ended, shard.ended)


Progress = Callable[[LabelReport], None]
