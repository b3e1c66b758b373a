"""`CrossEncoderScorer`: settings in, a ready engine behind `score`, `score_pairs` and `ascore`."""

import asyncio
import time
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.errors import InvalidInputError, ScorerClosedError
from rerank_plugins.inputs import check_documents, check_pairs, check_query
from rerank_plugins.scoring import registry
from rerank_plugins.scoring.dispatch import Scored
from rerank_plugins.scoring.pairs import EncodedPairs
from rerank_plugins.scoring.protocol import ScorerInfo, Scores
from rerank_plugins.settings import ScorerSettings

__all__ = ["CrossEncoderScorer"]

# Pairs tokenised and queued at once: bounds memory, and lets tokenising overlap with the engine.
_CHUNK = 1024


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
        MissingExtraError: If its architecture needs an extra that is not installed.

    Example:
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
        if settings is not None and options:
            msg = f"give either settings or single options, but got both: {sorted(options)}"
            raise InvalidInputError(msg)
        self.settings = settings if settings is not None else ScorerSettings(**options)
        key, self._loaded = registry.acquire(self.settings)
        # Also runs when the scorer is forgotten without close(), and at interpreter exit.
        self._release = weakref.finalize(self, registry.release, key)

    @property
    def info(self) -> ScorerInfo:
        """What was loaded, where it runs, and why; stays readable after `close`."""
        return self._loaded.info

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return not self._release.alive

    def score(self, query: str, documents: Sequence[str]) -> NDArray[np.float32]:
        """Score documents against a query.

        Args:
            query: The query.
            documents: n documents; `[]` gives an empty array.

        Returns:
            float32 [n] logits in input order; any real number, higher is more relevant.

        Raises:
            InvalidTypeError: If the query or a document is not a string.
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
        return self._run(check_pairs(pairs)).logits

    async def ascore(self, query: str, documents: Sequence[str]) -> NDArray[np.float32]:
        """Score like `score`, without blocking the event loop; cancelling drops what waits."""
        return (await self.ascore_detailed(query, documents)).logits

    def score_detailed(self, query: str, documents: Sequence[str]) -> Scores:
        """Score like `score`; also say what was cut and what it cost."""
        return self._run(_pair_up(query, documents))

    async def ascore_detailed(self, query: str, documents: Sequence[str]) -> Scores:
        """Score like `score_detailed`, without blocking the event loop."""
        flight = self._takeoff()
        loop = asyncio.get_running_loop()
        try:
            for chunk in _chunks(flight.admit(_pair_up(query, documents))):
                encoded = await loop.run_in_executor(self._loaded.tokenizing, flight.encode, chunk)
                flight.submit(encoded)
                if flight.full:
                    flight.land(await asyncio.wrap_future(flight.oldest))
            while flight.pending:
                flight.land(await asyncio.wrap_future(flight.oldest))
        finally:
            flight.abandon()
        return flight.scores()

    def close(self) -> None:
        """Give the model back; it is freed when no other scorer uses it. Closing twice is fine."""
        self._release()

    def _run(self, pairs: list[tuple[str, str]]) -> Scores:
        flight = self._takeoff()
        try:
            for chunk in _chunks(flight.admit(pairs)):
                flight.submit(flight.encode(chunk))
                if flight.full:
                    flight.land(flight.oldest.result())
            while flight.pending:
                flight.land(flight.oldest.result())
        finally:
            flight.abandon()
        return flight.scores()

    def _takeoff(self) -> "_Flight":
        if self.closed:
            raise ScorerClosedError("the scorer must be open, but it was closed; make a new one")
        return _Flight(self._loaded)

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


def _pair_up(query: str, documents: Sequence[str]) -> list[tuple[str, str]]:
    checked = check_query(query)
    return [(checked, document) for document in check_documents(documents)]


def _chunks(pairs: list[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    for start in range(0, len(pairs), _CHUNK):
        yield pairs[start : start + _CHUNK]


@dataclass
class _Landed:
    encoded: EncodedPairs
    scored: Scored


class _Flight:
    """One call on its way through tokeniser and worker, chunk by chunk, two at most in the air."""

    def __init__(self, loaded: registry.Loaded) -> None:
        self._loaded = loaded
        self._tokenize_ms = 0.0
        self._places: list[int] = []
        self._landed: list[_Landed] = []
        self.pending: deque[tuple[EncodedPairs, Future[Scored]]] = deque()

    @property
    def full(self) -> bool:
        return len(self.pending) >= 2

    @property
    def oldest(self) -> "Future[Scored]":
        return self.pending[0][1]

    def admit(self, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Return each distinct pair once: equal pairs get equal scores, to the last bit, and cost once."""
        seen: dict[tuple[str, str], int] = {}
        self._places = [seen.setdefault(pair, len(seen)) for pair in pairs]
        return list(seen)

    def encode(self, pairs: list[tuple[str, str]]) -> EncodedPairs:
        started = time.perf_counter()
        encoded = self._loaded.encoder.encode(pairs)
        self._tokenize_ms += (time.perf_counter() - started) * 1000
        return encoded

    def submit(self, encoded: EncodedPairs) -> None:
        self.pending.append((encoded, self._loaded.worker.submit(encoded)))

    def land(self, scored: Scored) -> None:
        encoded, _ = self.pending.popleft()
        self._landed.append(_Landed(encoded, scored))

    def abandon(self) -> None:
        """Drop what still waits; nothing does unless the call failed or was cancelled."""
        for _, future in self.pending:
            future.cancel()

    def scores(self) -> Scores:
        def gather(arrays: Iterable[NDArray[Any]], dtype: type[np.generic]) -> NDArray[Any]:
            # The empty array makes a call with no documents a total function.
            return np.concatenate([np.zeros(0, dtype=dtype), *arrays])[places]

        landed, places = self._landed, np.array(self._places, dtype=np.int64)
        return Scores(
            logits=gather((part.scored.logits for part in landed), np.float32),
            document_tokens=gather((part.encoded.document_tokens for part in landed), np.int32),
            truncated=gather((part.encoded.truncated for part in landed), np.bool_),
            query_truncated=gather((part.encoded.query_truncated for part in landed), np.bool_),
            tokens=sum(len(part.encoded.ids) for part in landed),
            tokenize_ms=self._tokenize_ms,
            queue_ms=max((part.scored.queue_ms for part in landed), default=0.0),
            compute_ms=sum(part.scored.compute_ms for part in landed),
        )
