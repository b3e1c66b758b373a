"""`Watched`: metrics of models and queues, asked for at each scrape."""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rerank_plugins.reranker import Reranker
from rerank_plugins.scoring.cross_encoder import CrossEncoderScorer
from rerank_plugins.scoring.protocol import ScorerInfo
from rerank_plugins.scoring.tally import WorkerStats

__all__ = ["Watched", "running_here"]

_COUNTED = {
    "batches": "Batches scored.",
    "tokens": "Tokens in them.",
    "padded_tokens": "Tokens in them, padding included.",
    "capacity_tokens": "Tokens they had room for.",
}


def running_here(rerankers: Mapping[str, Reranker]) -> dict[str, CrossEncoderScorer]:
    """Return the scorers of what runs here, by name; of those that share a worker one, for all."""
    found: dict[str, CrossEncoderScorer] = {}
    for name, reranker in rerankers.items():
        scorer = reranker.scorer
        if isinstance(scorer, CrossEncoderScorer) and all(scorer.info is not f.info for f in found.values()):
            found[name] = scorer
    return found


class Watched(Collector):
    """Asks models that run here what they are, what their workers scored, and what waits for them.

    Args:
        loaded: Returns the models that are loaded, by name.
        inside: Returns how many requests are inside.
    """

    def __init__(self, loaded: Callable[[], Mapping[str, Reranker]], inside: Callable[[], int]) -> None:
        self._loaded = loaded
        self._inside = inside

    def collect(self) -> Iterable[Metric]:
        """Yield the families with their values now."""
        yield GaugeMetricFamily("rerank_requests_in_progress", "Requests inside.", value=self._inside())
        yield GaugeMetricFamily("rerank_models_loaded", "Models that are loaded.", value=len(self._loaded()))
        own = running_here(self._loaded())
        yield from _described({model: scorer.info for model, scorer in own.items()})
        yield from _worked({model: scorer.stats for model, scorer in own.items()})


def _described(infos: Mapping[str, ScorerInfo]) -> Iterable[Metric]:
    labels = ("device", "dtype", "engine")
    what = GaugeMetricFamily("rerank_model_info", "1 for each model loaded.", labels=("model", *labels))
    memory = GaugeMetricFamily("rerank_model_memory_bytes", "Memory of its weights.", labels=["model"])
    for model, info in infos.items():
        what.add_metric([model, *(getattr(info, label) for label in labels)], 1)
        memory.add_metric([model], info.memory)
    return what, memory


def _worked(stats: Mapping[str, WorkerStats]) -> Iterable[Metric]:
    queue = GaugeMetricFamily("rerank_queue_tokens", "Tokens that wait for the engine.", labels=["model"])
    for model, of_model in stats.items():
        queue.add_metric([model], of_model.waiting_tokens)
    yield queue
    for field, text in _COUNTED.items():
        name = "rerank_batches" if field == "batches" else f"rerank_batch_{field}"
        family = CounterMetricFamily(name, text, labels=["model"])
        for model, of_model in stats.items():
            family.add_metric([model], getattr(of_model, field))
        yield family
