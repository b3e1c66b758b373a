"""`StatusReport`: what the server says of itself in `GET /stats`."""

import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from rerank_plugins import __version__
from rerank_plugins.reranker import Reranker
from rerank_plugins.scoring.cross_encoder import CrossEncoderScorer
from rerank_plugins.scoring.protocol import info_of
from rerank_plugins.serving.metrics import Metrics
from rerank_plugins.serving.service import Service
from rerank_plugins.serving.watched import running_here

__all__ = ["StatusReport"]

# How many reports ago "lately" began; pages ask once a second.
_LATELY = 10


class StatusReport:
    """Gathers what a status page shows.

    Args:
        service: Its models, limits and queues.
        metrics: What it counted.
    """

    def __init__(self, service: Service, metrics: Metrics) -> None:
        self._service = service
        self._metrics = metrics
        self._began = time.monotonic()
        self._batches: deque[tuple[int, int]] = deque([(0, 0)], maxlen=_LATELY)

    def now(self) -> dict[str, Any]:
        """Return models, queue, totals, and the last minutes second by second, ready for JSON."""
        pool, loaded = self._service.pool, self._service.pool.loaded()
        return {
            "version": __version__,
            "uptime_seconds": round(time.monotonic() - self._began, 1),
            "models": [_describe(name, loaded.get(name)) for name in pool.names],
            "queue": {
                "requests": self._service.door.inside,
                "tokens": sum(queue.tokens for queue in self._service.queues.values()),
                "batch_fill": self._fill(running_here(loaded).values()),
            },
            "totals": dict(self._metrics.history.totals),
            "series": self._metrics.history.series(),
        }

    def _fill(self, scorers: Iterable[CrossEncoderScorer]) -> float | None:
        """Return which share of their room batches filled lately; None if there were none."""
        every = [scorer.stats for scorer in scorers]
        self._batches.append((sum(s.padded_tokens for s in every), sum(s.capacity_tokens for s in every)))
        (filled, room), (filled_now, room_now) = self._batches[0], self._batches[-1]
        return round((filled_now - filled) / (room_now - room), 3) if room_now > room else None


def _describe(name: str, reranker: Reranker | None) -> dict[str, Any]:
    """Return what a served model is; one that is not loaded has no more than its name."""
    info = info_of(reranker.scorer) if reranker else None
    shown = ("model", "revision", "device", "dtype", "engine", "max_length", "memory", "reasons")
    described = {} if info is None else {field: getattr(info, field) for field in shown}
    return {"name": name, "loaded": reranker is not None, **described}
