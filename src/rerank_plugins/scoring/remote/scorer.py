"""`RemoteScorer`: a rerank server, ours or another's, as a scorer."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.errors import RemoteError
from rerank_plugins.inputs import check_pairs, pair_up, refuse_surrogates
from rerank_plugins.scoring.protocol import ScorerInfo, Scores
from rerank_plugins.scoring.remote.asking import Asking, TooLargeError
from rerank_plugins.scoring.remote.dialects import DIALECTS, BadReplyError, Reply
from rerank_plugins.scoring.remote.settings import RemoteSettings
from rerank_plugins.scoring.remote.steps import All, Deadline, Steps
from rerank_plugins.scoring.remote.transport import Transport

__all__ = ["RemoteScorer"]

logger = logging.getLogger(__name__)

# What most callers rerank, in one request that no server needs long for; Cohere bills by as many.
_MAX_DOCUMENTS = 100
_NO_SUCH_PATH = frozenset({404, 405})


class RemoteScorer:
    """Score (query, document) pairs on a server.

    Takes the place of a `CrossEncoderScorer` wherever a scorer is taken. Needs neither torch nor a model on
    this machine, and connects on the first call. Safe to share between threads and event loops; threads share
    one pool of connections, each event loop has its own. Requests that fail in passing are repeated, so that
    a server may score a document more than once.

    Logits are the server's where its dialect can be asked for raw scores. Elsewhere they are the inverse
    sigmoid of its probabilities, within -40 to 40, so that `Reranker` reports the server's own scores: exact
    probabilities of 0 and 1 become those ends and tie.

    Pickling carries the settings without `api_key` and `headers`, which the other process reads from
    `RERANK_REMOTE_API_KEY` and `RERANK_REMOTE_HEADERS`.

    Args:
        base_urls: Where the server is, without the path of the API; several to fail over. None:
            `RERANK_REMOTE_BASE_URLS`.
        settings: All settings at once; then `base_urls` and `options` may not be given.
        **options: Fields of `RemoteSettings`: `dialect`, `model`, `api_key`, `timeout`, ...

    Raises:
        InvalidInputError: If a setting is invalid.

    Example:
        >>> from rerank_plugins import RemoteScorer, Reranker
        >>> with RemoteScorer("http://127.0.0.1:8000", dialect="vllm") as scorer:
        ...     reranker = Reranker(scorer, top_k=3)
    """

    def __init__(
        self,
        base_urls: str | Sequence[str] | None = None,
        *,
        settings: RemoteSettings | None = None,
        **options: Any,
    ) -> None:
        if base_urls is not None:
            options["base_urls"] = base_urls
        self.settings = RemoteSettings.of(settings, options)
        self._dialect = DIALECTS[self.settings.dialect]
        self._scale = self.settings.scale or self._dialect.scale
        self._limit = self.settings.max_documents
        self._asking = Asking(self.settings)
        self._transport = Transport(self.settings)

    @property
    def info(self) -> ScorerInfo:
        """Whom this asks; what a client cannot know is `"unknown"` or 0."""
        return ScorerInfo(
            model=self.settings.model or "unknown",
            revision=None,
            device="remote",
            dtype="unknown",
            engine=f"remote:{self.settings.dialect}",
            max_length=0,
            max_query_tokens=0,
            max_batch_tokens=0,
            memory=0,
            reasons={"base_urls": ", ".join(self.settings.base_urls), "scale": self._scale},
        )

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._transport.closed

    def score(self, query: str, documents: Iterable[str]) -> NDArray[np.float32]:
        """Score documents against a query.

        Args:
            query: The query.
            documents: n documents; `[]` gives an empty array and asks nobody.

        Returns:
            float32 [n] logits in input order.

        Raises:
            InvalidInputError: If the query or a document is no string or not valid Unicode.
            RemoteError: If the server refuses, does not answer in time, or does not answer with one finite
                score for each document.
            ScorerClosedError: If the scorer is closed.
        """
        return self.score_detailed(query, documents).logits

    def score_pairs(self, pairs: Iterable[tuple[str, str]]) -> NDArray[np.float32]:
        """Score n (query, document) pairs; those of a query go into common requests.

        Returns:
            float32 [n] logits in input order.

        Raises:
            InvalidInputError: If a pair is not two strings, or not valid Unicode.
            RemoteError: As for `score`.
        """
        return self.score_pairs_detailed(pairs).logits

    def score_pairs_detailed(self, pairs: Iterable[tuple[str, str]]) -> Scores:
        """Score like `score_pairs`; also say what was cut and how many tokens were read, as far as known."""
        return self._transport.run(self._call(check_pairs(pairs)))

    async def ascore(self, query: str, documents: Iterable[str]) -> NDArray[np.float32]:
        """Score like `score`, without blocking the event loop; cancelling drops the requests."""
        return (await self.ascore_detailed(query, documents)).logits

    def score_detailed(self, query: str, documents: Iterable[str]) -> Scores:
        """Score like `score`; also say what was cut and how many tokens were read, if the server says."""
        return self._transport.run(self._call(pair_up(query, documents)))

    async def ascore_detailed(self, query: str, documents: Iterable[str]) -> Scores:
        """Score like `score_detailed`, without blocking the event loop."""
        return await self._transport.arun(self._call(pair_up(query, documents)))

    def close(self) -> None:
        """Close the connections. Closing twice is fine."""
        self._transport.close()

    def _call(self, pairs: Iterable[tuple[str, str]]) -> Steps[Scores]:
        """Score pairs, in as many requests as it takes."""
        deadline = Deadline(self.settings.deadline)
        parts, count = _group(pairs)
        if count and self._limit is None:
            self._limit = yield from self._ask_limit(deadline)
        parts = [piece for part in parts for piece in part.split(self._limit or _MAX_DOCUMENTS)]
        replies: list[Reply] = yield All([self._score(p.query, p.documents, deadline) for p in parts])
        scores = Scores(
            logits=np.empty(count, dtype=np.float32),
            document_tokens=np.zeros(count, dtype=np.int32),
            truncated=np.zeros(count, dtype=np.bool_),
            query_truncated=np.zeros(count, dtype=np.bool_),
            tokens=sum(reply.tokens for reply in replies),
        )
        for part, reply in zip(parts, replies, strict=True):
            scores.logits[part.places] = reply.logits
            scores.truncated[part.places] = reply.truncated
            scores.query_truncated[part.places] = reply.query_truncated
        return scores

    def _score(self, query: str, documents: list[str], deadline: Deadline) -> Steps[Reply]:
        """Score documents in one request, or in halves where that is too large for the server."""
        body = self._dialect.body(self.settings.model, query, documents)
        try:
            url, answer, found = yield from self._asking.ask("POST", self._dialect.path, body, deadline)
        except TooLargeError as error:
            if len(documents) == 1:
                raise
            logger.warning(
                "asking again in halves, see max_documents: %d documents: %s", len(documents), error
            )
            half = len(documents) // 2
            first = yield from self._score(query, documents[:half], deadline)
            return first.joined((yield from self._score(query, documents[half:], deadline)))
        scale = answer.headers.get("x-rerank-scale", self._scale)
        try:
            return self._dialect.read(found, len(documents), scale)
        except BadReplyError as error:
            msg = f"{url}: {error}"
            raise RemoteError(msg, status=answer.status, url=url) from error

    def _ask_limit(self, deadline: Deadline) -> Steps[int]:
        """Return how many documents the server takes at once, which it is asked where it can tell."""
        if self._dialect.limit is None:
            return _MAX_DOCUMENTS
        path, name = self._dialect.limit
        try:
            url, answer, found = yield from self._asking.ask("GET", path, None, deadline)
        except RemoteError as error:
            if error.status not in _NO_SUCH_PATH:
                raise
            msg = f"{error}; set max_documents, and it is not asked"
            raise RemoteError(msg, status=error.status, url=error.url) from error
        limit = found.get(name) if isinstance(found, dict) else None
        if type(limit) is not int or limit < 1:
            msg = f"{url} must say {name}, but got {self._asking.quote(answer)}; set max_documents"
            raise RemoteError(msg, status=answer.status, url=url)
        return limit

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __copy__(self) -> Self:
        return type(self)(settings=self.settings)

    def __deepcopy__(self, memo: object) -> Self:
        return copy(self)  # in this process the secrets stay

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_settings, (self.settings,)

    def __repr__(self) -> str:
        urls, state = ", ".join(self.settings.base_urls), ", closed" if self.closed else ""
        return f"RemoteScorer({urls!r}, dialect={self.settings.dialect!r}{state})"


@dataclass
class _Part:
    """Documents of one query, and where they stood."""

    query: str
    documents: list[str] = field(default_factory=list)
    places: list[int] = field(default_factory=list)

    def split(self, limit: int) -> Iterator["_Part"]:
        for i in range(0, len(self.documents), limit):
            yield _Part(self.query, self.documents[i : i + limit], self.places[i : i + limit])


def _group(pairs: Iterable[tuple[str, str]]) -> tuple[list[_Part], int]:
    """Group pairs by query, and count them."""
    parts: dict[str, _Part] = {}
    count = 0
    for query, document in pairs:
        refuse_surrogates((query, document))
        part = parts.setdefault(query, _Part(query))
        part.documents.append(document)
        part.places.append(count)
        count += 1
    return list(parts.values()), count


def _from_settings(settings: RemoteSettings) -> RemoteScorer:
    return RemoteScorer(settings=settings)
