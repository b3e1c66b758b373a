"""`CrossEncoderRanker`, a Haystack ranker on the shared cross-encoder scorer."""

from dataclasses import replace
from typing import Any

from haystack import Document, component, default_from_dict, default_to_dict
from haystack.utils import ComponentDevice, Secret
from haystack.utils.misc import _deduplicate_documents

from rerank_plugins._adapters import lazy_reranker
from rerank_plugins.errors import InvalidInputError
from rerank_plugins.lazy import LazyReranker
from rerank_plugins.ranking import Ranking
from rerank_plugins.reranker import Reranker
from rerank_plugins.scoring.protocol import Scorer
from rerank_plugins.settings import Dtype, EngineName, OnError, Scale

# Immutable, and read only when a model loads.
_DEFAULT_TOKEN = Secret.from_env_var(["HF_API_TOKEN", "HF_TOKEN"], strict=False)


@component
class CrossEncoderRanker:
    """Rank documents by their relevance to a query with a cross-encoder.

    Documents with the same id count once, the copy that the first stage scored highest. The results
    are copies with the new score, best first; the given documents stay as they are. The order of steps is:
    score, sort, drop below `min_score`, cut to `top_k`.

    Example:
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
        on_error: OnError | None = None,
        query_prefix: str = "",
        document_prefix: str = "",
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
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
            scale: `"probability"` or `"logit"`.
            on_error: `"raise"` or `"keep_order"`.
            query_prefix: Put before the query.
            document_prefix: Put before each document's text.
            meta_fields_to_embed: Meta fields to put before the content; missing and None are left out.
            embedding_separator: Between meta fields and content.
            scorer: A scorer that is ready, instead of a model; such a ranker has no `to_dict`.
            reranker: A `Reranker` that is ready, instead of a model; likewise.

        Raises:
            InvalidInputError: If a setting is invalid, or two of model, scorer and reranker are given.
        """
        _check_top_k(top_k)
        self.model = model
        self.device = device
        self.token = token
        self.query_prefix = query_prefix
        self.document_prefix = document_prefix
        self.meta_fields_to_embed = list(meta_fields_to_embed or [])
        self.embedding_separator = embedding_separator
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
            "on_error": on_error,
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

        Args:
            query: The query.
            documents: The documents; `[]` gives `[]`.
            top_k: Overrides the setting for this run unless None.
            scale: Overrides the setting for this run unless None.
            min_score: Overrides the setting for this run unless None; 0.0 counts.

        Returns:
            `{"documents": [...]}`, copies with their score, best first.

        Raises:
            InvalidInputError: If `top_k` is not positive, or the query is no string.
            ModelError: If the model cannot be loaded.
            ScoringError: If scoring fails and `on_error` is `"raise"`.
        """
        unique = self._unique(documents, top_k)
        if not unique:
            return {"documents": []}
        ranking = (
            self._prepare()
            .get()
            .rank(self._query(query), self._texts(unique), **_overrides(top_k, scale, min_score))
        )
        return {"documents": _to_documents(unique, ranking)}

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
        unique = self._unique(documents, top_k)
        if not unique:
            return {"documents": []}
        reranker = await self._prepare().aget()
        ranking = await reranker.arank(
            self._query(query), self._texts(unique), **_overrides(top_k, scale, min_score)
        )
        return {"documents": _to_documents(unique, ranking)}

    def to_dict(self) -> dict[str, Any]:
        """Serialise the settings.

        Raises:
            InvalidInputError: If the ranker was made from a ready scorer or reranker.
        """
        if self.scorer is not None or self.reranker is not None:
            raise InvalidInputError(
                "a ranker must be made from a model to be serialised, but got a ready scorer or "
                "reranker; give model= and settings instead: equal ones share one loaded model"
            )
        device = self.device.to_dict() if isinstance(self.device, ComponentDevice) else self.device
        return default_to_dict(
            self,
            model=self.model,
            device=device,
            token=self.token.to_dict() if self.token is not None else None,
            **self._options,
            query_prefix=self.query_prefix,
            document_prefix=self.document_prefix,
            meta_fields_to_embed=self.meta_fields_to_embed,
            embedding_separator=self.embedding_separator,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "CrossEncoderRanker":
        """Build a ranker from what `to_dict` wrote."""
        options = dict(data.get("init_parameters", {}))
        if isinstance(options.get("device"), dict):
            options["device"] = ComponentDevice.from_dict(options["device"])
        if isinstance(options.get("token"), dict):
            options["token"] = Secret.from_dict(options["token"])
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
        if self.token is not None and not ready and not self._lazy.loaded:
            token = self.token.resolve_value()
            if token is not None:
                self._lazy = self._make_lazy(token)
        return self._lazy

    def _unique(self, documents: list[Document], top_k: int | None) -> list[Document]:
        _check_top_k(top_k)
        return _deduplicate_documents(documents)

    def _query(self, query: str) -> str:
        return self.query_prefix + query if self.query_prefix else query

    def _texts(self, documents: list[Document]) -> list[str]:
        return [self._text(document) for document in documents]

    def _text(self, document: Document) -> str:
        meta = (document.meta.get(field) for field in self.meta_fields_to_embed)
        parts = [str(value) for value in meta if value is not None]
        return self.document_prefix + self.embedding_separator.join([*parts, document.content or ""])


def _check_top_k(top_k: int | None) -> None:
    # As Haystack's other rankers, which have no use for an empty result.
    if top_k is not None and top_k <= 0:
        msg = f"top_k must be > 0, but got {top_k}"
        raise InvalidInputError(msg)


def _overrides(top_k: int | None, scale: Scale | None, min_score: float | None) -> dict[str, Any]:
    values = {"top_k": top_k, "scale": scale, "min_score": min_score}
    return {name: value for name, value in values.items() if value is not None}


def _to_documents(documents: list[Document], ranking: Ranking) -> list[Document]:
    if ranking.reranked:
        return [replace(documents[ranked.index], score=ranked.score) for ranked in ranking]
    marks = {"reranked": False, "rerank_reason": ranking.reason}
    kept = (documents[ranked.index] for ranked in ranking)
    return [replace(document, meta={**document.meta, **marks}) for document in kept]
