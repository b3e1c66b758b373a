"""Nodes, scorers and listeners that the tests of the LlamaIndex adapter share."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

QUERY = "who wrote Faust?"


def nodes() -> list[NodeWithScore]:
    return [
        NodeWithScore(node=TextNode(text="A fist is a hand.", id_="a", metadata={"source": "x"}), score=0.9),
        NodeWithScore(node=TextNode(text="Goethe wrote Faust.", id_="b", metadata={"year": 1808}), score=0.5),
        NodeWithScore(node=TextNode(text="", id_="c")),
    ]


def scored(results: Sequence[NodeWithScore]) -> list[tuple[str, float | None]]:
    """Return ids with scores: what two results must agree on."""
    return [(node.node_id, node.score) for node in results]


class Spy:
    """A scorer that remembers what it was given, and prefers long texts."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def score(self, query: str, documents: Sequence[str]) -> np.ndarray:
        self.texts = list(documents)
        return np.array([len(text) for text in documents], dtype=np.float32)


class Stuck:
    """A scorer that says when it began, and goes on when it is let go."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.let_go = threading.Event()

    def score(self, query: str, documents: Sequence[str]) -> np.ndarray:
        self.began.set()
        self.let_go.wait(60)
        return np.zeros(len(documents), dtype=np.float32)


class Fixed(BaseRetriever):
    """A first stage that always finds the same nodes, the right one second."""

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return nodes()[:2]


class _Rerankings(BaseEventHandler):
    events: list[Any] = []

    def handle(self, event: Any, **kwargs: Any) -> None:
        if isinstance(event, ReRankStartEvent | ReRankEndEvent):
            self.events.append(event)


@dataclass
class Watched:
    events: list[Any]
    spans: SimpleSpanHandler


@contextmanager
def watching() -> Iterator[Watched]:
    """Collect rerank events and all spans, as a tracing tool does."""
    root = get_dispatcher()
    handler, spans = _Rerankings(events=[]), SimpleSpanHandler()
    root.add_event_handler(handler)
    root.add_span_handler(spans)
    try:
        yield Watched(handler.events, spans)
    finally:
        root.event_handlers.remove(handler)
        root.span_handlers.remove(spans)
