"""The metrics of several replicas in one reply, each with its own label."""

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

__all__ = ["join"]


class _Found(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def join(texts: Mapping[str, str]) -> bytes:
    """Return metrics of replicas as one text, every sample with the label `replica`.

    Args:
        texts: What each replica says, in Prometheus's text format, by the replica's name.
    """
    families: dict[str, Metric] = {}
    for replica, text in texts.items():
        for found in text_string_to_metric_families(text):
            family = families.setdefault(found.name, Metric(found.name, found.documentation, found.type))
            family.samples += [
                sample._replace(labels=sample.labels | {"replica": replica}) for sample in found.samples
            ]
    registry = CollectorRegistry()
    registry.register(_Found(families.values()))
    return generate_latest(registry)
