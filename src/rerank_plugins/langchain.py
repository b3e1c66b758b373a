"""LangChain: `CrossEncoderRerank`, a document compressor that is also a Runnable, and `CrossEncoder`.

One class serves `ContextualCompressionRetriever`, `DocumentCompressorPipeline`, LCEL chains and
LangGraph nodes, sync and async, and shows up in traces. It needs langchain-core only.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

from pydantic import PrivateAttr

from rerank_plugins._adapters import RerankFields, missing_extra
from rerank_plugins.errors import InvalidInputError
from rerank_plugins.inputs import check_pairs
from rerank_plugins.lazy import LazyReranker
from rerank_plugins.preview import PreviewedPair
from rerank_plugins.ranking import Ranking
from rerank_plugins.reranker import UNSET, Reranker, Unset, given
from rerank_plugins.scoring.protocol import Scorer
from rerank_plugins.scoring.remote.settings import RemoteSettings
from rerank_plugins.settings import Scale, ScorerSettings
from rerank_plugins.template import RenderedDocument

try:
    from langchain_core.callbacks import Callbacks
    from langchain_core.cross_encoders import BaseCrossEncoder
    from langchain_core.documents import BaseDocumentCompressor, Document
    from langchain_core.load.serializable import SerializedConstructor, SerializedNotImplemented
    from langchain_core.runnables import RunnableConfig, RunnableSerializable
    from langchain_core.runnables.config import ensure_config

    from rerank_plugins._langchain import (
        AnyDocument,
        copy_ranked,
        read_documents,
        to_rows,
        unpack,
    )
except ImportError as error:
    raise missing_extra("langchain", error) from error

__all__ = ["CrossEncoder", "CrossEncoderRerank"]


class CrossEncoderRerank(
    RerankFields, BaseDocumentCompressor, RunnableSerializable[dict[str, Any], list[Document]]
):
    r"""Rerank documents with a cross-encoder.

    None means "not given" for every setting: then `RERANK_*` variables and the defaults of
    `ScorerSettings` and `RerankSettings` apply, which document them. The model loads on first use.
    Scored is `page_content`, or what `document_template` makes of it and the metadata. The results are
    copies that keep id, type and metadata, best first, the score in `metadata[score_key]`. A value that was
    there before moves to `previous_<score_key>`. If scoring failed and `on_error="keep_order"`, they have no
    new score but `metadata["reranked"]` False and the reason in `metadata["rerank_reason"]`.

    A run in a trace carries `rerank_model` and `rerank_top_k` in its metadata, and the scores in its output.

    Attributes:
        model: Hub id, local folder or `"bundled"`.
        top_n: How many documents to return at most; None: all. `top_k` is another spelling.
        min_score: Lowest score to keep, inclusive, on `scale`.
        scale: `"probability"`, `"logit"`, or `"calibrated"`, which needs a calibration.
        calibration: A `Calibration`, its fields, or the path of its file.
        fusion: `"rrf"`, or the cross-encoder's weight: the order goes by the first stage too, and what it
            goes by is in `metadata["rerank_fused"]`. The score stays the model's own.
        first_stage_key: For `fusion`: metadata key of the first stage's score, higher is better. None: the
            order of the documents counts, which is enough for `"rrf"`.
        document_template: What of a document is scored, for example `"{title}\n{content}"`; other names
            than `content` are metadata keys.
        long_documents: `"truncate"` or `"max_passage"`; with the latter the character offsets of the best
            window in `page_content` are in `metadata["rerank_passage"]`.
        return_passages: Whether `page_content` of the results is just that window. Needs
            `long_documents="max_passage"`.
        score_key: Metadata key of the score.
        remote: Base URL of a rerank server, or settings of `RemoteSettings`, instead of a model here; `model`
            is then the name to ask it for.
        scorer: A scorer that is ready, instead of a model; then `dumps` marks it as one that `loads` cannot
            make again.
        reranker: A `Reranker` that is ready, instead of a model; likewise.

    Raises:
        InvalidInputError: If a setting is invalid, or two of model, scorer and reranker are given.

    Examples:
        >>> from langchain_core.documents import Document
        >>> from rerank_plugins.langchain import CrossEncoderRerank
        >>> rerank = CrossEncoderRerank(model="bundled", top_n=1)
        >>> documents = [Document("A fist is a hand."), Document("Goethe wrote Faust.")]
        >>> rerank.invoke({"query": "who wrote Faust?", "documents": documents})[0].page_content
        'Goethe wrote Faust.'
    """

    # The framework's base class has a config of its own, which would win.
    model_config = RerankFields.model_config

    return_passages: bool = False
    score_key: str = "relevance_score"
    first_stage_key: str | None = None

    _kept: "_Kept | None" = PrivateAttr(None)

    def _settle(self) -> None:
        super()._settle()
        if self.return_passages and self._lazy.settings.long_documents != "max_passage":
            msg = (
                'return_passages needs long_documents="max_passage", but got '
                f"{self._lazy.settings.long_documents!r}; set it, or leave return_passages out"
            )
            raise InvalidInputError(msg)
        self._kept = None if self._is_ready else _kept(self._lazy.scorer_settings)

    @property
    def _is_ready(self) -> bool:
        return self.scorer is not None or self.reranker is not None

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Say that `dumps` may write it: all settings are plain."""
        return True

    def to_json(self) -> SerializedConstructor | SerializedNotImplemented:
        """Return what `dumps` writes.

        A ready scorer or reranker cannot be written, and what `loads` would make without it would rank with
        another model: LangChain's mark says so, at which `loads` raises.
        """
        return self.to_json_not_implemented() if self._is_ready else super().to_json()

    @classmethod
    def get_lc_namespace(cls) -> list[str]:
        """Return where `loads` finds the class."""
        return ["rerank_plugins", "langchain"]

    def rerank(
        self,
        documents: Iterable[AnyDocument],
        query: str,
        *,
        top_n: int | Unset | None = UNSET,
    ) -> list[dict[str, Any]]:
        """Rank documents and return positions and scores, as partner packages do.

        Args:
            documents: Strings, documents, or mappings with a `text` or `page_content`, whose other keys are
                metadata for `document_template`.
            query: The query.
            top_n: Overrides the setting for this call; None means all.

        Returns:
            Best first, `{"index": position, "relevance_score": score}`; with `on_error="keep_order"` and a
            failure, scores are None and each has the marks `reranked` and `rerank_reason`.

        Raises:
            InvalidInputError: If a document holds no text.
        """
        _, texts, first = self._prepare(documents)
        return to_rows(self._get().rank(query, texts, first_stage=first, **given(top_k=top_n)))

    async def arerank(
        self,
        documents: Iterable[AnyDocument],
        query: str,
        *,
        top_n: int | Unset | None = UNSET,
    ) -> list[dict[str, Any]]:
        """Rank like `rerank`, without blocking the event loop."""
        _, texts, first = self._prepare(documents)
        reranker = await self._aget()
        return to_rows(await reranker.arank(query, texts, first_stage=first, **given(top_k=top_n)))

    def preview(self, documents: Iterable[AnyDocument], query: str) -> list[PreviewedPair]:
        """Return what the model would read of each document, and how many tokens; nothing is scored.

        Offsets are into the text that `document_template` makes.
        """
        _, texts, _ = self._prepare(documents)
        return self._get().preview(query, texts)

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

        Args:
            input: The documents and the query; other keys are ignored.
            config: As for every Runnable.
            **kwargs: `top_n`, `min_score` or `scale` override the settings for this call, also by `bind`.

        Returns:
            Reranked copies of the documents, best first.

        Raises:
            InvalidInputError: If one of the two is missing, the documents are no list, one is no `Document`,
                or a keyword is none of these.
        """
        config = self._describe(config, kwargs)
        return self._call_with_config(self._rank, input, config, run_type="chain", **kwargs)

    async def ainvoke(
        self,
        input: dict[str, Any],  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Rerank like `invoke`, without blocking the event loop."""
        config = self._describe(config, kwargs)
        return await self._acall_with_config(self._arank, input, config, run_type="chain", **kwargs)

    def _rank(self, state: dict[str, Any], **changes: Any) -> list[Document]:
        documents, query = unpack(state)
        read, texts, first = self._prepare(documents)
        ranking = self._get().rank(query, texts, first_stage=first, **_policy(changes))
        return self._copy(documents, read, ranking)

    async def _arank(self, state: dict[str, Any], **changes: Any) -> list[Document]:
        documents, query = unpack(state)
        read, texts, first = self._prepare(documents)
        reranker = await self._aget()
        ranking = await reranker.arank(query, texts, first_stage=first, **_policy(changes))
        return self._copy(documents, read, ranking)

    def _prepare(
        self, documents: Iterable[AnyDocument]
    ) -> tuple[list[RenderedDocument], list[str], list[Any] | None]:
        """Return what is read of each document, its text, and the first stage's scores."""
        read, first = read_documents(documents, self._template, self.first_stage_key)
        return read, [each.text for each in read], first

    def _copy(
        self, documents: Sequence[Document], read: Sequence[RenderedDocument], ranking: Ranking
    ) -> list[Document]:
        return copy_ranked(
            documents, read, ranking, score_key=self.score_key, return_passages=self.return_passages
        )

    def _describe(self, config: RunnableConfig | None, changes: Mapping[str, Any]) -> RunnableConfig:
        """Return the config with what a trace should say of this run."""
        described = ensure_config(config)
        described["metadata"] = {
            **described["metadata"],
            "rerank_model": self._lazy.model,
            "rerank_top_k": _policy(changes).get("top_k", self._lazy.settings.top_k),
        }
        return described

    def _get(self) -> Reranker:
        self._use_kept()
        return self._keep(self._lazy.get())

    async def _aget(self) -> Reranker:
        self._use_kept()
        return self._keep(await self._lazy.aget())

    def _use_kept(self) -> None:
        scorer = self._kept.scorer if self._kept is not None else None
        if scorer is not None and not getattr(scorer, "closed", False):
            self._lazy.share(scorer)

    def _keep(self, reranker: Reranker) -> Reranker:
        if self._kept is not None:
            self._kept.scorer = reranker.scorer
        return reranker


class CrossEncoder(BaseCrossEncoder):
    """Our engine for code that takes LangChain's `BaseCrossEncoder`, such as its `CrossEncoderReranker`.

    Its scores are final: `RERANK_TOP_K`, `RERANK_MIN_SCORE`, `RERANK_ON_ERROR` and `RERANK_FUSION` do not
    apply. None means "not given" for every setting. The model loads on first use. Pickling carries the
    settings.

    Args:
        model: Hub id, local folder or `"bundled"`; see `ScorerSettings.model`.
        scale: `"probability"` (the default, 0 to 1) or `"logit"`, the model's own output, which
            `HuggingFaceCrossEncoder` returns for the MS MARCO models. The order is the same. Or
            `"calibrated"`.
        scorer: A scorer that is ready, instead of a model.
        **options: Fields of `ScorerSettings` (`device`, `dtype`, `engine`, `max_length`, ...), or `remote` as
            for `CrossEncoderRerank`; and of `RerankSettings` `calibration`, `long_documents`,
            `passage_tokens`, `passage_overlap`, `max_passages` and `best_passages`.

    Raises:
        InvalidInputError: If a setting is invalid, or model and scorer are given.

    Examples:
        >>> from rerank_plugins.langchain import CrossEncoder
        >>> scores = CrossEncoder("bundled").score([("who wrote Faust?", "Goethe wrote Faust.")])
        >>> 0.5 < scores[0] < 1
        True
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        scale: Scale | None = None,
        scorer: Scorer | None = None,
        **options: Any,
    ) -> None:
        options = {k: v for k, v in (options | {"model": model, "scale": scale}).items() if v is not None}
        policy = {name: options.pop(name) for name in _POLICY if name in options}
        self._lazy = LazyReranker(
            scorer=scorer,
            scorer_options=options,
            rerank_options=policy | {"top_k": None, "min_score": None, "on_error": "raise", "fusion": None},
        )

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """Score n (query, document) pairs.

        Returns:
            n Python floats on `scale`, in input order.

        Raises:
            InvalidTypeError: If a pair is not two strings.
            ScoringError: If the engine fails.
        """
        # By query, since that is what a reranker takes: long documents and any scorer work as they do there.
        places: dict[str, list[int]] = {}
        pairs = list(check_pairs(text_pairs))
        for place, (query, _) in enumerate(pairs):
            places.setdefault(query, []).append(place)
        scores = [0.0] * len(pairs)
        for query, of_query in places.items():
            for ranked in self._lazy.get().rank(query, [pairs[place][1] for place in of_query]):
                scores[of_query[ranked.index]] = float(ranked.score)  # type: ignore[arg-type]
        return scores

    def close(self) -> None:
        """Free the model, unless others use it too; the next call loads it again. Not a ready scorer."""
        self._lazy.close()

    def __repr__(self) -> str:
        return f"CrossEncoder({self._lazy.model!r}, scale={self._lazy.settings.scale!r})"


class _Kept:
    """What objects with equal settings share: the scorer that one of them loaded.

    LangChain makes a new object for each call that is configured at run time (`configurable_fields`).
    Without this, such a call would load the model and free it again, or connect to a server anew.
    """

    def __init__(self, settings: ScorerSettings | RemoteSettings) -> None:
        self.settings = settings
        self.scorer: Scorer | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _kept, (self.settings,)


_all_kept: "WeakValueDictionary[ScorerSettings | RemoteSettings, _Kept]" = WeakValueDictionary()


def _kept(settings: ScorerSettings | RemoteSettings) -> _Kept:
    return _all_kept.setdefault(settings, _Kept(settings))


# The settings of a reranker that a `BaseCrossEncoder` has use for.
_POLICY = (
    "scale",
    "calibration",
    "long_documents",
    "passage_tokens",
    "passage_overlap",
    "max_passages",
    "best_passages",
)


def _policy(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return overrides for one call as `Reranker.rank` takes them.

    Raises:
        InvalidInputError: If one is none.
    """
    policy = {"top_k" if name == "top_n" else name: value for name, value in changes.items()}
    if unknown := sorted(policy.keys() - {"top_k", "min_score", "scale"}):
        msg = (
            f"top_n, min_score and scale may be set for one call, but got {', '.join(unknown)}; other "
            "settings are fields of the reranker"
        )
        raise InvalidInputError(msg)
    return policy


def _config(callbacks: Callbacks | None) -> RunnableConfig | None:
    # Without callbacks, no config: then the run that is going on becomes the parent in the trace.
    return None if callbacks is None else {"callbacks": callbacks}
