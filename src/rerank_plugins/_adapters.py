"""What the three adapters share: flat options in, a lazy reranker out."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
)

from rerank_plugins.calibration import Calibration
from rerank_plugins.errors import InvalidInputError, MissingExtraError
from rerank_plugins.lazy import LazyReranker
from rerank_plugins.ranking import Ranking
from rerank_plugins.reranker import Reranker
from rerank_plugins.scoring.protocol import Scorer
from rerank_plugins.settings import (
    Dtype,
    EngineName,
    Fusion,
    LongDocuments,
    OnError,
    RerankSettings,
    Scale,
    ScorerSettings,
    describe,
)
from rerank_plugins.template import DocumentTemplate

__all__ = [
    "FUSED_KEY",
    "PASSAGE_KEY",
    "RerankFields",
    "content_passage",
    "earlier_marks",
    "failure_marks",
    "lazy_reranker",
    "missing_extra",
    "plain_calibration",
    "plain_remote",
]

# Metadata keys: characters [start, end) of the best window in the framework's own content ...
PASSAGE_KEY = "rerank_passage"
# ... what the order goes by, with `fusion` ...
FUSED_KEY = "rerank_fused"
# ... and, where scoring failed and the order was kept, False and the reason.
NOT_RERANKED = ("reranked", "rerank_reason")


def earlier_marks(metadata: Mapping[str, Any]) -> frozenset[str]:
    """Return the keys under which an earlier pass may have said something of itself."""
    ours = {PASSAGE_KEY, FUSED_KEY}
    # One alone of these two is the user's own.
    return frozenset(ours | set(NOT_RERANKED) if metadata.keys() >= set(NOT_RERANKED) else ours)


def failure_marks(ranking: Ranking) -> dict[str, Any]:
    """Return the metadata that says that scoring failed, if it did."""
    return {} if ranking.reranked else dict(zip(NOT_RERANKED, (False, ranking.reason), strict=True))


def missing_extra(extra: str, error: ImportError) -> MissingExtraError:
    """Return the error to raise when an extra's package cannot be imported."""
    return MissingExtraError(
        f"a package that is needed here is not installed ({error}); "
        f'install it with: pip install "rerank-plugins[{extra}]"'
    )


def content_passage(
    passage: tuple[int, int] | None, content_start: int, content_length: int
) -> tuple[int, int] | None:
    """Turn the best window of a rendered text into characters [start, end) of the content in it.

    Args:
        passage: `RankedDocument.passage`.
        content_start: Where the content begins in the text that was scored.
        content_length: Characters of the content.

    Returns:
        What of the window lies in the content; None without windows, or if the window holds metadata only.
    """
    if passage is None:
        return None
    start, end = (min(max(place - content_start, 0), content_length) for place in passage)
    return (start, end) if start < end or not content_length else None


def plain_calibration(calibration: Any) -> Any:
    """Return a calibration as frameworks can serialise it: its fields, or a path."""
    if isinstance(calibration, Calibration):
        return asdict(calibration)
    return str(calibration) if isinstance(calibration, Path) else calibration


def plain_remote(remote: Any) -> Any:
    """Return the settings of a server as frameworks can serialise them, which secrets are not for.

    Raises:
        InvalidInputError: If there is a secret among them, or it is neither a URL nor a mapping.
    """
    if remote is not None and not isinstance(remote, str | Mapping):
        msg = (
            f"remote must be a base URL or a mapping of settings, but got {type(remote).__name__}; "
            "give a RemoteScorer as scorer"
        )
        raise InvalidInputError(msg)
    if isinstance(remote, Mapping) and remote.keys() & {"api_key", "headers"}:
        msg = (
            "remote must hold no api_key and no headers, since it is serialised; set RERANK_REMOTE_API_KEY "
            "or RERANK_REMOTE_HEADERS, or give a RemoteScorer as scorer"
        )
        raise InvalidInputError(msg)
    return dict(remote) if isinstance(remote, Mapping) else remote


def lazy_reranker(
    fields: Mapping[str, Any],
    *,
    scorer: Scorer | None = None,
    reranker: Reranker | None = None,
) -> LazyReranker:
    """Build a lazy reranker from an adapter's fields; those that are no settings of ours are left out.

    None means "not given" in every adapter: then `RERANK_*` variables and our defaults apply. 0 and 0.0
    mean what they say. `top_n`, as two of the frameworks call it, is our `top_k`.

    Raises:
        InvalidInputError: If a setting is invalid, or two of model, scorer and reranker are given.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    if "top_n" in given:
        given["top_k"] = given["top_n"]
    return LazyReranker(
        scorer=scorer,
        reranker=reranker,
        scorer_options={k: v for k, v in given.items() if k in ScorerSettings.model_fields or k == "remote"},
        rerank_options={k: v for k, v in given.items() if k in RerankSettings.model_fields},
    )


class RerankFields(BaseModel):
    """The fields of adapters that are pydantic models, and the lazy reranker made from them.

    Raises:
        InvalidInputError: If a setting is invalid, or two of model, scorer and reranker are given.
    """

    model_config = ConfigDict(
        arbitrary_types_allowed=True,
        extra="forbid",
        protected_namespaces=(),
        populate_by_name=True,
    )

    model: str | None = None
    revision: str | None = None
    device: str | None = None
    dtype: Dtype | None = None
    engine: EngineName | None = None
    max_length: int | None = None
    max_query_tokens: int | None = None
    max_batch_tokens: int | None = None
    cache_dir: str | None = None
    local_files_only: bool | None = None
    top_n: int | None = Field(None, validation_alias=AliasChoices("top_n", "top_k"))
    min_score: float | None = None
    scale: Scale | None = None
    calibration: Annotated[dict[str, Any] | str | None, BeforeValidator(plain_calibration)] = None
    fusion: Fusion | None = None
    on_error: OnError | None = None
    long_documents: LongDocuments | None = None
    passage_tokens: int | None = None
    passage_overlap: int | None = None
    max_passages: int | None = None
    best_passages: int | None = None
    document_template: str | None = None
    remote: Annotated[dict[str, Any] | str | None, BeforeValidator(plain_remote)] = None
    scorer: Any = Field(None, exclude=True, repr=False)
    reranker: Any = Field(None, exclude=True, repr=False)

    _lazy: LazyReranker = PrivateAttr()
    _template: DocumentTemplate | None = PrivateAttr(None)

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise InvalidInputError(describe(error, type(self).__name__)) from None

    def model_post_init(self, context: Any, /) -> None:
        """Check the settings; the model loads on first use."""
        super().model_post_init(context)
        self._lazy = lazy_reranker(dict(self), scorer=self.scorer, reranker=self.reranker)
        if self.document_template is not None:
            self._template = DocumentTemplate(self.document_template)

    def __setattr__(self, name: str, value: Any) -> None:
        # Frameworks' objects may be changed after they were made; that must be checked, and take effect.
        if name in type(self).model_fields:
            changed = type(self)(**{**dict(self), name: value})
            self._adopt(changed)
            value = getattr(changed, name)
        super().__setattr__(name, value)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy; `update` is checked, and takes effect.

        Raises:
            InvalidInputError: If a setting is invalid.
        """
        copied = super().model_copy(deep=deep)
        return type(self)(**{**dict(copied), **update}) if update else copied

    def _adopt(self, changed: Self) -> None:
        """Take over what was made from changed settings."""
        if self._lazy.loaded and changed._lazy.scorer_settings == self._lazy.scorer_settings:
            changed._lazy.share(self._lazy.get().scorer)
            changed._lazy.get()  # while we still hold the model, so that it is shared and not loaded again
        self._lazy, self._template = changed._lazy, changed._template
