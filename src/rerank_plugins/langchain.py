"""LangChain: `CrossEncoderRerank`, a document compressor that is also a Runnable.

One class serves `ContextualCompressionRetriever`, `DocumentCompressorPipeline`, LCEL chains and
LangGraph nodes, sync and async, and shows up in traces. It needs langchain-core only.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rerank_plugins._adapters import RerankFields, missing_extra
from rerank_plugins.errors import InvalidInputError
from rerank_plugins.inputs import shorten
from rerank_plugins.ranking import Ranking
from rerank_plugins.reranker import UNSET, Unset, given

try:
    from langchain_core.callbacks import Callbacks
    from langchain_core.documents import BaseDocumentCompressor, Document
    from langchain_core.runnables import RunnableConfig, RunnableSerializable
except ImportError as error:
    raise missing_extra("langchain", error) from error

__all__ = ["CrossEncoderRerank"]


class CrossEncoderRerank(
    RerankFields, BaseDocumentCompressor, RunnableSerializable[dict[str, Any], list[Document]]
):
    """Rerank documents with a cross-encoder.

    None means "not given" for every setting: then `RERANK_*` variables and the defaults of
    `ScorerSettings` and `RerankSettings` apply, which document them. The model loads on first use.
    Scored is `page_content`. The results are copies that keep id, type and metadata, best first, the score
    in `metadata[score_key]`; a value that was there before moves to `previous_<score_key>`.

    Attributes:
        model: Hub id, local folder or `"bundled"`.
        top_n: How many documents to return at most; None: all. `top_k` is another spelling.
        min_score: Lowest score to keep, inclusive, on `scale`.
        scale: `"probability"` or `"logit"`.
        score_key: Metadata key of the score.
        scorer: A scorer that is ready, instead of a model. Not serialised.
        reranker: A `Reranker` that is ready, instead of a model. Not serialised.

    Raises:
        InvalidInputError: If a setting is invalid, or two of model, scorer and reranker are given.

    Example:
        >>> from langchain_core.documents import Document
        >>> from rerank_plugins.langchain import CrossEncoderRerank
        >>> rerank = CrossEncoderRerank(model="bundled", top_n=1)
        >>> documents = [Document("A fist is a hand."), Document("Goethe wrote Faust.")]
        >>> rerank.invoke({"query": "who wrote Faust?", "documents": documents})[0].page_content
        'Goethe wrote Faust.'
    """

    # The framework's base class has a config of its own, which would win.
    model_config = RerankFields.model_config

    score_key: str = "relevance_score"

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Say that `dumps` may write it: all settings are plain, a ready scorer is left out."""
        return True

    @classmethod
    def get_lc_namespace(cls) -> list[str]:
        """Return where `loads` finds the class."""
        return ["rerank_plugins", "langchain"]

    def rerank(
        self,
        documents: Sequence[str | Document | Mapping[str, Any]],
        query: str,
        *,
        top_n: int | Unset | None = UNSET,
    ) -> list[dict[str, Any]]:
        """Rank documents and return positions and scores, as partner packages do.

        Args:
            documents: Strings, documents, or mappings with a `text` or `page_content`.
            query: The query.
            top_n: Overrides the setting for this call; None means all.

        Returns:
            Best first, `{"index": position, "relevance_score": score}`.

        Raises:
            InvalidInputError: If a document holds no text.
        """
        texts = [_text_of(document, i) for i, document in enumerate(documents)]
        ranking = self._lazy.get().rank(query, texts, **given(top_k=top_n))
        return [{"index": ranked.index, "relevance_score": ranked.score} for ranked in ranking]

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Return reranked copies of the documents, best first."""
        return self.invoke({"documents": documents, "query": query}, _config(callbacks))

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Return reranked copies like `compress_documents`, without blocking the event loop."""
        return await self.ainvoke({"documents": documents, "query": query}, _config(callbacks))

    def invoke(
        self,
        input: dict[str, Any],  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Rerank `{"documents": [...], "query": "..."}`.

        Raises:
            InvalidInputError: If one of the two is missing.
        """
        return self._call_with_config(self._rank, input, config, run_type="chain", **kwargs)

    async def ainvoke(
        self,
        input: dict[str, Any],  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Rerank like `invoke`, without blocking the event loop."""
        return await self._acall_with_config(self._arank, input, config, run_type="chain", **kwargs)

    def _rank(self, state: dict[str, Any]) -> list[Document]:
        documents, query = _unpack(state)
        ranking = self._lazy.get().rank(query, [document.page_content for document in documents])
        return self._to_documents(documents, ranking)

    async def _arank(self, state: dict[str, Any]) -> list[Document]:
        documents, query = _unpack(state)
        reranker = await self._lazy.aget()
        ranking = await reranker.arank(query, [document.page_content for document in documents])
        return self._to_documents(documents, ranking)

    def _to_documents(self, documents: Sequence[Document], ranking: Ranking) -> list[Document]:
        copies = []
        for ranked in ranking:
            document = documents[ranked.index]
            metadata = dict(document.metadata)
            if not ranking.reranked:
                metadata |= {"reranked": False, "rerank_reason": ranking.reason}
            else:
                if self.score_key in metadata:
                    metadata[f"previous_{self.score_key}"] = metadata[self.score_key]
                metadata[self.score_key] = ranked.score
            copies.append(document.model_copy(update={"metadata": metadata}))
        return copies


def _config(callbacks: Callbacks | None) -> RunnableConfig | None:
    # Without callbacks, no config: then the run that is going on becomes the parent in the trace.
    return None if callbacks is None else {"callbacks": callbacks}


def _unpack(state: dict[str, Any]) -> tuple[list[Document], str]:
    if not isinstance(state, Mapping) or not {"documents", "query"} <= state.keys():
        msg = f'input must be {{"documents": [...], "query": "..."}}, but got {shorten(state)}'
        raise InvalidInputError(msg)
    return list(state["documents"]), state["query"]


def _text_of(document: str | Document | Mapping[str, Any], position: int) -> str:
    if isinstance(document, Document):
        return document.page_content
    if isinstance(document, Mapping):
        for key in ("text", "page_content"):
            if key in document:
                return str(document[key])
        msg = f"documents[{position}] must have a text or page_content, but got {shorten(document)}"
        raise InvalidInputError(msg)
    return document
