"""`Labeller`: what one actor of the pool does. It reads a shard, scores it and writes it."""

import os
import socket
import time
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rerank_plugins.calibration import PLAIN
from rerank_plugins.errors import InvalidInputError
from rerank_plugins.inputs import shorten
from rerank_plugins.labelling.job import Columns, Shard
from rerank_plugins.labelling.store import Store
from rerank_plugins.labelling.tables import Rows, read_lines, read_table
from rerank_plugins.scoring.threads import limit_threads
from rerank_plugins.settings import ScorerSettings

__all__ = ["Labeller", "OnBad", "ShardReport", "Task"]

OnBad = Literal["raise", "skip"]


@dataclass(frozen=True)
class Task:
    """What an actor has to know besides its shards.

    Attributes:
        settings: The model; nothing is "auto" in precision and engine, so that all actors compute alike.
        output: Where labels go, absolute.
        columns: Names of columns.
        to: "parquet" or "jsonl".
        on_bad: What to do with rows that have no two texts.
        threads: To compute with.
        schema: See `Rows.encode`.
    """

    settings: ScorerSettings
    output: str
    columns: Columns
    to: str
    on_bad: OnBad
    threads: int
    schema: pa.Schema | None


@dataclass(frozen=True)
class ShardReport:
    """What became of one shard.

    Attributes:
        name: Of the output file.
        worker: Host and process.
        pairs: Rows that were written.
        bad: How many of them have no scores.
        truncated: How many of their documents were cut.
        started: Seconds since 1970.
        ended: Seconds since 1970.
        error: Why it was not written; empty if it was.
    """

    name: str
    worker: str
    pairs: int = 0
    bad: int = 0
    truncated: int = 0
    started: float = 0.0
    ended: float = 0.0
    error: str = ""


class Labeller:
    """Labels shards, one by one.

    Args:
        task: What to do with them.
    """

    def __init__(self, task: Task) -> None:
        limit_threads(task.threads)
        from rerank_plugins.scoring.cross_encoder import CrossEncoderScorer

        self._task = task
        self._scorer = CrossEncoderScorer(settings=task.settings)
        self._output = Store(task.output)
        self._name = f"{socket.gethostname()}:{os.getpid()}"

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, Any]:
        """Label one shard.

        Args:
            batch: Fields of one `Shard`, each an array of one.

        Returns:
            Fields of one `ShardReport`, each a list of one.
        """
        shard = Shard(**{name: values.tolist()[0] for name, values in batch.items()})
        started = time.time()
        try:
            counts = self._label(shard)
        except InvalidInputError as error:
            # Returned, not raised: retrying would not help, and the message should arrive as it is.
            report = ShardReport(shard.name, self._name, error=str(error))
        else:
            report = ShardReport(shard.name, self._name, *counts, started, time.time())
        return {name: [value] for name, value in asdict(report).items()}

    def _label(self, shard: Shard) -> tuple[int, int, int]:
        rows = _read(shard)
        columns, to = self._task.columns, self._task.to
        pairs = list(zip(rows.column(columns.query), rows.column(columns.document), strict=True))
        bad = np.fromiter((not all(map(_is_text, pair)) for pair in pairs), dtype=np.bool_, count=len(pairs))
        if bad.any() and self._task.on_bad == "raise":
            raise InvalidInputError(_describe(shard, columns, rows, int(np.flatnonzero(bad)[0])))
        scores = self._scorer.score_pairs_detailed(
            pair for pair, is_bad in zip(pairs, bad, strict=True) if not is_bad
        )
        logits, cut = np.zeros(len(pairs), dtype=np.float32), np.zeros(len(pairs), dtype=np.bool_)
        logits[~bad], cut[~bad] = scores.logits, scores.truncated
        values: list[NDArray[Any]] = [logits, PLAIN.apply(logits), cut]
        kinds = (pa.float32(), pa.float64(), pa.bool_())
        labels = dict(zip(columns.added, zip(values, kinds, strict=True), strict=True))
        self._output.publish(shard.name, rows.encode(to, labels, bad, self._task.schema))
        return len(pairs), int(bad.sum()), int(cut.sum())


def _read(shard: Shard) -> Rows:
    files = Store(shard.uri).files
    if shard.end:
        return read_lines(files, shard.path, shard.start, shard.end, shard.first)
    return read_table(files, shard.path, shard.first, shard.rows)


def _is_text(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True


def _describe(shard: Shard, columns: Columns, rows: Rows, index: int) -> str:
    name = columns.document if _is_text(rows.column(columns.query)[index]) else columns.query
    return (
        f"row {rows.number(index)} of {shard.path} must have a text as {name!r}, but has "
        f"{shorten(rows.column(name)[index])}; fix the row and start anew, or continue with on_bad='skip' "
        "(--on-bad skip), which gives it null scores"
    )
