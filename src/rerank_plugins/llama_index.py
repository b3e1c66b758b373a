"""LlamaIndex: `CrossEncoderRerank`, a node postprocessor for query engines, chat engines, workflows."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

from rerank_plugins._adapters import (
    FUSED_KEY,
    PASSAGE_KEY,
    RerankFields,
    check_serialisable,
    content_passage,
    earlier_marks,
    failure_marks,
    listed,
    missing_extra,
)
from rerank_plugins.errors import InvalidInputError
from rerank_plugins.inputs import check_query
from rerank_plugins.preview import PreviewedPair
from rerank_plugins.ranking import RankedDocument, Ranking, RankingStats

try:
    from llama_index.core.callbacks import CBEventType, EventPayload
    from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle
    from llama_index_instrumentation import get_dispatcher
except ImportError as error:
    raise missing_extra("llama-index", error) from error

__all__ = ["CrossEncoderRerank", "CrossEncoderRerankEndEvent"]

dispatcher = get_dispatcher(__name__)

RETRIEVAL_SCORE = "retrieval_score"


class CrossEncoderRerankEndEvent(ReRankEndEvent):
    """LlamaIndex's `ReRankEndEvent` that also says who ranked, and how it went.

    Attributes:
        nodes: The nodes that are returned, each with its score, best first; `[]` after an error.
        model_name: The model, by the name it was loaded under.
        top_n: How many nodes were asked for.
        reranked: False after an error, under `on_error="keep_order"` too.
        reason: Why it was not reranked, else None.
        stats: What it cost; None after an error that was raised.
    """

    model_name: str
    top_n: int
    reranked: bool
    reason: str | None = None
    stats: RankingStats | None = None


class CrossEncoderRerank(RerankFields, BaseNodePostprocessor):
    """Rerank nodes with a cross-encoder.

    None means "not given" for every setting: then `RERANK_*` variables and the defaults of
    `ScorerSettings` and `RerankSettings` apply, which document them. The model loads on first use. A
    setting may be assigned later (`rerank.top_n = 3`); it is checked as in the constructor.
    The results are new `NodeWithScore` objects, best first; the given ones and their nodes stay as they
    are. An image, or any node without text, is scored by the text it has, which may be blank: it is
    never left out for that.

    Attributes:
        model: Hub id, local folder or `"bundled"`.
        top_n: How many nodes to return at most; None: all. `top_k` is another spelling.
        min_score: Lowest score to keep, inclusive, on `scale`.
        scale: `"probability"`, `"logit"`, or `"calibrated"`, which needs a calibration.
        calibration: A `Calibration`, its fields, or the path of its file.
        fusion: `"rrf"`, or the cross-encoder's weight: the order goes by the first stage too, that is, by
            the score a node came with, and what it goes by is in `metadata["rerank_fused"]` of a copy of
            the node. `score` stays the model's own. If `metadata["retrieval_score"]` was kept by an earlier
            pass, that is the first stage's score.
        metadata_mode: Which metadata belong to the text that is scored. The default is what LlamaIndex
            embeds; `MetadataMode.NONE` scores the text alone.
        document_template: Text that is scored, such as `"{title}: {content}"`, over the node's text and
            metadata; takes the place of `metadata_mode`.
        long_documents: `"max_passage"` reads what does not fit in overlapping windows, and puts where the
            best one stands in the node's text into `metadata["rerank_passage"]` of a copy of the node:
            `[start, end]` in characters. Kept out of scored texts and prompts.
        keep_retrieval_score: Put the score a node came with into `metadata["retrieval_score"]` of a copy
            of the node. It is kept out of scored texts and prompts, and a second pass leaves it alone.
        remote: Base URL of a rerank server, or settings of `RemoteSettings`, instead of a model here; `model`
            is then the name to ask it for.
        scorer: A scorer that is ready, instead of a model; then there is no `to_dict`.
        reranker: A `Reranker` that is ready, instead of a model; likewise.

    Raises:
        InvalidInputError: If a setting is invalid, or two of model, scorer and reranker are given.

    Examples:
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

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """Serialise the settings; `to_json` writes the same.

        Raises:
            InvalidInputError: If it was made from a ready scorer or reranker.
        """
        check_serialisable(self.scorer, self.reranker)
        plain: dict[str, Any] = super().to_dict(**kwargs)
        return plain

    def preview(self, nodes: Sequence[NodeWithScore], query_str: str) -> list[PreviewedPair]:
        """Return what the model would read of the query and of each node, in the given order.

        The model itself does not run.

        Args:
            nodes: The nodes, as for `postprocess_nodes`.
            query_str: The query.

        Raises:
            InvalidTypeError: If the query is not a string, or a node no `NodeWithScore`.
            ModelError: If the model, whose tokenizer is needed, cannot be loaded.
        """
        texts = [self._scored(node.node).text for node in _nodes_of(nodes)]
        return self._lazy.get().preview(query_str, texts)

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        call = _Call.of(nodes, query_bundle)
        if not call.nodes:
            return []
        with self._announced(call):
            self._finish(call, self._lazy.get().rank(**self._prepare(call)))
        return call.result

    @dispatcher.span
    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        call = _Call.of(nodes, query_bundle)
        if not call.nodes:
            return []
        with self._announced(call):
            reranker = await self._lazy.aget()
            self._finish(call, await reranker.arank(**self._prepare(call)))
        return call.result

    def _prepare(self, call: "_Call") -> dict[str, Any]:
        """Return what `Reranker.rank` is asked."""
        call.scored = [self._scored(node.node) for node in call.nodes]
        return {
            "query": call.query,
            "documents": [scored.text for scored in call.scored],
            "first_stage": [_retrieved(node) for node in call.nodes],
        }

    def _finish(self, call: "_Call", ranking: Ranking) -> None:
        call.ranking, call.result = ranking, self._to_nodes(call.nodes, call.scored, ranking)

    def _scored(self, node: BaseNode) -> "_Scored":
        """Return the text of a node that is scored, and where the node's own text begins in it."""
        # Never part of the text that is scored, whatever the metadata mode.
        ours = earlier_marks(node.metadata) | {RETRIEVAL_SCORE}
        if node.metadata.keys() & ours:
            node = node.model_copy(update={"metadata": _without(node.metadata, ours)})
        content = node.get_content(MetadataMode.NONE)
        if self._template is not None:
            rendered = self._template.render(content, node.metadata)
            return _Scored(rendered.text, content, rendered.content_start)
        text = node.get_content(self.metadata_mode)
        return _Scored(text, content, _start_of(content, text, node))

    def _to_nodes(
        self, nodes: Sequence[NodeWithScore], scored: Sequence["_Scored"], ranking: Ranking
    ) -> list[NodeWithScore]:
        if not ranking.reranked:
            marks = failure_marks(ranking)
            kept = [nodes[ranked.index] for ranked in ranking]
            return [NodeWithScore(node=_annotate(node.node, marks), score=node.score) for node in kept]
        return [self._to_node(nodes[ranked.index], scored[ranked.index], ranked) for ranked in ranking]

    def _to_node(self, source: NodeWithScore, scored: "_Scored", ranked: RankedDocument) -> NodeWithScore:
        notes: dict[str, Any] = {}
        if self.keep_retrieval_score:
            notes[RETRIEVAL_SCORE] = _retrieved(source)
        if ranked.fused is not None:
            notes[FUSED_KEY] = ranked.fused
        passage = content_passage(ranked.passage, scored.content_start, len(scored.content))
        if passage is not None:
            notes[PASSAGE_KEY] = list(passage)
        return NodeWithScore(node=_annotate(source.node, notes), score=ranked.score)

    @contextmanager
    def _announced(self, call: "_Call") -> Iterator[None]:
        """Emit start and end to both of LlamaIndex's event systems, on errors and cancellation too."""
        nodes, query = call.nodes, call.query
        top_n = len(nodes) if self._lazy.settings.top_k is None else self._lazy.settings.top_k
        model = self._lazy.model
        dispatcher.event(ReRankStartEvent(query=query, nodes=nodes, top_n=top_n, model_name=model))
        payload: dict[str, Any] = {EventPayload.MODEL_NAME: model, EventPayload.TOP_K: top_n}
        asked = {EventPayload.NODES: nodes, EventPayload.QUERY_STR: query}
        try:
            with self.callback_manager.event(CBEventType.RERANKING, payload=payload | asked) as event:
                yield
                event.on_end(payload=payload | {EventPayload.NODES: call.result})
        except BaseException as error:
            call.reason = repr(error)
            raise
        finally:
            dispatcher.event(call.end(self._lazy.model, top_n))


@dataclass(frozen=True)
class _Scored:
    """The text that is scored, and the node's own text, which begins at `content_start` in it."""

    text: str
    content: str
    content_start: int


@dataclass
class _Call:
    """One call: what is asked, and what came of it, which is nothing if scoring failed."""

    query: str
    nodes: list[NodeWithScore]
    scored: list[_Scored] = field(default_factory=list)
    result: list[NodeWithScore] = field(default_factory=list)
    ranking: Ranking | None = None
    reason: str | None = None

    @classmethod
    def of(cls, nodes: Any, query_bundle: QueryBundle | None) -> Self:
        if query_bundle is None:
            raise InvalidInputError("a query must be given as query_bundle or query_str, but got None")
        return cls(check_query(query_bundle.query_str), _nodes_of(nodes))

    def end(self, model: str, top_n: int) -> CrossEncoderRerankEndEvent:
        ranking = self.ranking if self.reason is None else None
        return CrossEncoderRerankEndEvent(
            nodes=self.result,
            model_name=model,
            top_n=top_n,
            reranked=ranking is not None and ranking.reranked,
            reason=self.reason if ranking is None else ranking.reason,
            stats=None if ranking is None else ranking.stats,
        )


def _nodes_of(nodes: Any) -> list[NodeWithScore]:
    return listed(nodes, NodeWithScore, name="nodes", hint="; wrap it: NodeWithScore(node=...)")


def _retrieved(node: NodeWithScore) -> float | None:
    """Return the retriever's score: that kept by an earlier pass, whose own score is not."""
    score: float | None = node.node.metadata.get(RETRIEVAL_SCORE, node.score)
    return score


def _start_of(content: str, text: str, node: BaseNode) -> int:
    """Return where a node's content begins in its text with metadata; beyond it if it is not in there.

    LlamaIndex strips that text, so that content with leading space may begin before it: below 0.
    """
    body = content.strip()
    # Metadata may repeat the content, so look from the side where the template puts it.
    first = getattr(node, "text_template", "").startswith("{content}")
    start = text.find(body) if first else text.rfind(body)
    return start - content.index(body) if start >= 0 else len(text)


def _without(metadata: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in metadata.items() if name not in names}


def _annotate(node: BaseNode, notes: dict[str, Any]) -> BaseNode:
    """Return a copy of a node with notes in place of an earlier pass's, hidden from embedding and prompt.

    The node itself if there is nothing to change.
    """
    marks = earlier_marks(node.metadata)
    if not notes and not node.metadata.keys() & marks:
        return node

    def and_ours(keys: list[str]) -> list[str]:
        return list(dict.fromkeys([*keys, *notes]))

    return node.model_copy(
        update={
            "metadata": _without(node.metadata, marks) | notes,
            "excluded_embed_metadata_keys": and_ours(node.excluded_embed_metadata_keys),
            "excluded_llm_metadata_keys": and_ours(node.excluded_llm_metadata_keys),
        }
    )
