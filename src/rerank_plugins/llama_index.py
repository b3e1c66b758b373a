"""LlamaIndex: `CrossEncoderRerank`, a node postprocessor for query engines, chat engines, workflows."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rerank_plugins._adapters import RerankFields, missing_extra
from rerank_plugins.errors import InvalidInputError
from rerank_plugins.ranking import RankedDocument, Ranking

try:
    from llama_index.core.callbacks import CBEventType, EventPayload
    from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle
    from llama_index_instrumentation import get_dispatcher
except ImportError as error:
    raise missing_extra("llama-index", error) from error

__all__ = ["CrossEncoderRerank"]

dispatcher = get_dispatcher(__name__)

# Ours: never part of the text that is scored or of the prompt.
RETRIEVAL_SCORE = "retrieval_score"
NOT_RERANKED = ("reranked", "rerank_reason")


class CrossEncoderRerank(RerankFields, BaseNodePostprocessor):
    """Rerank nodes with a cross-encoder.

    None means "not given" for every setting: then `RERANK_*` variables and the defaults of
    `ScorerSettings` and `RerankSettings` apply, which document them. The model loads on first use.
    The results are new `NodeWithScore` objects, best first; the given ones and their nodes stay as they are.

    Attributes:
        model: Hub id, local folder or `"bundled"`.
        top_n: How many nodes to return at most; None: all. `top_k` is another spelling.
        min_score: Lowest score to keep, inclusive, on `scale`.
        scale: `"probability"` or `"logit"`.
        metadata_mode: Which metadata belong to the text that is scored. The default is what LlamaIndex
            embeds; `MetadataMode.NONE` scores the text alone.
        keep_retrieval_score: Put the score a node came with into `metadata["retrieval_score"]` of a copy
            of the node. It is kept out of scored texts and prompts, and a second pass leaves it alone.
        scorer: A scorer that is ready, instead of a model. Not serialised.
        reranker: A `Reranker` that is ready, instead of a model. Not serialised.

    Raises:
        InvalidInputError: If a setting is invalid, or two of model, scorer and reranker are given.

    Example:
        >>> from llama_index.core.schema import NodeWithScore, TextNode
        >>> from rerank_plugins.llama_index import CrossEncoderRerank
        >>> rerank = CrossEncoderRerank(model="bundled", top_n=1)
        >>> texts = ["A fist is a hand.", "Goethe wrote Faust."]
        >>> nodes = [NodeWithScore(node=TextNode(text=text)) for text in texts]
        >>> rerank.postprocess_nodes(nodes, query_str="who wrote Faust?")[0].text
        'Goethe wrote Faust.'
    """

    # The framework's base class has a config of its own, which would win.
    model_config = RerankFields.model_config

    metadata_mode: MetadataMode = MetadataMode.EMBED
    keep_retrieval_score: bool = False

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which it is serialised."""
        return "RerankPluginsCrossEncoderRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = _query_of(query_bundle)
        if not nodes:
            return []
        with self._announced(nodes, query) as call:
            ranking = self._lazy.get().rank(query, self._texts(nodes))
            call.result = self._to_nodes(nodes, ranking)
        return call.result

    @dispatcher.span
    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = _query_of(query_bundle)
        if not nodes:
            return []
        with self._announced(nodes, query) as call:
            reranker = await self._lazy.aget()
            ranking = await reranker.arank(query, self._texts(nodes))
            call.result = self._to_nodes(nodes, ranking)
        return call.result

    def _texts(self, nodes: Sequence[NodeWithScore]) -> list[str]:
        return [node.node.get_content(metadata_mode=self.metadata_mode) for node in nodes]

    def _to_nodes(self, nodes: Sequence[NodeWithScore], ranking: Ranking) -> list[NodeWithScore]:
        return [self._to_node(nodes[ranked.index], ranked, ranking) for ranked in ranking]

    def _to_node(self, source: NodeWithScore, ranked: RankedDocument, ranking: Ranking) -> NodeWithScore:
        if not ranking.reranked:
            marks = dict(zip(NOT_RERANKED, (False, ranking.reason), strict=True))
            return NodeWithScore(node=_annotate(source.node, marks), score=source.score)
        node = source.node
        # A score kept by an earlier pass is the retriever's; ours of that pass is not.
        if self.keep_retrieval_score and RETRIEVAL_SCORE not in node.metadata:
            node = _annotate(node, {RETRIEVAL_SCORE: source.score})
        return NodeWithScore(node=node, score=ranked.score)

    @contextmanager
    def _announced(self, nodes: list[NodeWithScore], query: str) -> "Iterator[_Announced]":
        """Emit start and end, on success and on failure, to both of LlamaIndex's event systems."""
        model = self._lazy.model
        top_n = len(nodes) if self._lazy.settings.top_k is None else self._lazy.settings.top_k
        call = _Announced()
        dispatcher.event(ReRankStartEvent(query=query, nodes=nodes, top_n=top_n, model_name=model))
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: model,
            EventPayload.QUERY_STR: query,
            EventPayload.TOP_K: top_n,
        }
        try:
            with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
                yield call
                event.on_end(payload={EventPayload.NODES: call.result})
        finally:
            dispatcher.event(ReRankEndEvent(nodes=call.result))


@dataclass
class _Announced:
    """Carries the result out of the events' context; empty if scoring failed."""

    result: list[NodeWithScore] = field(default_factory=list)


def _query_of(query_bundle: QueryBundle | None) -> str:
    if query_bundle is None:
        raise InvalidInputError("a query must be given as query_bundle or query_str, but got None")
    return query_bundle.query_str


def _annotate(node: BaseNode, metadata: dict[str, Any]) -> BaseNode:
    """Return a copy of a node with more metadata, hidden from embedding text and prompt."""

    def and_ours(keys: list[str]) -> list[str]:
        return list(dict.fromkeys([*keys, *metadata]))

    return node.model_copy(
        update={
            "metadata": {**node.metadata, **metadata},
            "excluded_embed_metadata_keys": and_ours(node.excluded_embed_metadata_keys),
            "excluded_llm_metadata_keys": and_ours(node.excluded_llm_metadata_keys),
        }
    )
