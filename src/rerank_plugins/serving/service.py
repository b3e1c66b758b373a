"""`Service`: requests of any dialect in, rankings out. Knows limits and models, and no HTTP."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, cast

from rerank_plugins.ranking import RankingStats
from rerank_plugins.reranker import Reranker
from rerank_plugins.serving.admission import Door, Queue
from rerank_plugins.serving.errors import RequestError
from rerank_plugins.serving.models import ModelPool
from rerank_plugins.serving.settings import ServerSettings
from rerank_plugins.serving.sizes import LONGEST_PAIR, NO_LIMITS, Limits, cut, estimate, known
from rerank_plugins.settings import RerankSettings, Scale

__all__ = ["NoObserver", "Observer", "RerankReply", "RerankRequest", "RerankResult", "Service"]

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
        limits: How much of the texts to read.
        may_truncate: Whether the model may read less than all of a text; if not, that is an error.
    """

    query: str
    documents: list[str]
    model: str | None = None
    top_n: int | None = None
    raw: bool | None = None
    limits: Limits = NO_LIMITS
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
        tokens = sum(estimate(r.query, r.documents, r.limits, reranker) for r in requests)
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
        query, documents = request.query, request.documents
        if request.limits.bind(reranker):
            query, documents = await asyncio.to_thread(cut, query, documents, request.limits, reranker)
        ranking = await reranker.arank(
            query,
            documents,
            top_k=request.top_n,
            min_score=None,
            scale=_scale(request, reranker.settings),
        )
        shortened = {i for i, text in enumerate(documents) if len(text) < len(request.documents[i])}
        results = [
            RerankResult(
                index=ranked.index,
                score=cast(
                    "float", ranked.score
                ),  # None is for on_error="keep_order", which the pool rules out
                text=request.documents[ranked.index],
                truncated=ranked.truncated or ranked.index in shortened,
            )
            for ranked in ranking
        ]
        stats = replace(
            ranking.stats,
            truncated=max(ranking.stats.truncated, len(shortened)),
            query_truncated=ranking.stats.query_truncated or len(query) < len(request.query),
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
            batch = int(known(reranker, "max_batch_tokens", LONGEST_PAIR))
            most = self.settings.max_queue_tokens or max(_LEAST_QUEUE_TOKENS, batch * _BATCHES_IN_QUEUE)
            self.queues[name] = Queue(most, self.settings.max_wait_ms / 1000, batch)
        return self.queues[name]


def _scale(request: RerankRequest, settings: RerankSettings) -> Scale:
    if request.raw is None:
        return settings.scale
    if request.raw:
        return "logit"
    return "probability" if settings.scale == "logit" else settings.scale
