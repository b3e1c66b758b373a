"""`Flight`: one call on its way through caches, tokeniser and worker, chunk by chunk."""

import math
import time
from array import array
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain, count
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.inputs import refuse_surrogates
from rerank_plugins.scoring.cache import ContentCache, digest
from rerank_plugins.scoring.direct import Direct
from rerank_plugins.scoring.dispatch import Worker
from rerank_plugins.scoring.jobs import Scored
from rerank_plugins.scoring.pairs import EncodedPairs, PairEncoder
from rerank_plugins.scoring.protocol import Scores

__all__ = ["Chunk", "Flight", "Row"]

Pair = tuple[str, str]
# What is kept of a scored pair, here and in the score cache.
Row = tuple[float, int, bool, bool]

_ROW = np.dtype([("logits", "f4"), ("document_tokens", "i4"), ("truncated", "?"), ("query_truncated", "?")])
# Pairs tokenised and queued at once: bounds memory, and lets tokenising overlap with the engine.
_CHUNK = 1024
# Where the caller may launch by itself (see `Worker.start`), how far a chunk is to fill what it may launch.
_FILL = 0.93
# Characters of documents for each token of their pairs, until the call's own texts tell.
_CHARACTERS = 3.7


@dataclass(frozen=True)
class Chunk:
    """Distinct pairs, and what is known of them.

    Attributes:
        keys: Digest of each of the n pairs.
        rows: [n], filled for the pairs that the score cache knew; the rest when they land.
        places: int64, which of the n have to be scored.
        pairs: Those pairs.
        digests: Of their texts.
    """

    keys: list[bytes]
    rows: NDArray[np.void]
    places: NDArray[np.int64]
    pairs: list[Pair]
    digests: dict[str, bytes]


@dataclass(frozen=True)
class _Pending:
    chunk: Chunk
    encoded: EncodedPairs
    answer: "Future[Scored] | Direct"


class Flight:
    """Scores the pairs of one call, a few chunks in the air: one that each engine works on, one more ready.

    Texts and token ids are let go when their chunk has landed: what grows with the number of pairs is a
    row and a digest each. Leaving the `with` block early drops what still waits.
    """

    def __init__(self, encoder: PairEncoder, worker: Worker, scores: ContentCache[Row]) -> None:
        self._encoder = encoder
        self._worker = worker
        self._cache = scores
        self._at_once = worker.at_once
        self._characters = _CHARACTERS
        self._pending: deque[_Pending] = deque()
        self._places = array("q")
        self._rows: list[NDArray[np.void]] = []
        self._counts: Counter[str] = Counter()
        self._times = {"tokenize_ms": 0.0, "queue_ms": 0.0, "compute_ms": 0.0}

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
    def oldest(self) -> "Future[Scored] | Direct | None":
        """The answer to the chunk that is longest in the air."""
        return self._pending[0].answer if self._pending else None

    def chunks(self, pairs: Iterable[Pair]) -> Iterator[Chunk]:
        """Yield each distinct pair once: equal pairs get equal scores, to the last bit, and cost once.

        Raises:
            InvalidInputError: If a text is not valid Unicode.
        """
        seen: dict[bytes, int] = {}
        for some in self._cut(pairs):
            digests = _digests(dict.fromkeys(chain.from_iterable(some)))
            keys = [digests[query] + digests[document] for query, document in some]
            fresh = {key: pair for key, pair in zip(keys, some, strict=True) if key not in seen}
            seen.update(zip(fresh, count(len(seen)), strict=False))
            self._places.extend(map(seen.__getitem__, keys))
            if fresh:
                yield self._chunk(fresh, digests)

    def _cut(self, pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
        """Yield the pairs in lists that are chunks."""
        some: list[Pair] = []
        tokens, most = self._at_once or (math.inf, _CHUNK)
        length = 0
        for pair in pairs:
            some.append(pair)
            length += _length(pair)
            if len(some) == most or length >= tokens * self._characters * _FILL:
                yield some
                some, length = [], 0
        if some:
            yield some

    def _chunk(self, fresh: dict[bytes, Pair], digests: dict[str, bytes]) -> Chunk:
        keys = list(fresh)
        known = self._cache.find(keys)
        self._counts["score_cache_hits"] += len(known)
        rows = np.empty(len(keys), dtype=_ROW)
        places = [i for i, key in enumerate(keys) if key not in known]
        for i, key in enumerate(keys):
            if key in known:
                rows[i] = known[key]
        self._rows.append(rows)
        return Chunk(keys, rows, np.array(places, dtype=np.int64), [fresh[keys[i]] for i in places], digests)

    def encode(self, chunk: Chunk) -> EncodedPairs:
        """Tokenise what has to be scored."""
        started = time.perf_counter()
        encoded = self._encoder.encode(chunk.pairs, chunk.digests)
        self._times["tokenize_ms"] += (time.perf_counter() - started) * 1000
        if self._at_once and len(encoded):
            self._characters = sum(map(_length, chunk.pairs)) / len(encoded.ids)
        return encoded

    def submit(self, chunk: Chunk, encoded: EncodedPairs) -> None:
        """Queue a chunk; one whose scores are all known has landed."""
        if len(encoded):
            self._pending.append(_Pending(chunk, encoded, self._worker.submit(encoded)))

    def start(self, chunk: Chunk, encoded: EncodedPairs) -> None:
        """Launch a chunk from this thread, which will wait for it, if an engine is idle; else queue it."""
        direct = self._worker.start(encoded) if len(encoded) else None
        if direct:
            self._pending.append(_Pending(chunk, encoded, direct))
        else:
            self.submit(chunk, encoded)

    def land(self, scored: Scored) -> None:
        """Take the answer to the oldest chunk."""
        pending = self._pending.popleft()
        chunk, encoded = pending.chunk, pending.encoded
        found = np.empty(len(encoded), dtype=_ROW)
        found["logits"] = scored.logits
        for name in ("document_tokens", "truncated", "query_truncated"):
            found[name] = getattr(encoded, name)
        chunk.rows[chunk.places] = found
        if self._cache.enabled:
            rows = cast("list[Row]", found.tolist())
            self._cache.keep((chunk.keys[i], row) for i, row in zip(chunk.places, rows, strict=True))
        self._counts["tokens"] += len(encoded.ids)
        self._counts["texts"] += encoded.texts
        self._counts["token_cache_hits"] += encoded.cached_texts
        self._counts["out_of_memory"] += scored.out_of_memory
        self._times["compute_ms"] += scored.compute_ms
        self._times["queue_ms"] = max(self._times["queue_ms"], scored.queue_ms)

    def scores(self) -> Scores:
        """Return the scores of all pairs, in the order they were given."""
        rows = self._rows[0] if len(self._rows) == 1 else np.concatenate([np.empty(0, _ROW), *self._rows])
        if len(rows) != len(self._places):
            rows = rows[np.frombuffer(self._places, dtype=np.int64)]
        details: dict[str, Any] = {name: np.ascontiguousarray(rows[name]) for name in _ROW.names or ()}
        details |= self._times | self._counts
        return Scores(**details)


def _length(pair: Pair) -> int:
    """Return the characters of a pair's document, and one more, as an empty one takes tokens too."""
    return len(pair[1]) + 1


def _digests(texts: Iterable[str]) -> dict[str, bytes]:
    """Return the digest of each text."""
    try:
        return {text: digest(text) for text in texts}
    except UnicodeError:
        refuse_surrogates(texts)
        raise
