"""`Flight`: one call on its way through caches, tokeniser and worker, chunk by chunk."""

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain, count
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.errors import QueueFullError
from rerank_plugins.inputs import refuse_surrogates
from rerank_plugins.scoring.cache import ContentCache
from rerank_plugins.scoring.direct import Direct
from rerank_plugins.scoring.dispatch import Worker
from rerank_plugins.scoring.jobs import ROW, Scored, Work
from rerank_plugins.scoring.pairs import Pair, PairEncoder, Texts
from rerank_plugins.scoring.protocol import Scores
from rerank_plugins.scoring.turnstile import Queued

__all__ = ["Chunk", "Flight", "Row"]

# What is kept of a scored pair, here and in the score cache.
Row = tuple[float, int, bool, bool]

_TO_COME = np.empty(0, dtype=ROW)
_TOTALS = (
    *("tokens", "texts", "token_cache_hits", "score_cache_hits", "out_of_memory"),
    *("tokenize_ms", "queue_ms", "compute_ms"),
)
# Pairs tokenised and queued at once: bounds memory, and lets tokenising overlap with the engine.
_CHUNK = 1024


@dataclass(frozen=True)
class Chunk:
    """Distinct pairs, and what is known of them.

    Attributes:
        number: Which chunk of the call it is.
        texts: Those that have to be scored.
        places: int64, which of the chunk's pairs they are; None: all.
        keys: Their digests, if scores are remembered.
    """

    number: int
    texts: Texts
    places: NDArray[np.int64] | None = None
    keys: Sequence[bytes] = ()


@dataclass(frozen=True)
class _Pending:
    chunk: Chunk
    answer: "Future[Scored] | Direct | Queued"


class Flight:
    """Scores the pairs of one call, a few chunks in the air: one that each engine works on, one more ready.

    Texts and token ids are let go when their chunk has landed: what grows with the number of pairs is a
    row and a digest each. Leaving the `with` block early drops what still waits.
    """

    def __init__(self, encoder: PairEncoder, worker: Worker, scores: ContentCache[Row]) -> None:
        self._encoder = encoder
        self._worker = worker
        self._cache = scores
        self._pending: deque[_Pending] = deque()
        self._places = array("q")
        self._rows: list[NDArray[np.void]] = []
        # As `Scores` has them.
        self._totals: dict[str, Any] = dict.fromkeys(_TOTALS, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for pending in self._pending:
            pending.answer.cancel()

    @property
    def full(self) -> bool:
        """Whether the oldest chunk must land before another may start."""
        return len(self._pending) > self._worker.lines

    @property
    def oldest(self) -> "Future[Scored] | Direct | Queued | None":
        """The answer to the chunk that is longest in the air."""
        return self._pending[0].answer if self._pending else None

    def chunks(self, pairs: Iterable[Pair]) -> Iterator[Chunk]:
        """Yield each distinct pair once: equal pairs get equal scores, to the last bit, and cost once.

        Raises:
            InvalidInputError: If a text is not valid Unicode.
        """
        seen: dict[bytes, int] = {}
        for texts, more in self._cut(pairs):
            refuse_surrogates(chain(texts.queries, texts.documents))
            if not (seen or more or self._cache.enabled) and len(set(texts.documents)) == len(texts):
                # The whole call, as nearly always: no need to remember the pairs.
                self._rows.append(_TO_COME)
                yield Chunk(0, texts)
                return
            of = texts.digests
            keys = [of[query] + of[text] for query, text in zip(texts.queries, texts.documents, strict=True)]
            fresh: dict[bytes, int] = {}
            for i, key in enumerate(keys):
                if key not in seen:
                    fresh.setdefault(key, i)
            seen.update(zip(fresh, count(len(seen)), strict=False))
            self._places.extend(map(seen.__getitem__, keys))
            if fresh:
                yield self._chunk(fresh, texts)

    def _cut(self, pairs: Iterable[Pair]) -> Iterator[tuple[Texts, bool]]:
        """Yield the texts of chunks, and whether there may be more."""
        queries: list[str] = []
        documents: list[str] = []
        tokens, most = self._worker.at_once or (2**62, _CHUNK)
        longest, room = self._encoder.most_characters, self._encoder.room_for(tokens)
        characters = 0
        for query, document in pairs:
            queries.append(query)
            documents.append(document)
            characters += min(len(document), longest) + 1
            if len(documents) == most or characters >= room:
                yield Texts(queries, documents, characters), True
                queries, documents, characters = [], [], 0
                room = self._encoder.room_for(tokens)
        if documents:
            yield Texts(queries, documents, characters), False

    def _chunk(self, fresh: dict[bytes, int], texts: Texts) -> Chunk:
        """Return what of a chunk has to be scored, given its distinct pairs by digest."""
        rows, places, keys = _TO_COME, None, list(fresh)
        known = self._cache.find(keys)
        if known:
            rows = np.empty(len(keys), dtype=ROW)
            self._totals["score_cache_hits"] += len(known)
            for i, key in enumerate(keys):
                if key in known:
                    rows[i] = known[key]
            places = np.array([i for i, key in enumerate(keys) if key not in known], dtype=np.int64)
            keys = [keys[i] for i in places]
        if len(keys) < len(texts):
            left = [fresh[key] for key in keys]
            queries, documents = ([of[i] for i in left] for of in (texts.queries, texts.documents))
            texts = Texts(queries, documents, texts.characters * len(left) // len(texts))
        self._rows.append(rows)
        return Chunk(len(self._rows) - 1, texts, places, keys if self._cache.enabled else ())

    def start(self, chunk: Chunk) -> bool:
        """Score a chunk for this thread, which will wait for it; else as `submit`."""
        return self._add(chunk, self._worker.start, chunk.texts)

    def submit(self, chunk: Chunk, work: Work) -> bool:
        """Queue a chunk's texts, tokenised or not; if all its scores are known it has landed.

        Returns:
            False if the queue is too full for it, but has another chunk of this call, which must land first.

        Raises:
            QueueFullError: If too much of others waits.
        """
        return self._add(chunk, self._worker.submit, work)

    def _add(
        self, chunk: Chunk, ask: Callable[[Work], "Future[Scored] | Direct | Queued"], work: Work
    ) -> bool:
        try:
            if len(work):
                self._pending.append(_Pending(chunk, ask(work)))
        except QueueFullError:
            if not self._pending:
                raise
            return False
        return True

    def land(self, scored: Scored) -> None:
        """Take the answer to the oldest chunk."""
        chunk, rows, cost = self._pending.popleft().chunk, scored.rows, scored.cost
        if chunk.places is None:
            self._rows[chunk.number] = rows
        else:
            self._rows[chunk.number][chunk.places] = rows
        if self._cache.enabled:
            self._cache.keep(zip(chunk.keys, cast("list[Row]", rows.tolist()), strict=True))
        totals = self._totals
        totals["tokens"] += cost.tokens
        totals["texts"] += cost.texts
        totals["token_cache_hits"] += cost.cached_texts
        totals["tokenize_ms"] += cost.milliseconds
        totals["out_of_memory"] += scored.out_of_memory
        totals["compute_ms"] += scored.compute_ms
        totals["queue_ms"] = max(totals["queue_ms"], scored.queue_ms)

    def scores(self) -> Scores:
        """Return the scores of all pairs, in the order they were given."""
        rows = self._rows[0] if len(self._rows) == 1 else np.concatenate([np.empty(0, ROW), *self._rows])
        if self._places and len(rows) != len(self._places):
            rows = rows[np.frombuffer(self._places, dtype=np.int64)]
        columns: dict[str, Any] = {name: np.ascontiguousarray(rows[name]) for name in ROW.names or ()}
        return Scores(**columns, **self._totals)
