"""`CrossEncoderRanker`, a Haystack ranker on the shared cross-encoder scorer."""

import threading
from numbers import Real
from pathlib import Path
from typing import Any

from haystack import Document, component, default_from_dict, default_to_dict
from haystack.utils import ComponentDevice, Secret

from haystack_integrations.components.rankers.rerank_plugins.call import RankerCall
from rerank_plugins._adapters import (
    check_serialisable,
    lazy_reranker,
    listed,
    plain_calibration,
    plain_remote,
)
from rerank_plugins.calibration import Calibration
from rerank_plugins.errors import InvalidInputError, InvalidTypeError
from rerank_plugins.inputs import check_query, shorten
from rerank_plugins.lazy import LazyReranker
from rerank_plugins.preview import PreviewedPair
from rerank_plugins.reranker import Reranker
from rerank_plugins.scoring.protocol import Scorer
from rerank_plugins.settings import Dtype, EngineName, Fusion, LongDocuments, OnError, Scale
from rerank_plugins.template import DocumentTemplate, RenderedDocument

# Immutable, and read only when a model loads.
_DEFAULT_TOKEN = Secret.from_env_var(["HF_API_TOKEN", "HF_TOKEN"], strict=False)
# Held while a token is read, never while a model loads, so one lock serves all rankers; a lock of
# its own would keep a ranker from being copied and pickled.
_token_lock = threading.Lock()


@component
class CrossEncoderRanker:
    """Rank documents by their relevance to a query with a cross-encoder.

    Documents with the same id count once, the copy that the first stage scored highest. The results
    are copies with the new score, best first; the given documents stay as they are. The order of steps is:
    score, sort, drop below `min_score`, cut to `top_k`.

    Examples:
        >>> from haystack import Document
        >>> from rerank_plugins.haystack import CrossEncoderRanker
        >>> ranker = CrossEncoderRanker("bundled", top_k=1)
        >>> documents = [Document(content="A fist is a hand."), Document(content="Goethe wrote Faust.")]
        >>> ranker.run(query="who wrote Faust?", documents=documents)["documents"][0].content
        'Goethe wrote Faust.'
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        device: ComponentDevice | str | None = None,
        token: Secret | None = _DEFAULT_TOKEN,
        revision: str | None = None,
        dtype: Dtype | None = None,
        engine: EngineName | None = None,
        max_length: int | None = None,
        max_query_tokens: int | None = None,
        max_batch_tokens: int | None = None,
        cache_dir: str | None = None,
        local_files_only: bool | None = None,
        top_k: int | None = None,
        min_score: float | None = None,
        scale: Scale | None = None,
        calibration: Calibration | dict[str, Any] | str | Path | None = None,
        fusion: Fusion | None = None,
        on_error: OnError | None = None,
        long_documents: LongDocuments | None = None,
        passage_tokens: int | None = None,
        passage_overlap: int | None = None,
        max_passages: int | None = None,
        best_passages: int | None = None,
        query_prefix: str = "",
        query_suffix: str = "",
        document_prefix: str = "",
        document_suffix: str = "",
        document_template: str | None = None,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        remote: str | dict[str, Any] | None = None,
        scorer: Scorer | None = None,
        reranker: Reranker | None = None,
    ) -> None:
        """Check and store the settings; the model loads in `warm_up` or on first use.

        None means "not given" for every setting: then `RERANK_*` variables and the defaults of
        `ScorerSettings` and `RerankSettings` apply, which document them.

        Args:
            model: Hub id, local folder or `"bundled"`.
            device: Where to run. None stays None in YAML, so that another machine may choose its own.
            token: Hub token, resolved when the model loads.
            revision: Commit, branch or tag on the hub.
            dtype: Precision.
            engine: `"auto"`, `"torch"`, `"openvino"`, `"onnx"` or `"transformers"`.
            max_length: Tokens of a pair at most.
            max_query_tokens: Tokens of a query at most.
            max_batch_tokens: Padded tokens of a batch at most.
            cache_dir: Folder of the hub cache.
            local_files_only: Never ask the hub.
            top_k: How many documents to return at most; None: all.
            min_score: Lowest score to keep, inclusive, on `scale`.
            scale: `"probability"`, `"logit"`, or `"calibrated"`, which needs a calibration.
            calibration: A `Calibration`, its fields, or the path of its file.
            fusion: `"rrf"`, or the cross-encoder's weight: the order goes by the first stage too, that is,
                by the scores that the documents come with, and what it goes by is in
                `meta["rerank_fused"]`. The new scores stay the model's own.
            on_error: `"raise"`, or `"keep_order"`: if scoring fails, return the documents in their input
                order with their old scores, `meta["reranked"] = False` and `meta["rerank_reason"]`.
            long_documents: `"truncate"`, or `"max_passage"`: read long documents in overlapping windows.
                Then `meta["rerank_passage"]` is `[start, end)` of the best window, in characters of
                the document's content.
            passage_tokens: Tokens of a window at most; None: as many as fit.
            passage_overlap: Tokens that neighbouring windows share at least.
            max_passages: Windows read of one document at most.
            best_passages: A document's logit is the mean of that many best windows' logits.
            query_prefix: Put before the query.
            query_suffix: Put after the query.
            document_prefix: Put before each document's text.
            document_suffix: Put after each document's text.
            document_template: What to score, from content and meta, such as `"{title}: {content}"`; see
                `rerank_plugins.template.DocumentTemplate`. None: `meta_fields_to_embed` and the content.
            meta_fields_to_embed: Meta fields to put before the content; missing and None are left out.
            embedding_separator: Between meta fields and content.
            remote: Base URL of a rerank server, or settings of `RemoteSettings`, instead of a model here;
                `model` is then the name to ask it for, and secrets come from `RERANK_REMOTE_API_KEY`.
            scorer: A scorer that is ready, instead of a model; such a ranker has no `to_dict`.
            reranker: A `Reranker` that is ready, instead of a model; likewise.

        Raises:
            InvalidInputError: If a setting is invalid, two of model, scorer and reranker are given, or
                both document_template and meta_fields_to_embed.
        """
        _check_top_k(top_k)
        _check_texts(
            query_prefix=query_prefix,
            query_suffix=query_suffix,
            document_prefix=document_prefix,
            document_suffix=document_suffix,
            embedding_separator=embedding_separator,
        )
        if document_template is not None and meta_fields_to_embed:
            msg = (
                f"give either document_template or meta_fields_to_embed, but got {document_template!r} "
                f"and {meta_fields_to_embed!r}; name the fields in the template"
            )
            raise InvalidInputError(msg)
        self.model = model
        self.device = device
        self.token = token
        self.query_prefix = query_prefix
        self.query_suffix = query_suffix
        self.document_prefix = document_prefix
        self.document_suffix = document_suffix
        self.document_template = document_template
        self.meta_fields_to_embed = listed(meta_fields_to_embed or [], str, name="meta_fields_to_embed")
        self.embedding_separator = embedding_separator
        self._template = (
            DocumentTemplate.of_fields(self.meta_fields_to_embed, embedding_separator)
            if document_template is None
            else DocumentTemplate(document_template)
        )
        self.scorer = scorer
        self.reranker = reranker
        # Serialised under their own names, and handed on where they are not None.
        self._options: dict[str, Any] = {
            "revision": revision,
            "dtype": dtype,
            "engine": engine,
            "max_length": max_length,
            "max_query_tokens": max_query_tokens,
            "max_batch_tokens": max_batch_tokens,
            "cache_dir": cache_dir,
            "local_files_only": local_files_only,
            "top_k": top_k,
            "min_score": min_score,
            "scale": scale,
            "calibration": plain_calibration(calibration),
            "fusion": fusion,
            "on_error": on_error,
            "long_documents": long_documents,
            "passage_tokens": passage_tokens,
            "passage_overlap": passage_overlap,
            "max_passages": max_passages,
            "best_passages": best_passages,
            "remote": plain_remote(remote),
        }
        self._lazy = self._make_lazy(token=None)

    def warm_up(self) -> None:
        """Load the model, unless it is loaded.

        Raises:
            ModelError: If the model cannot be loaded.
        """
        self._prepare().get()

    async def warm_up_async(self) -> None:
        """Load the model like `warm_up`, without blocking the event loop."""
        await self._prepare().aget()

    def close(self) -> None:
        """Free the model, unless others use it too; the next run loads it again."""
        self._lazy.close()

    async def close_async(self) -> None:
        """Free the model like `close`."""
        self.close()

    @component.output_types(documents=list[Document])
    def run(
        self,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        scale: Scale | None = None,
        min_score: float | None = None,
    ) -> dict[str, list[Document]]:
        """Rank documents.

        In a pipeline, the component's span gets `rerank.*` tags: the model's name, top_k, the scores,
        and the numbers of `RankingStats`.

        Args:
            query: The query.
            documents: The documents; `[]` gives `[]`.
            top_k: Overrides the setting for this run unless None.
            scale: Overrides the setting for this run unless None.
            min_score: Overrides the setting for this run unless None; 0.0 counts.

        Returns:
            `{"documents": [...]}`, copies with their score, best first.

        Raises:
            InvalidInputError: If `top_k` is no number above 0, the query no string, the documents no list, or
                one is no `Document`.
            ModelError: If the model cannot be loaded.
            ScoringError: If scoring fails and `on_error` is `"raise"`.
        """
        call = self._call(query, documents, top_k, scale, min_score)
        if not call.documents:
            return {"documents": []}
        reranker = self._prepare().get()
        call.start(reranker)
        ranking = reranker.rank(call.query, call.texts, first_stage=call.first_stage, **call.overrides)
        return call.finish(ranking)

    @component.output_types(documents=list[Document])
    async def run_async(
        self,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        scale: Scale | None = None,
        min_score: float | None = None,
    ) -> dict[str, list[Document]]:
        """Rank documents like `run`, without blocking the event loop."""
        call = self._call(query, documents, top_k, scale, min_score)
        if not call.documents:
            return {"documents": []}
        reranker = await self._prepare().aget()
        call.start(reranker)
        ranking = await reranker.arank(call.query, call.texts, first_stage=call.first_stage, **call.overrides)
        return call.finish(ranking)

    def preview(self, query: str, documents: list[Document]) -> list[PreviewedPair]:
        """Show what the model reads of each pair, without running it. Loads the model if need be.

        Args:
            query: The query.
            documents: The documents; unlike `run`, equal ids are not merged.

        Returns:
            One pair for each document, in their order: prefixes, template and cuts applied.

        Raises:
            InvalidInputError: If the query is no string, the documents no list, or one is no `Document`.
            ModelError: If the model cannot be loaded.
        """
        texts = [self._render(document).text for document in listed(documents, Document)]
        return self._prepare().get().preview(self._query(query), texts)

    def to_dict(self) -> dict[str, Any]:
        """Serialise the settings.

        Raises:
            InvalidInputError: If the ranker was made from a ready scorer or reranker.
        """
        check_serialisable(self.scorer, self.reranker)
        return default_to_dict(
            self,
            model=self.model,
            device=self.device,
            token=self.token,
            **self._options,
            query_prefix=self.query_prefix,
            query_suffix=self.query_suffix,
            document_prefix=self.document_prefix,
            document_suffix=self.document_suffix,
            document_template=self.document_template,
            meta_fields_to_embed=list(self.meta_fields_to_embed),
            embedding_separator=self.embedding_separator,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "CrossEncoderRanker":
        """Build a ranker from what `to_dict` wrote."""
        # A copy, since Haystack 2 puts the Secret and the device that it builds into what it is given.
        options = dict(data.get("init_parameters", {}))
        ranker: CrossEncoderRanker = default_from_dict(cls, {**data, "init_parameters": options})
        return ranker

    def _get_telemetry_data(self) -> dict[str, Any]:
        return {"model": self._lazy.model}

    def _make_lazy(self, token: str | None) -> LazyReranker:
        device = self.device
        if isinstance(device, ComponentDevice):
            device = device.to_torch_str()
        options = {"model": self.model, "device": device, "token": token, **self._options}
        return lazy_reranker(options, scorer=self.scorer, reranker=self.reranker)

    def _prepare(self) -> LazyReranker:
        """Return the lazy reranker, with the token, which is not read before it is needed."""
        ready = self.scorer is not None or self.reranker is not None
        if self.token is None or ready or self._options["remote"] is not None:
            return self._lazy
        with _token_lock:
            if not self._lazy.loaded:
                fresh = self._make_lazy(self.token.resolve_value())
                # The same token again: another thread may be loading with it.
                if fresh != self._lazy:
                    self._lazy = fresh
            return self._lazy

    def _call(
        self,
        query: str,
        documents: list[Document],
        top_k: int | None,
        scale: Scale | None,
        min_score: float | None,
    ) -> RankerCall:
        _check_top_k(top_k)
        overrides = {"top_k": top_k, "scale": scale, "min_score": min_score}
        given = {name: value for name, value in overrides.items() if value is not None}
        return RankerCall(self._query(query), documents, self._render, given)

    def _query(self, query: str) -> str:
        return self.query_prefix + check_query(query) + self.query_suffix

    def _render(self, document: Document) -> RenderedDocument:
        rendered = self._template.render(document.content or "", document.meta)
        return RenderedDocument(
            self.document_prefix + rendered.text + self.document_suffix,
            len(self.document_prefix) + rendered.content_start,
        )


def _check_texts(**texts: Any) -> None:
    for name, text in texts.items():
        if not isinstance(text, str):
            msg = (
                f"{name} must be a str, but got {type(text).__name__}: {shorten(text)}; leave it out for none"
            )
            raise InvalidTypeError(msg)


def _check_top_k(top_k: int | None) -> None:
    if top_k is not None and not isinstance(top_k, Real):
        msg = f"top_k must be an int, but got {type(top_k).__name__}: {shorten(top_k)}"
        raise InvalidTypeError(msg)
    # As Haystack's other rankers, which have no use for an empty result.
    if top_k is not None and top_k <= 0:
        msg = f"top_k must be > 0, but got {top_k}"
        raise InvalidInputError(msg)
