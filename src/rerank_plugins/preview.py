"""What the model reads of each document, without running it."""

from dataclasses import dataclass

from rerank_plugins.passages import read_windows, window_scorer
from rerank_plugins.scoring.protocol import Scorer
from rerank_plugins.settings import RerankSettings

__all__ = ["PreviewedPair", "PreviewedPassage", "preview"]


@dataclass(frozen=True, slots=True)
class PreviewedPassage:
    """A part of a document that is read in one pass.

    Attributes:
        text: The part, `document[start:end]`.
        start: Its first character in the document.
        end: One past its last character.
        tokens: How many tokens it has.
    """

    text: str
    start: int
    end: int
    tokens: int


@dataclass(frozen=True, slots=True)
class PreviewedPair:
    """What is read of a query and one document.

    Attributes:
        query: The part of the query that is read, from its start.
        passages: The parts of the document that are read, each beside the query: one, or with
            `long_documents="max_passage"` one for each window.
        query_tokens: How many tokens of the query are read.
        truncated: Whether part of the document is not read.
        query_truncated: Whether part of the query is not read.
    """

    query: str
    passages: tuple[PreviewedPassage, ...]
    query_tokens: int
    truncated: bool
    query_truncated: bool


def preview(
    scorer: Scorer, query: str, documents: list[str], settings: RerankSettings
) -> list[PreviewedPair]:
    """Return what is read of each document; see `Reranker.preview`."""
    knowing = window_scorer(scorer, "preview")
    found, unread = [[(0, len(document))] for document in documents], [False] * len(documents)
    if settings.long_documents == "max_passage":
        found, unread = read_windows(knowing, query, documents, settings)
    texts = [document[a:b] for document, spans in zip(documents, found, strict=True) for a, b in spans]
    of_query, extents = knowing.extents(query, texts)
    reads = iter(zip(texts, extents, strict=True))
    pairs = []
    for spans, more in zip(found, unread, strict=True):
        read = [(start, *next(reads)) for start, _ in spans]
        pairs.append(
            PreviewedPair(
                query=query[: of_query.end],
                passages=tuple(
                    PreviewedPassage(text[: extent.end], start, start + extent.end, extent.tokens)
                    for start, text, extent in read
                ),
                query_tokens=of_query.tokens,
                truncated=more or any(extent.cut for _, _, extent in read),
                query_truncated=of_query.cut,
            )
        )
    return pairs
