"""Documents of LangChain in, reranked copies out."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from langchain_core.documents import Document

from rerank_plugins._adapters import (
    FUSED_KEY,
    PASSAGE_KEY,
    content_passage,
    earlier_marks,
    failure_marks,
    listed,
)
from rerank_plugins.errors import InvalidInputError, InvalidTypeError
from rerank_plugins.inputs import shorten
from rerank_plugins.ranking import Ranking
from rerank_plugins.template import DocumentTemplate, RenderedDocument

__all__ = ["AnyDocument", "copy_ranked", "read_documents", "to_rows", "unpack"]

AnyDocument = str | Document | Mapping[str, Any]


def unpack(state: Mapping[str, Any]) -> tuple[list[Document], str]:
    """Return the documents and the query of a runnable's input.

    Raises:
        InvalidInputError: If one of the two is missing, the documents are no list, or one is no `Document`.
    """
    if not isinstance(state, Mapping) or not {"documents", "query"} <= state.keys():
        msg = f'input must be {{"documents": [...], "query": "..."}}, but got {shorten(state)}'
        raise InvalidInputError(msg)
    return listed(state["documents"], Document, hint="; rerank() takes plain strings"), state["query"]


def read_documents(
    documents: Iterable[AnyDocument], template: DocumentTemplate | None, first_stage_key: str | None
) -> tuple[list[RenderedDocument], list[Any] | None]:
    """Return what is scored of each document, and the scores in their metadata; None without a key.

    Raises:
        InvalidInputError: If `documents` is no list, such as a single document, or one holds no text.
    """
    parts = [_split(document, i) for i, document in enumerate(listed(documents))]
    read = [
        RenderedDocument(content, 0) if template is None else template.render(content, metadata)
        for content, metadata in parts
    ]
    first = None if first_stage_key is None else [metadata.get(first_stage_key) for _, metadata in parts]
    return read, first


def copy_ranked(
    documents: Sequence[Document],
    read: Sequence[RenderedDocument],
    ranking: Ranking,
    *,
    score_key: str,
    return_passages: bool,
) -> list[Document]:
    """Return copies of the ranked documents, best first, with what the ranking says in their metadata.

    Args:
        documents: The n documents that were ranked.
        read: What was scored of each of the n.
        ranking: The ranking of the n.
        score_key: Metadata key of the score.
        return_passages: Whether the content of a copy is just the best window.
    """
    copies = []
    for ranked in ranking:
        document = documents[ranked.index]
        content = document.page_content
        metadata = _aside(_unmarked(document.metadata) | failure_marks(ranking), PASSAGE_KEY)
        if ranking.reranked:
            metadata = {**_aside(metadata, score_key), score_key: ranked.score}
        if ranked.fused is not None:
            metadata[FUSED_KEY] = ranked.fused
        passage = content_passage(ranked.passage, read[ranked.index].content_start, len(content))
        if passage is not None:
            metadata[PASSAGE_KEY] = list(passage)
            if return_passages:
                content = content[slice(*passage)]
        copies.append(document.model_copy(update={"page_content": content, "metadata": metadata}))
    return copies


def to_rows(ranking: Ranking) -> list[dict[str, Any]]:
    """Return positions and scores, best first, as partner packages do."""
    marks = failure_marks(ranking)
    return [{"index": ranked.index, "relevance_score": ranked.score, **marks} for ranked in ranking]


def _unmarked(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata without what an earlier call said of its order, or of its failure."""
    marks = earlier_marks(metadata) - {PASSAGE_KEY}  # what was there is kept aside
    return {k: v for k, v in metadata.items() if k not in marks}


def _aside(metadata: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return metadata in which what was at `key` stands at `previous_<key>`."""
    kept = {k: v for k, v in metadata.items() if k != key}
    return {**kept, f"previous_{key}": metadata[key]} if key in metadata else kept


def _split(document: AnyDocument, position: int) -> tuple[str, Mapping[str, Any]]:
    """Return a document's content and its metadata."""
    content: Any = document
    metadata: Mapping[str, Any] = {}
    if isinstance(document, Document):
        content, metadata = document.page_content, document.metadata
    elif isinstance(document, Mapping):
        key = next((key for key in ("text", "page_content") if key in document), None)
        if key is None:
            msg = f"documents[{position}] must have a text or page_content, but got {shorten(document)}"
            raise InvalidInputError(msg)
        content, metadata = document[key], {k: v for k, v in document.items() if k != key}
    if not isinstance(content, str):
        msg = f"documents[{position}] must hold a str, but got {type(content).__name__}: {shorten(document)}"
        raise InvalidTypeError(msg)
    return content, metadata
