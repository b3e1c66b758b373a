"""`Line`: one engine, and what its thread does all day."""

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from rerank_plugins.errors import RerankError, ScoringError
from rerank_plugins.scoring.direct import Direct
from rerank_plugins.scoring.engines.base import Engine, Launched, free_cached_memory
from rerank_plugins.scoring.jobs import Round, Slice, Work
from rerank_plugins.scoring.pairs import EncodedPairs, PairEncoder

if TYPE_CHECKING:
    from rerank_plugins.scoring.dispatch import Worker

__all__ = ["Line"]

logger = logging.getLogger(__name__)

# Batches that callers may have on a device: one that it works on, and one more.
_CALLERS_BATCHES = 2


@dataclass(frozen=True)
class _Flying:
    """A batch that an engine works on."""

    round: Round
    batch: NDArray[np.int64]
    tokens: int
    launched: Launched
    began: float


class Line:
    """Takes rounds, launches their batches, lands them in order.

    Args:
        worker: Whose queue it takes from.
        engine: What scores.
        encoder: Tokenises what comes as texts.
    """

    def __init__(self, worker: "Worker", engine: Engine, encoder: PairEncoder | None) -> None:
        self._worker = worker
        self._encoder = encoder
        self._engine = engine
        self._flying: deque[_Flying] = deque()
        self._landed = 0.0
        self._scoring = False
        # Those that are not answered yet.
        self._rounds: list[Round] = []
        # Held while the engine is called: callers launch, too.
        self._launching = threading.Lock()
        self._slots = threading.BoundedSemaphore(_CALLERS_BATCHES)
        self._closed = False

    def start(self, work: Work) -> Direct | EncodedPairs | None:
        """Tokenise and launch in the caller's thread.

        Returns:
            The scores to come; the pairs if they cannot be launched; None if the engine has work already.
        """
        if self._scoring or self._flying or not self._slots.acquire(blocking=False):
            return None
        launched: Launched | None = None
        try:
            pairs = work if isinstance(work, EncodedPairs) else self._worker.encode(work)
            launched = self._launch_at_once(pairs)
        finally:
            if launched is None:
                self._slots.release()
        return pairs if launched is None else Direct(pairs, lambda: self._fetch(pairs, launched), self._slots)

    def _launch_at_once(self, pairs: EncodedPairs) -> Launched | None:
        if len(pairs.ids) > self._worker.max_batch_tokens or not self._launching.acquire(blocking=False):
            return None
        try:
            if self._closed or self._flying or not self._engine.takes_at_once(pairs):
                return None
            return self._engine.launch(pairs, np.arange(len(pairs)))
        except Exception:  # noqa: BLE001 - from the queue it is launched again, and its failure dealt with
            return None
        finally:
            self._launching.release()

    def _fetch(self, pairs: EncodedPairs, launched: Launched) -> NDArray[np.float32]:
        try:
            logits = launched.collect()
        except Exception as error:  # noqa: BLE001 - raised again, in words
            explained = self._explained(error, len(pairs))
            raise explained from explained.__cause__
        if not np.isfinite(logits).all():
            raise self._not_finite(logits)
        self._worker.count(pairs.lengths, pads=False)
        return logits

    def run(self) -> None:
        """Score until the worker is closed, then free the engine; whatever happens, nobody waits forever."""
        try:
            while self._step():
                pass
        except BaseException as error:  # noqa: BLE001 - it ends here, and says so
            # Its text is for the callers: it may hold some of theirs.
            logger.critical("the %s engine's thread ended by %s", self._engine.name, type(error).__name__)
            ended = ScoringError(f"the {self._engine.name} engine's thread ended by {error!r}")
            self._worker.give_up(ended)
            for round_ in self._rounds:
                for job in round_.jobs:
                    job.fail(ended)
            self._rounds.clear()
            self._flying.clear()
        with self._launching:
            self._closed = True
            self._engine.close()

    def _step(self) -> bool:
        """Do what comes next; False if nothing does. While it waits nothing holds what was asked before."""
        while self._first_is_done:
            self._land()
        self._worker.give_way()
        slices = self._worker.next_round(wait=not self._flying)
        if slices:
            self._scoring = True
            self._score(slices)
            self._scoring = False
        elif self._flying:
            self._land()
        else:
            return False
        return True

    def _score(self, slices: list[Slice]) -> None:
        try:
            round_ = Round(slices, self._encoder)
            batches = self._worker.plan(round_, pads=self._engine.pads)
        except BaseException as error:  # noqa: BLE001 - the tokenizer's panics, too; nobody waits forever
            failed = error if isinstance(error, Exception) else ScoringError(f"tokenising failed: {error!r}")
            for job, _ in slices:
                job.fail(failed)
            return
        self._rounds.append(round_)
        round_.batches = len(batches)
        for batch in batches:
            self._launch(round_, batch)
            while self._too_far_ahead:
                self._land()

    @property
    def _first_is_done(self) -> bool:
        """Whether the device is through with the oldest batch in the air: its callers need not wait."""
        try:
            return bool(self._flying) and self._flying[0].launched.done()
        except Exception:  # noqa: BLE001 - collecting raises it again, where it is dealt with
            return True

    @property
    def _too_far_ahead(self) -> bool:
        """Whether more is in the air than is good: who comes next waits for all of it."""
        tokens = sum(flying.tokens for flying in self._flying)
        return tokens > self._engine.ahead * self._worker.max_batch_tokens

    def _launch(self, round_: Round, batch: NDArray[np.int64]) -> None:
        began = time.perf_counter()
        try:
            with self._launching:
                launched = self._engine.launch(round_.pairs, batch)
        except torch.OutOfMemoryError as error:
            self._halve(round_, batch, began, error.with_traceback(None))  # its frames hold what did fit
        except Exception as error:  # noqa: BLE001 - whatever happens, nobody waits forever
            self._answer(round_, batch, began, error, batch)
        else:
            tokens = int(round_.pairs.lengths[batch].sum())
            self._flying.append(_Flying(round_, batch, tokens, launched, began))

    def _land(self) -> None:
        flying = self._flying.popleft()
        round_, batch = flying.round, flying.batch
        # While the batch before was on the device, this one waited.
        began = max(flying.began, self._landed)
        try:
            logits = flying.launched.collect()
        except torch.OutOfMemoryError as error:
            self._halve(round_, batch, began, error.with_traceback(None))
        except Exception as error:  # noqa: BLE001 - whatever happens, nobody waits forever
            self._answer(round_, batch, began, error, batch)
        else:
            round_.place(batch, logits)
            self._worker.count(round_.pairs.lengths[batch], pads=self._engine.pads)
            bad = batch[~np.isfinite(logits)]
            self._answer(round_, batch, began, self._not_finite(logits) if len(bad) else None, bad)
        self._landed = time.perf_counter()

    def _halve(
        self, round_: Round, batch: NDArray[np.int64], began: float, error: torch.OutOfMemoryError
    ) -> None:
        """Give memory back, score a batch in halves, and plan smaller ones from the next round on."""
        while self._flying:  # what flies holds memory
            self._land()
        free_cached_memory()
        lengths = round_.pairs.lengths[batch]
        if len(batch) == 1:
            msg = f"the device has no memory for one pair of {int(lengths[0])} tokens: {error}"
            self._answer(round_, batch, began, ScoringError(msg), batch)
            return
        for job in round_.members(batch):
            job.spent((time.perf_counter() - began) * 1000, out_of_memory=1)
        self._worker.shrink(max(int(lengths.sum()) // 2, int(lengths.max())))
        halves = np.array_split(batch, 2)
        round_.batches += len(halves) - 1
        for half in halves:
            self._launch(round_, half)
            while self._flying:
                self._land()

    def _answer(
        self,
        round_: Round,
        batch: NDArray[np.int64],
        began: float,
        error: Exception | None,
        failed: NDArray[np.int64],
    ) -> None:
        """Note that a batch is done, and tell the requests that have a pair in `failed`."""
        spent = (time.perf_counter() - began) * 1000
        for job in round_.members(batch):
            job.spent(spent)
        if error is not None:
            for job in round_.members(failed):
                job.fail(self._explained(error, len(batch)))
        round_.batches -= 1
        if not round_.batches:
            round_.finish()
            self._rounds.remove(round_)

    def _explained(self, error: Exception, pairs: int) -> Exception:
        if isinstance(error, RerankError):
            return error
        explained = ScoringError(f"the {self._engine.name} engine failed on {pairs} pairs: {error}")
        explained.__cause__ = error
        return explained

    def _not_finite(self, logits: NDArray[np.float32]) -> ScoringError:
        return ScoringError(
            f"logits must be finite, but the {self._engine.name} engine returned "
            f"{int((~np.isfinite(logits)).sum())} that are not; weights may be damaged, or "
            "float16 overflows: try dtype='float32'"
        )
