"""`CrossEncoderScorer`: settings in, a ready engine behind `score`, `score_pairs` and `ascore`."""

import asyncio
import weakref
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.errors import InvalidInputError, ScorerClosedError
from rerank_plugins.inputs import check_documents, check_pairs, check_query, pair_up
from rerank_plugins.scoring import registry
from rerank_plugins.scoring.arrivals import arrival
from rerank_plugins.scoring.flight import Flight
from rerank_plugins.scoring.jobs import Work
from rerank_plugins.scoring.pairs import EncodedPairs, Texts
from rerank_plugins.scoring.protocol import Extent, ScorerInfo, Scores, Span
from rerank_plugins.scoring.tally import WorkerStats
from rerank_plugins.settings import ScorerSettings

__all__ = ["CrossEncoderScorer"]


class CrossEncoderScorer:
    """Score (query, document) pairs with a cross-encoder.

    The model is loaded by the constructor, once per process for equal settings, and freed when the
    last scorer that uses it is closed. Safe to share between threads and event loops: concurrent
    calls are scored in common batches. Pickling carries the settings, not the weights.

    Args:
        model: Hub id, local folder or `"bundled"`; see `ScorerSettings.model`.
        settings: All settings at once; then `model` and `options` may not be given.
        **options: Fields of `ScorerSettings`: `device`, `dtype`, `engine`, `max_length`, ...

    Raises:
        InvalidInputError: If a setting is invalid, or the device is not there.
        ModelNotFoundError: If the model is neither on disk nor in the cache nor on the hub.
        ModelFormatError: If it is no cross-encoder with one logit, or its files are damaged.
        ModelError: If it does not fit into the device's free memory.
        MissingExtraError: If its architecture needs an extra that is not installed.

    Examples:
        >>> from rerank_plugins import CrossEncoderScorer
        >>> with CrossEncoderScorer("bundled") as scorer:
        ...     scorer.score("who wrote Faust?", ["Goethe wrote Faust.", "A fist is a hand."]).shape
        (2,)
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        settings: ScorerSettings | None = None,
        **options: Any,
    ) -> None:
        if model is not None:
            options["model"] = model
        self.settings = ScorerSettings.of(settings, options)
        held, self._loaded = registry.acquire(self.settings)
        # Also runs when the scorer is forgotten without close(), and at interpreter exit.
        self._release = weakref.finalize(self, held.release)

    @property
    def info(self) -> ScorerInfo:
        """What was loaded, where it runs, and why; stays readable after `close`."""
        return self._loaded.info

    @property
    def stats(self) -> WorkerStats:
        """What the loaded model has scored, for all scorers that share it, and what waits for it now.

        Raises:
            ScoringError: If this process was forked from the one that made the scorer.
        """
        self._loaded.worker.refuse_if_forked()
        return self._loaded.worker.stats

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return not self._release.alive

    def score(self, query: str, documents: Iterable[str]) -> NDArray[np.float32]:
        """Score documents against a query.

        Args:
            query: The query.
            documents: n documents; `[]` gives an empty array. An iterator is read as it is scored, so
                that memory does not grow with the texts.

        Returns:
            float32 [n] logits in input order; any real number, higher is more relevant.

        Raises:
            InvalidTypeError: If the query or a document is not a string.
            QueueFullError: If too much waits for the engine already.
            ScoringError: If the engine fails, or the scorer is closed.
        """
        return self.score_detailed(query, documents).logits

    def score_pairs(self, pairs: Iterable[tuple[str, str]]) -> NDArray[np.float32]:
        """Score n (query, document) pairs, many queries at once.

        Returns:
            float32 [n] logits in input order.

        Raises:
            InvalidTypeError: If a pair is not two strings.
            ScoringError: If the engine fails, or the scorer is closed.
        """
        return self.score_pairs_detailed(pairs).logits

    def score_pairs_detailed(self, pairs: Iterable[tuple[str, str]]) -> Scores:
        """Score like `score_pairs`; also say what was cut and what it cost."""
        return self._run(check_pairs(pairs))

    async def ascore(self, query: str, documents: Iterable[str]) -> NDArray[np.float32]:
        """Score like `score`, without blocking the event loop; cancelling drops what waits."""
        return (await self.ascore_detailed(query, documents)).logits

    def score_detailed(self, query: str, documents: Iterable[str]) -> Scores:
        """Score like `score`; also say what was cut and what it cost."""
        return self._run(pair_up(query, documents))

    async def ascore_detailed(self, query: str, documents: Iterable[str]) -> Scores:
        """Score like `score_detailed`, without blocking the event loop."""
        with self._takeoff() as flight:
            for chunk in flight.chunks(pair_up(query, documents)):
                work: Work = chunk.texts
                if len(chunk.texts) and not self._loaded.worker.tokenizes:
                    work = await self._tokenize(chunk.texts)
                while not flight.submit(chunk, work) and isinstance(flight.oldest, Future):
                    flight.land(await arrival(flight.oldest))
                while flight.full and isinstance(flight.oldest, Future):
                    flight.land(await arrival(flight.oldest))
            while isinstance(flight.oldest, Future):
                flight.land(await arrival(flight.oldest))
        return flight.scores()

    def windows(
        self,
        query: str,
        documents: Sequence[str],
        *,
        size: int | None = None,
        overlap: int,
        most: int | None = None,
    ) -> list[list[Span]]:
        """Cut documents into overlapping windows that fit beside the query, without running the model.

        Args:
            query: The query; a longer one leaves less room.
            documents: n documents.
            size: Tokens of a window, at most; None: as many as fit.
            overlap: Tokens that neighbouring windows share at least, up to half of a window.
            most: How many windows to make of a document, from its start; None: all.

        Returns:
            For each document at least one window, as characters [start, end): see `WindowScorer.windows`.

        Raises:
            InvalidInputError: If a text is no string or not valid Unicode, or a number cannot be used.
            ScoringError: If the scorer is closed, or the tokenizer fails.
        """
        self._refuse()
        numbers = {"size": size, "overlap": overlap, "most": most}
        for name, number in numbers.items():
            if not isinstance(number, int) and (number is not None or name == "overlap"):
                msg = f"{name} must be an integer, but got {number!r}"
                raise InvalidInputError(msg)
        texts = list(check_documents(documents))
        return self._loaded.encoder.windows(check_query(query), texts, size=size, overlap=overlap, most=most)

    def extents(self, query: str, documents: Sequence[str]) -> tuple[Extent, list[Extent]]:
        """Say how much the model reads of the query and of each document, without running it.

        Raises:
            InvalidInputError: If a text is no string or not valid Unicode.
            ScoringError: If the scorer is closed, or the tokenizer fails.
        """
        self._refuse()
        return self._loaded.encoder.extents(check_query(query), list(check_documents(documents)))

    def close(self) -> None:
        """Give the model back; it is freed when no other scorer uses it. Closing twice is fine."""
        self._release()

    def _run(self, pairs: Iterable[tuple[str, str]]) -> Scores:
        with self._takeoff() as flight:
            for chunk in flight.chunks(pairs):
                while not flight.start(chunk) and flight.oldest:
                    flight.land(flight.oldest.result())
                while flight.full and flight.oldest:
                    flight.land(flight.oldest.result())
            while flight.oldest:
                flight.land(flight.oldest.result())
        return flight.scores()

    def _tokenize(self, texts: Texts) -> "asyncio.Future[EncodedPairs]":
        """Tokenise beside the event loop."""
        loop, worker = asyncio.get_running_loop(), self._loaded.worker
        try:
            return loop.run_in_executor(self._loaded.tokenizing, worker.encode, texts)
        except RuntimeError as error:  # an executor that was shut down
            if not self.closed:
                raise
            raise ScorerClosedError("the scorer was closed while it was used") from error

    def _refuse(self) -> None:
        if self.closed:
            raise ScorerClosedError("the scorer must be open, but it was closed; make a new one")
        self._loaded.worker.refuse_if_forked()  # before a lock is touched that may be held for ever

    def _takeoff(self) -> Flight:
        self._refuse()
        return Flight(self._loaded.encoder, self._loaded.worker, self._loaded.scores)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_settings, (self.settings,)

    def __repr__(self) -> str:
        state = ", closed" if self.closed else ""
        return f"CrossEncoderScorer({self.settings.model!r}, device={self.info.device!r}{state})"


def _from_settings(settings: ScorerSettings) -> CrossEncoderScorer:
    return CrossEncoderScorer(settings=settings)
