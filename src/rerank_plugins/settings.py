"""What can be set: `ScorerSettings` for the model, `RerankSettings` for the policy.

Both are frozen, compare by value, survive a JSON round trip, and read what is not given from
`RERANK_*` environment variables (`RERANK_MODEL`, `RERANK_DEVICE`, `RERANK_TOP_K`, ...). An argument
always wins over the environment.
"""

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from rerank_plugins.errors import InvalidInputError

__all__ = [
    "DEFAULT_MODEL",
    "Dtype",
    "EngineName",
    "OnError",
    "RerankSettings",
    "Scale",
    "ScorerSettings",
    "describe",
]

DEFAULT_MODEL = "cross-encoder/ms-marco-MiniLM-L6-v2"

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
EngineName = Literal["auto", "torch", "transformers"]
Scale = Literal["probability", "logit"]
OnError = Literal["raise", "keep_order"]


def _not_nan(value: float) -> float:
    if math.isnan(value):
        raise ValueError("must be a number")
    return value


def describe(error: ValidationError, owner: str) -> str:
    """Return pydantic's findings as one message of ours, naming each setting and its value."""

    def line(issue: Any) -> str:
        cause = issue.get("ctx", {}).get("error")
        if isinstance(cause, InvalidInputError):  # ours already, from a nested check
            return str(cause)
        name = ".".join(map(str, issue["loc"])) or "settings"
        return f"{owner}.{name}: {issue['msg']}, but got {issue.get('input')!r}"

    return "; ".join(line(issue) for issue in error.errors(include_url=False))


class _Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="RERANK_",
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        protected_namespaces=(),
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise InvalidInputError(describe(error, type(self).__name__)) from None


class ScorerSettings(_Settings):
    """Which model to load, and how to run it.

    Attributes:
        model: Hub id (old or new spelling of the family, with or without `cross-encoder/`), a local
            folder, or `"bundled"`.
        revision: Branch, tag or commit on the hub. None: the commit pinned in
            `rerank_plugins.scoring.family` for the family, `main` for other models.
        device: `"auto"` (CUDA if torch sees one, else CPU), `"cpu"`, `"cuda"`, `"cuda:1"`.
        dtype: Precision of the body; the head is always float32. `"auto"`: bfloat16 on CUDA,
            float32 on CPU.
        engine: `"torch"` is our BERT, `"transformers"` runs any other one-logit sequence
            classifier; `"auto"` takes the first that can read the checkpoint.
        max_length: Tokens of a pair, special tokens included. None: the checkpoint's own limit.
        max_query_tokens: Tokens of the query; a longer one is cut and flagged. None: three quarters
            of `max_length`, so that a document always keeps a quarter.
        max_batch_tokens: Padded tokens in one batch. None: a default for the device.
        cache_dir: Folder of the hub cache. None: huggingface_hub's.
        local_files_only: Never ask the hub, use what is cached.
        token: Hub token; never serialised. None: what huggingface_hub finds by itself.
    """

    model: str = Field(DEFAULT_MODEL, min_length=1)
    revision: str | None = None
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    dtype: Dtype = "auto"
    engine: EngineName = "auto"
    max_length: int | None = Field(None, ge=8)
    max_query_tokens: int | None = Field(None, ge=1)
    max_batch_tokens: int | None = Field(None, ge=1)
    cache_dir: str | None = None
    local_files_only: bool = False
    token: SecretStr | None = Field(None, exclude=True, repr=False)


class RerankSettings(_Settings):
    """What to do with the logits.

    Attributes:
        top_k: How many documents to return at most, after `min_score`. None: all. 0: none.
        min_score: Lowest score to keep, inclusive, on `scale`, applied before `top_k`. None keeps
            everything; 0.0 is a threshold like any other.
        scale: `"probability"` is the sigmoid of the logit (0 to 1), `"logit"` the model's own output.
            A document's score never depends on the other documents.
        on_error: `"raise"`, or `"keep_order"`: if scoring fails, return the documents in their input
            order with `reranked=False` and the reason. Bad input raises under both.
    """

    top_k: int | None = Field(None, ge=0)
    min_score: Annotated[float, AfterValidator(_not_nan)] | None = None
    scale: Scale = "probability"
    on_error: OnError = "raise"
