"""What the three adapters share: flat options in, a lazy reranker out."""

from collections.abc import Collection, Iterable, Mapping
from copy import copy
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
from rerank_plugins.errors import InvalidInputError, InvalidTypeError, MissingExtraError
from rerank_plugins.inputs import shorten
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
    "changed_reranker",
    "check_serialisable",
    "content_passage",
    "earlier_marks",
    "failure_marks",
    "lazy_reranker",
    "listed",
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


def listed(documents: Any, kind: type = object, *, name: str = "documents", hint: str = "") -> list[Any]:
    """Return what a caller handed in as a list, be it an iterator.

    Args:
        documents: What should be several documents in an order.
        kind: What each of them must be.
        name: What the caller calls them.
        hint: What to do about one that is of another kind.

    Raises:
        InvalidTypeError: If they are one document, in no order, no documents, or one is of another kind.
    """
    # Models, such as LangChain's documents, iterate over their fields.
    no_list = isinstance(documents, str | bytes | Mapping | set | frozenset | BaseModel)
    if no_list or not isinstance(documents, Iterable):
        msg = (
            f"{name} must be a list, but got {type(documents).__name__}: {shorten(documents)}; put a single "
            f"{name[:-1] if name.endswith('s') else 'one'} into a list"
        )
        raise InvalidTypeError(msg)
    found = list(documents)
    for i, document in enumerate(found):
        if not isinstance(document, kind):
            msg = (
                f"{name}[{i}] must be a {kind.__name__}, but got {type(document).__name__}: "
                f"{shorten(document)}{hint}"
            )
            raise InvalidTypeError(msg)
    return found


def check_serialisable(scorer: Scorer | None, reranker: Reranker | None) -> None:
    """Refuse to write settings beside which another model would be loaded.

    Raises:
        InvalidInputError: If there is a scorer or reranker that was ready.
    """
    if scorer is not None or reranker is not None:
        raise InvalidInputError(
            "a reranker must be made from a model to be serialised, but got a ready scorer or reranker; give "
            "model= and settings instead: equal ones share one loaded model"
        )


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
    scorer_options, rerank_options = _options(fields)
    return LazyReranker(
        scorer=scorer, reranker=reranker, scorer_options=scorer_options, rerank_options=rerank_options
    )


def changed_reranker(held: LazyReranker, fields: Mapping[str, Any], changed: Collection[str]) -> LazyReranker:
    """Build the lazy reranker of fields of which some were changed.

    What the environment said when `held` was made stays. It is asked only for what is not given any more.

    Raises:
        InvalidInputError: As for `lazy_reranker`.
    """
    scorer_options, rerank_options = _options(fields)
    names = {"top_k" if name == "top_n" else name for name in changed}

    def keep(settings: BaseModel, options: Mapping[str, Any]) -> dict[str, Any]:
        kept = {name: value for name, value in dict(settings).items() if name not in names}
        return kept | {name: value for name, value in options.items() if name in names}

    scorer, reranker, remote = fields["scorer"], fields["reranker"], scorer_options.get("remote")
    if "reranker" not in names:  # another one brings its own
        rerank_options = keep(held.settings, rerank_options)
    if scorer is None and reranker is None:
        if isinstance(held.scorer_settings, ScorerSettings):
            if remote is None:
                scorer_options = keep(held.scorer_settings, scorer_options)
        elif remote is not None and "remote" not in names:
            server = dict(held.scorer_settings)
            if "model" in names:
                del server["model"]
            scorer_options["remote"] = server | (dict(remote) if isinstance(remote, Mapping) else {})
    lazy = LazyReranker(
        scorer=scorer, reranker=reranker, scorer_options=scorer_options, rerank_options=rerank_options
    )
    if held.loaded and lazy.scorer_settings == held.scorer_settings:
        lazy.share(held.get().scorer)
        lazy.get()  # while `held` still has the model, so that it is shared and not loaded again
    return lazy


def _options(fields: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what is given of a scorer's settings, and of a reranker's."""
    given = {name: value for name, value in fields.items() if value is not None}
    if "top_n" in given:
        given["top_k"] = given["top_n"]
    return (
        {k: v for k, v in given.items() if k in ScorerSettings.model_fields or k == "remote"},
        {k: v for k, v in given.items() if k in RerankSettings.model_fields},
    )


# The fields from which the lazy reranker is made.
_SETTINGS = {*ScorerSettings.model_fields, *RerankSettings.model_fields} | {
    *("top_n", "remote", "scorer", "reranker")
}


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
        self._settle()

    def _settle(self) -> None:
        """Make the rest of what is made from fields; called whenever some were changed."""
        template = self.document_template
        self._template = None if template is None else DocumentTemplate(template)

    def __setattr__(self, name: str, value: Any) -> None:
        # Frameworks' objects may be changed after they were made; that must be checked, and take effect.
        if name in type(self).model_fields:
            self._change({name: value})
        else:
            super().__setattr__(name, value)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy; `update` is checked, and takes effect.

        Raises:
            InvalidInputError: If a setting is invalid.
        """
        copied = super().model_copy(deep=deep)
        if update:
            copied._change(update)
        return copied

    def close(self) -> None:
        """Free the model, unless others use it too; the next call loads it again.

        A scorer or reranker that was given stays open: whoever made it closes it.
        """
        self._lazy.close()

    def _change(self, update: Mapping[str, Any]) -> None:
        """Change fields, all or none of them."""
        # Frameworks assign fields of theirs too (callbacks); those change nothing that is ours.
        update = {"top_n" if name == "top_k" else name: value for name, value in update.items()}
        changed = copy(self)
        try:
            for name, value in update.items():
                self.__pydantic_validator__.validate_assignment(changed, name, value)
        except ValidationError as error:
            raise InvalidInputError(describe(error, type(self).__name__)) from None
        if update.keys() & _SETTINGS:
            changed._lazy = changed_reranker(self._lazy, dict(changed), update.keys())
        changed._settle()
        for part in ("__dict__", "__pydantic_fields_set__", "__pydantic_private__"):
            object.__setattr__(self, part, getattr(changed, part))
