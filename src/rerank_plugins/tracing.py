"""OpenTelemetry spans of rankings, as tracing tools for LLM applications read them (OpenInference).

Without opentelemetry-api this does nothing, and costs nothing. What a span holds is in `docs/concepts.md`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from rerank_plugins.errors import InvalidInputError
from rerank_plugins.ranking import Ranking
from rerank_plugins.scoring.protocol import ScorerInfo
from rerank_plugins.settings import RerankSettings

__all__ = ["Report", "annotate", "traced"]

# Told the ranking when there is one.
Report = Callable[[Ranking], None]

# A span holds 128 attributes by default; of the rest, SDKs drop one and log a line each.
_DOCUMENT_ATTRIBUTES = 100

_FIGURES = (
    "passages",
    "tokens",
    "truncated",
    "query_truncated",
    "tokenize_ms",
    "queue_ms",
    "compute_ms",
    "total_ms",
    "device",
    "dtype",
    "engine",
)


@contextmanager
def traced(
    settings: RerankSettings, info: ScorerInfo | None, query: str, documents: list[str]
) -> Iterator[Report]:
    """Run a ranking in a span, and yield what it wants to be told of the result.

    An error is recorded on the span and raised on.
    """
    tracer = _tracer() if settings.tracing else None
    if tracer is None:
        yield _ignore
        return
    with tracer.start_as_current_span(
        "rerank", record_exception=False, set_status_on_exception=False
    ) as span:
        if not span.is_recording():
            yield _ignore
            return
        call = _Attributes(settings, info, query, documents)
        span.set_attributes(call.asked())
        try:
            yield lambda ranking: _report(span, call, ranking)
        except Exception as error:
            description = type(error).__name__
            # What is said of bad input may quote it.
            if settings.trace_content or not isinstance(error, InvalidInputError):
                span.record_exception(error)
                description = f"{description}: {error}"
            _fail(span, description)
            raise


def annotate(**attributes: str) -> None:
    """Add attributes, as `rerank.*`, to the span that runs now, if there is one."""
    if _tracer() is not None:
        from opentelemetry import trace

        span = trace.get_current_span()
        span.set_attributes({f"rerank.{name}": value for name, value in attributes.items()})


def _ignore(_: Ranking) -> None:
    """Take note of nothing."""


@cache
def _tracer() -> Any:
    """Return a tracer, or None without opentelemetry. It finds a provider that is set later, too."""
    try:
        from opentelemetry import trace
    except ImportError:
        return None
    from rerank_plugins import __version__

    return trace.get_tracer("rerank_plugins", __version__)


def _report(span: Any, call: "_Attributes", ranking: Ranking) -> None:
    span.set_attributes(call.found(ranking))
    if not ranking.reranked:
        _fail(span, ranking.reason or "")


def _fail(span: Any, description: str) -> None:
    from opentelemetry.trace import Status, StatusCode

    span.set_status(Status(StatusCode.ERROR, description))


class _Attributes:
    """The attributes of one call."""

    def __init__(
        self, settings: RerankSettings, info: ScorerInfo | None, query: str, documents: list[str]
    ) -> None:
        self._settings = settings
        self._info = info
        self._query = query
        self._documents = documents

    def asked(self) -> dict[str, Any]:
        """Return what is known before scoring."""
        top_k = self._settings.top_k
        asked: dict[str, Any] = {
            "openinference.span.kind": "RERANKER",
            "reranker.top_k": len(self._documents) if top_k is None else top_k,
            "rerank.documents": len(self._documents),
        }
        if self._info is not None:
            asked["reranker.model_name"] = self._info.model
        if self._settings.trace_content:
            asked["reranker.query"] = self._query
            for i, text in enumerate(self._documents[: self._most]):
                asked[f"reranker.input_documents.{i}.document.content"] = text
        return asked

    def found(self, ranking: Ranking) -> dict[str, Any]:
        """Return the best documents, what the ranking cost, and how it was made."""
        found: dict[str, Any] = {f"rerank.{name}": getattr(ranking.stats, name) for name in _FIGURES}
        found |= {"rerank.reranked": ranking.reranked, "rerank.reason": ranking.reason}
        for rank, ranked in enumerate(ranking[: self._most]):
            place = f"reranker.output_documents.{rank}.document"
            found |= {f"{place}.id": ranked.index, f"{place}.score": ranked.score}
            if self._settings.trace_content:
                found[f"{place}.content"] = ranked.text
        return {name: value for name, value in found.items() if value is not None}

    @property
    def _most(self) -> int:
        """How many documents to tell of."""
        return _DOCUMENT_ATTRIBUTES // (4 if self._settings.trace_content else 2)
