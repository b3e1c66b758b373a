"""`Metrics`: what a server tells Prometheus. `docs/observability.md` has the table.

Requests are counted as they end; what a model's worker has scored and what waits is asked for when somebody
scrapes. Labels take few values: dialects, status codes, reasons and models are all known beforehand.
"""

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder

from rerank_plugins.ranking import RankingStats
from rerank_plugins.reranker import Reranker
from rerank_plugins.serving.status.history import History
from rerank_plugins.serving.watched import Watched

__all__ = ["Metrics"]

# From a cached small model on a GPU to a long request in a long queue.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
# Reasons that a server has because of load; the others are the client's.
_FOR_LOAD = frozenset({"overloaded", "deadline", "draining"})
# Requests that rank nothing: health checks, scrapes, the status page.
_OTHER = "other"
_STAGES = ("tokenize", "queue", "compute", "total")


class Metrics:
    """Counters, histograms and gauges of one server, in a registry of their own.

    Attributes:
        registry: The registry, to add more to it.
        history: The last minutes, second by second, for the status page.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.history = History()
        ProcessCollector(registry=self.registry)
        self._requests = self._counter("requests", "Requests answered.", "dialect", "status")
        self._seconds = self._histogram("request_seconds", "From request to reply.", "dialect")
        self._rejected = self._counter("rejected", "Requests turned away, or given up.", "reason")
        self._documents = self._counter("documents", "Documents ranked.", "model")
        self._tokens = self._counter("tokens", "Tokens read, queries and special tokens included.", "model")
        self._truncated = self._counter("truncated", "Queries and documents cut.", "model", "part")
        self._lookups = self._counter("cache_lookups", "Texts or scores looked for.", "model", "cache")
        self._hits = self._counter("cache_hits", "Of these, how many were known.", "model", "cache")
        self._halved = self._counter("out_of_memory_batches", "Batches halved for lack of memory.", "model")
        self._stages = self._histogram("stage_seconds", "Where the time of rankings went.", "model", "stage")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"rerank_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(f"rerank_{name}", text, labels, registry=self.registry, buckets=_SECONDS)

    def requests(self, dialect: str, status: int, seconds: float) -> None:
        """Count a request that was answered.

        Args:
            dialect: Whose format it had.
            status: The HTTP status of the reply.
            seconds: From its arrival to the reply.
        """
        self._requests.labels(dialect, str(status)).inc()
        self._seconds.labels(dialect).observe(seconds)
        if dialect == _OTHER:
            return
        if status < 400:
            self.history.answered(seconds)
        elif status >= 500:
            self.history.add("failed", 1)

    def rejected(self, reason: str) -> None:
        """Count a request that got no scores, by `RequestError.reason`."""
        self._rejected.labels(reason).inc()
        if reason in _FOR_LOAD:
            self.history.add("rejected", 1)

    def ranked(self, model: str, stats: RankingStats) -> None:
        """Count what a ranking read and where its time went.

        Args:
            model: The model's name.
            stats: The ranking's `stats`.
        """
        self._documents.labels(model).inc(stats.documents)
        self._tokens.labels(model).inc(stats.tokens)
        self._truncated.labels(model, "document").inc(stats.truncated)
        self._truncated.labels(model, "query").inc(stats.query_truncated)
        self._lookups.labels(model, "token").inc(stats.texts)
        self._hits.labels(model, "token").inc(stats.token_cache_hits)
        self._lookups.labels(model, "score").inc(stats.passages)
        self._hits.labels(model, "score").inc(stats.score_cache_hits)
        self._halved.labels(model).inc(stats.out_of_memory)
        for stage in _STAGES:
            self._stages.labels(model, stage).observe(getattr(stats, f"{stage}_ms") / 1000)
        self.history.add("documents", stats.documents)
        self.history.add("tokens", stats.tokens)
        self.history.add("truncated", stats.truncated)

    def watch(self, loaded: Callable[[], Mapping[str, Reranker]], inside: Callable[[], int]) -> None:
        """Tell also of models and queues, asked for at each scrape.

        Args:
            loaded: Returns the models that are loaded, by name.
            inside: Returns how many requests are inside.
        """
        self.registry.register(Watched(loaded, inside))

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return all metrics in the format that an `Accept` header asks for, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type
