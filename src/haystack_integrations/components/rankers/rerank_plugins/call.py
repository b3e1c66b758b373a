"""`RankerCall`: one call of `CrossEncoderRanker`, which `run` and `run_async` share."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from math import inf
from typing import Any

from haystack import Document
from haystack.tracing.tracer import tracer

from rerank_plugins._adapters import (
    FUSED_KEY,
    PASSAGE_KEY,
    content_passage,
    earlier_marks,
    failure_marks,
    listed,
)
from rerank_plugins.ranking import RankedDocument, Ranking
from rerank_plugins.reranker import Reranker
from rerank_plugins.scoring.protocol import info_of
from rerank_plugins.template import RenderedDocument

__all__ = ["RankerCall"]


class RankerCall:
    """One call: Haystack documents in, checked and merged by id; copies out, scored and marked.

    Args:
        query: The query as the model is to read it.
        documents: The caller's documents; they are not changed.
        render: Makes the text that is scored.
        overrides: Settings of this call: `top_k`, `scale`, `min_score`.

    Raises:
        InvalidTypeError: If `documents` are no list, or one is no `Document`.
    """

    def __init__(
        self,
        query: str,
        documents: Iterable[Document],
        render: Callable[[Document], RenderedDocument],
        overrides: dict[str, Any],
    ) -> None:
        self.query = query
        self.overrides = overrides
        self.documents = _best_copies(listed(documents, Document))
        self.rendered = [render(document) for document in self.documents]
        self.texts = [rendered.text for rendered in self.rendered]
        self.first_stage = [document.score for document in self.documents]

    def start(self, reranker: Reranker) -> None:
        """Tell the current span what is about to be asked of which model."""
        top_k = self.overrides.get("top_k", reranker.settings.top_k)
        info = info_of(reranker.scorer)
        _tag_span(
            {
                "rerank.model": type(reranker.scorer).__name__ if info is None else info.model,
                "rerank.top_k": len(self.documents) if top_k is None else top_k,
            }
        )

    def finish(self, ranking: Ranking) -> dict[str, list[Document]]:
        """Return what the component returns, and tell the current span the scores and the cost."""
        told = {
            **asdict(ranking.stats),
            "reranked": ranking.reranked,
            "reason": ranking.reason,
            "scores": [ranked.score for ranked in ranking if ranked.score is not None],
        }
        _tag_span({f"rerank.{name}": value for name, value in told.items() if value is not None})
        return {"documents": [self._document(ranked, ranking) for ranked in ranking]}

    def _document(self, ranked: RankedDocument, ranking: Ranking) -> Document:
        document = self.documents[ranked.index]
        marks = earlier_marks(document.meta)
        meta = {key: value for key, value in document.meta.items() if key not in marks}
        if not ranking.reranked:
            return replace(document, meta=meta | failure_marks(ranking))
        start = self.rendered[ranked.index].content_start
        passage = content_passage(ranked.passage, start, len(document.content or ""))
        if passage is not None:
            meta[PASSAGE_KEY] = list(passage)
        if ranked.fused is not None:
            meta[FUSED_KEY] = ranked.fused
        return replace(document, meta=meta, score=ranked.score)


def _best_copies(documents: list[Document]) -> list[Document]:
    """Return one document for each id, in order of first appearance: the copy with the highest score."""
    best: dict[str, Document] = {}
    for document in documents:
        if _first_stage(document) > _first_stage(best.setdefault(document.id, document)):
            best[document.id] = document
    return list(best.values())


def _first_stage(document: Document) -> float:
    return -inf if document.score is None else document.score


def _tag_span(tags: dict[str, Any]) -> None:
    """Tag the span that Haystack runs the component in; without a tracer this does nothing."""
    span = tracer.current_span()
    if span is not None:
        span.set_tags(tags)
