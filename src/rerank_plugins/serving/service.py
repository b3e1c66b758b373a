"""`Service`: requests of any dialect in, rankings out. Knows limits and models, and no HTTP."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from rerank_plugins.passages import window_scorer
from rerank_plugins.ranking import RankingStats
from rerank_plugins.reranker import Reranker
from rerank_plugins.serving.admission import Door, Queue
from rerank_plugins.serving.errors import RequestError
from rerank_plugins.serving.models import ModelPool
from rerank_plugins.serving.settings import ServerSettings
from rerank_plugins.settings import RerankSettings, Scale

__all__ = ["NoObserver", "Observer", "RerankReply", "RerankRequest", "RerankResult", "Service"]

# English; the real number is known only after tokenising, which is what this guards.
_CHARACTERS_PER_TOKEN = 4
# The most that a pair of any supported architecture has; BERT's have 3.
_SPECIAL_TOKENS = 4
_LONGEST_PAIR = 512
_LEAST_QUEUE_TOKENS = 2**18
_BATCHES_IN_QUEUE = 32


class Observer(Protocol):
    """What wants to be told of requests, to count them."""

    def requests(self, dialect: str, status: int, seconds: float) -> None:
        """A request was answered."""

    def ranked(self, model: str, stats: RankingStats) -> None:
        """A query's documents were ranked."""

    def rejected(self, reason: str) -> None:
        """A request got no scores: `RequestError.reason`."""


class NoObserver:
    """Counts nothing."""

    def requests(self, dialect: str, status: int, seconds: float) -> None:
        """Ignore it."""

    def ranked(self, model: str, stats: RankingStats) -> None:
        """Ignore it."""

    def rejected(self, reason: str) -> None:
        """Ignore it."""


@dataclass(frozen=True, slots=True)
class RerankRequest:
    """A query with its documents, in no dialect.

    Attributes:
        query: The query.
        documents: n documents.
        model: What the client calls the model; None: the default.
        top_n: How many results, at least 1; None: all.
        raw: Whether scores are logits; None: as the server's settings say.
        max_document_tokens: Tokens to read of each document, at most; None: what the model takes.
        max_query_tokens: Tokens to read of the query, at most.
        max_pair_tokens: Tokens of query, document and special tokens together, at most.
        may_truncate: Whether the model may read less than all of a text; if not, that is an error.
    """

    query: str
    documents: list[str]
    model: str | None = None
    top_n: int | None = None
    raw: bool | None = None
    max_document_tokens: int | None = None
    max_query_tokens: int | None = None
    max_pair_tokens: int | None = None
    may_truncate: bool = True


@dataclass(frozen=True, slots=True)
class RerankResult:
    """A document's score.

    Attributes:
        index: Position in the documents that were given.
        score: On the reply's scale.
        text: The document as it was given.
        truncated: Whether the model read less than all of it.
    """

    index: int
    score: float
    text: str
    truncated: bool


@dataclass(frozen=True, slots=True)
class RerankReply:
    """The answer to a request.

    Attributes:
        model: The served model's name.
        results: Best first, at most `top_n`.
        stats: What the ranking cost.
        scale: Scale of the scores.
    """

    model: str
    results: list[RerankResult]
    stats: RankingStats
    scale: str


class Service:
    """Ranks for all dialects, within the server's limits.

    Args:
        pool: The models.
        settings: The limits.
        observer: Who counts what happens; None: nobody.
    """

    def __init__(self, pool: ModelPool, settings: ServerSettings, observer: Observer | None = None) -> None:
        self.pool = pool
        self.settings = settings
        self.observer = observer or NoObserver()
        self.door = Door(settings.max_waiting_requests)
        self.queues: dict[str, Queue] = {}

    async def rank(self, request: RerankRequest, *, deadline: float | None = None) -> RerankReply:
        """Rank one query's documents; see `rank_all`."""
        (reply,) = await self.rank_all([request], deadline=deadline)
        return reply

    async def rank_all(
        self, requests: Sequence[RerankRequest], *, deadline: float | None = None
    ) -> list[RerankReply]:
        """Rank the documents of several queries, admitted or refused as one. Cancelling drops the work.

        Args:
            requests: One or more, all for one model.
            deadline: When the client gives up, by the event loop's clock. Work that could not be done by
                then is refused; cancelling in time is the caller's task.

        Raises:
            RequestError: If a limit is passed, too much waits, or the model is not served.
            RerankError: If the input cannot be scored, the model not loaded, or scoring fails.
        """
        documents = sum(len(request.documents) for request in requests)
        if documents > self.settings.max_documents:
            msg = f"a request may have {self.settings.max_documents} documents, but got {documents}; split it"
            raise RequestError(413, "too_large", msg)
        name = self.pool.resolve(requests[0].model)
        reranker = await self.pool.get(name)
        tokens = sum(_estimate(request, reranker) for request in requests)
        if tokens > self.settings.max_request_tokens:
            msg = (
                f"a request may have {self.settings.max_request_tokens} tokens, but this has about {tokens}; "
                "send fewer or shorter documents"
            )
            raise RequestError(413, "too_large", msg)
        patience = math.inf if deadline is None else deadline - asyncio.get_running_loop().time()
        with self._queue(name, reranker).admit(tokens, patience):
            if len(requests) == 1:
                return [await self._rank(name, reranker, requests[0])]
            return await self._rank_together(name, reranker, requests)

    async def _rank_together(
        self, name: str, reranker: Reranker, requests: Sequence[RerankRequest]
    ) -> list[RerankReply]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._rank(name, reranker, request)) for request in requests]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _rank(self, name: str, reranker: Reranker, request: RerankRequest) -> RerankReply:
        texts = _Texts(request.query, request.documents)
        if _limits(request, reranker):
            texts = await asyncio.to_thread(_cut, request, reranker)
        ranking = await reranker.arank(
            texts.query,
            texts.documents,
            top_k=request.top_n,
            min_score=None,
            scale=_scale(request, reranker.settings),
        )
        cut = {i for i, text in enumerate(texts.documents) if len(text) < len(request.documents[i])}
        results = [
            RerankResult(
                index=ranked.index,
                score=float("nan") if ranked.score is None else ranked.score,
                text=request.documents[ranked.index],
                truncated=ranked.truncated or ranked.index in cut,
            )
            for ranked in ranking
        ]
        stats = replace(
            ranking.stats,
            truncated=max(ranking.stats.truncated, len(cut)),
            query_truncated=ranking.stats.query_truncated or len(texts.query) < len(request.query),
        )
        if not request.may_truncate and (stats.truncated or stats.query_truncated):
            msg = (
                f"the query and {stats.truncated} documents"
                if stats.query_truncated
                else f"{stats.truncated} documents"
            )
            raise RequestError(
                422, "too_long", f"{msg} are longer than the model reads; shorten them, or allow truncation"
            )
        self.observer.ranked(name, stats)
        return RerankReply(name, results, stats, ranking.scale)

    def _queue(self, name: str, reranker: Reranker) -> Queue:
        if name not in self.queues:
            batch = int(_known(reranker, "max_batch_tokens", _LONGEST_PAIR))
            most = self.settings.max_queue_tokens or max(_LEAST_QUEUE_TOKENS, batch * _BATCHES_IN_QUEUE)
            self.queues[name] = Queue(most, self.settings.max_wait_ms / 1000, batch)
        return self.queues[name]


def _scale(request: RerankRequest, settings: RerankSettings) -> Scale:
    if request.raw is None:
        return settings.scale
    if request.raw:
        return "logit"
    return "probability" if settings.scale == "logit" else settings.scale


def _known(reranker: Reranker, name: str, otherwise: float) -> float:
    """Return a number that a scorer tells of itself, or what to take where it does not (0 is unknown)."""
    return getattr(getattr(reranker.scorer, "info", None), name, 0) or otherwise


def _estimate(request: RerankRequest, reranker: Reranker) -> int:
    """Return about how many tokens the model will read."""
    longest = _known(reranker, "max_length", _LONGEST_PAIR)
    beside = len(request.query) // _CHARACTERS_PER_TOKEN + _SPECIAL_TOKENS
    settings = reranker.settings
    windows = 1 if settings.long_documents == "truncate" else settings.max_passages or math.inf
    room = max(longest - beside, longest // 4)

    def pair(document: str) -> float:
        tokens = len(document) // _CHARACTERS_PER_TOKEN + 1
        count = min(-(-tokens // room), windows)
        return min(tokens, count * room) + count * min(beside, longest - room)

    return int(sum(map(pair, request.documents)))


@dataclass(frozen=True)
class _Texts:
    """What the model is given."""

    query: str
    documents: list[str]


def _limits(request: RerankRequest, reranker: Reranker) -> bool:
    """Say whether a request wants less to be read than the model would."""
    longest = _known(reranker, "max_length", math.inf)
    asked = (request.max_document_tokens, request.max_query_tokens, request.max_pair_tokens)
    return any(limit is not None and limit < longest for limit in asked)


def _cut(request: RerankRequest, reranker: Reranker) -> _Texts:
    """Cut texts where words begin, so that no more tokens are read than the request wants."""
    scorer = window_scorer(reranker.scorer, "a limit of tokens for a text")

    def start(query: str, texts: list[str], size: int | None) -> list[str]:
        if size is None:
            return texts
        found = scorer.windows(query, texts, size=size, overlap=0, most=1)
        return [text[: spans[0][1]] for text, spans in zip(texts, found, strict=True)]

    (query,) = start("", [request.query], request.max_query_tokens)
    size = request.max_document_tokens
    if request.max_pair_tokens is not None:
        of_query, _ = scorer.extents(query, [])
        room = request.max_pair_tokens - of_query.tokens - _SPECIAL_TOKENS
        if room < 1:
            msg = f"{request.max_pair_tokens} tokens for query and document leave documents nothing; raise it"
            raise RequestError(400, "invalid", msg)
        size = room if size is None else min(size, room)
    return _Texts(query, start(query, request.documents, size))
