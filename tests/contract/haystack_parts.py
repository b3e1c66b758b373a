"""What Haystack's contract tests share; the only place that knows of differences between its versions."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import haystack
from haystack import Document, Pipeline, tracing
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.document_stores.in_memory import InMemoryDocumentStore

from rerank_plugins.demo.data import load_passages
from rerank_plugins.haystack import CrossEncoderRanker

# Haystack 2 runs asynchronously in a class of its own, whose `run` must not be called where an event
# loop runs; Haystack 3 merged it into Pipeline.
AsyncPipeline: type[Pipeline] = getattr(haystack, "AsyncPipeline", Pipeline)
# Haystack 3 calls these hooks of components.
HAS_ASYNC_LIFECYCLE = hasattr(Pipeline, "warm_up_async") and hasattr(Pipeline, "close_async")

QUERY = "who wrote Faust?"


def documents() -> list[Document]:
    return [
        Document(id="a", content="A fist is a hand.", meta={"title": "Hands", "year": 0}, score=3.0),
        Document(id="b", content="Goethe wrote Faust.", meta={"title": None}),
        Document(id="c", content=None),
    ]


def make_store() -> InMemoryDocumentStore:
    store = InMemoryDocumentStore()
    store.write_documents(
        [Document(id=p.id, content=p.text, meta={"title": p.title}) for p in load_passages()]
    )
    return store


def make_pipeline(ranker: CrossEncoderRanker, kind: type[Pipeline] = Pipeline) -> Pipeline:
    """Return retriever -> ranker over the demo's passages."""
    pipeline = kind()
    pipeline.add_component("retriever", InMemoryBM25Retriever(make_store(), top_k=10))
    pipeline.add_component("ranker", ranker)
    pipeline.connect("retriever", "ranker")
    return pipeline


def inputs(query: str, **overrides: Any) -> dict[str, dict[str, Any]]:
    return {"retriever": {"query": query}, "ranker": {"query": query, **overrides}}


class SpySpan(tracing.Span):
    def __init__(self, name: str, tags: dict[str, Any], parent: tracing.Span | None) -> None:
        self.name, self.tags, self.parent = name, dict(tags), parent

    def set_tag(self, key: str, value: Any) -> None:
        self.tags[key] = value


class SpyTracer(tracing.Tracer):
    """A real tracer, which keeps its spans."""

    def __init__(self) -> None:
        self.spans: list[SpySpan] = []
        self._current: ContextVar[SpySpan | None] = ContextVar("span", default=None)

    @contextlib.contextmanager
    def trace(
        self,
        operation_name: str,
        tags: dict[str, Any] | None = None,
        parent_span: tracing.Span | None = None,
    ) -> Iterator[SpySpan]:
        before = self._current.get()
        span = SpySpan(operation_name, tags or {}, parent_span or before)
        self.spans.append(span)
        self._current.set(span)
        try:
            yield span
        finally:
            # Not reset(token): an async generator may end in another context.
            self._current.set(before)

    def current_span(self) -> SpySpan | None:
        return self._current.get()

    def of(self, component: str) -> list[SpySpan]:
        """Return the spans of the component with this name."""
        return [span for span in self.spans if span.tags.get("haystack.component.name") == component]
