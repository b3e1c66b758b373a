"""What can be set: `ScorerSettings` for the model, `RerankSettings` for the policy.

Both are frozen, compare by value, survive a JSON round trip, and read what is not given from
`RERANK_*` environment variables (`RERANK_MODEL`, `RERANK_DEVICE`, `RERANK_TOP_K`, ...). An argument
always wins over the environment.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from rerank_plugins.calibration import Calibration
from rerank_plugins.errors import InvalidInputError

__all__ = [
    "DEFAULT_MODEL",
    "Dtype",
    "EngineName",
    "Fusion",
    "LongDocuments",
    "OnError",
    "RerankSettings",
    "Scale",
    "ScorerSettings",
    "check_fusion",
    "describe",
]

DEFAULT_MODEL = "cross-encoder/ms-marco-MiniLM-L6-v2"

Dtype = Literal["auto", "float32", "bfloat16", "float16", "int8"]
EngineName = Literal["auto", "torch", "openvino", "onnx", "transformers"]
Scale = Literal["probability", "logit", "calibrated"]
OnError = Literal["raise", "keep_order"]
LongDocuments = Literal["truncate", "max_passage"]


def _check_device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise ValueError('must be "auto", "cpu", "cuda" or "cuda:1" and so on')
    return value


def _not_auto(value: str) -> str:
    if value == "auto":
        raise ValueError('must be named, "auto" is one alone')
    return value


_Device = Annotated[str, AfterValidator(_check_device)]


def _not_nan(value: float) -> float:
    if math.isnan(value):
        raise ValueError("must be a number")
    return value


def check_fusion(value: Any) -> Any:
    """Return None, `"rrf"` or a weight.

    Raises:
        InvalidInputError: If it is none of them.
    """
    if value is None or value == "rrf":
        return value
    try:
        # True would be a weight that fuses nothing.
        weight = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        weight = math.nan
    if not 0 <= weight <= 1:
        msg = f'fusion must be None, "rrf" or a weight from 0 to 1, but got {value!r}'
        raise InvalidInputError(msg)
    return weight


# Reciprocal rank fusion, or the weight of the cross-encoder.
Fusion = Annotated[Literal["rrf"] | float, BeforeValidator(check_fusion)]


def _read_calibration(value: Any) -> Any:
    if isinstance(value, str | Path):
        return Calibration.load(value)
    return dict(value) if isinstance(value, Mapping) else value


def describe(error: ValidationError, owner: str) -> str:
    """Return pydantic's findings as one message of ours, naming each setting and its value."""

    def line(issue: Any) -> str:
        cause = issue.get("ctx", {}).get("error")
        if isinstance(cause, InvalidInputError):  # ours already, from a nested check
            return str(cause)
        name = ".".join(map(str, issue["loc"])) or "settings"
        # What is given under an unknown name may be a secret, too.
        hidden = name == "token" or issue["type"] == "extra_forbidden"
        found = issue["msg"].removeprefix("Value error, ")
        return f"{owner}.{name}: {found}" + ("" if hidden else f", but got {issue.get('input')!r}")

    return "; ".join(line(issue) for issue in error.errors(include_url=False))


class _Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="RERANK_",
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        protected_namespaces=(),
        ser_json_inf_nan="strings",  # JSON has no infinity; null would be another setting
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise InvalidInputError(describe(error, type(self).__name__)) from None

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.model_dump())  # which leaves secrets out

    @classmethod
    def of(cls, settings: Self | None, options: Mapping[str, Any]) -> Self:
        """Return settings that were given at once, or those that single options make.

        Raises:
            InvalidInputError: If both were given, or an option is invalid.
        """
        if settings is not None and options:
            msg = f"give either settings or single options, but got both: {sorted(options)}"
            raise InvalidInputError(msg)
        if settings is not None and not isinstance(settings, cls):
            msg = f"settings must be {cls.__name__}, but got {type(settings).__name__}"
            raise InvalidInputError(msg)
        return cls(**options) if settings is None else settings


def _rebuild(kind: type[_Settings], fields: dict[str, Any]) -> _Settings:
    return kind(**fields)


class ScorerSettings(_Settings):
    """Which model to load, and how to run it.

    Attributes:
        model: Hub id (old or new spelling of the family, with or without `cross-encoder/`), a local
            folder, or `"bundled"`.
        revision: Branch, tag or commit on the hub. None: the commit pinned in
            `rerank_plugins.scoring.family` for the family, `main` for other models.
        device: `"auto"` (CUDA if torch sees one, else CPU), `"cpu"`, `"cuda"`, `"cuda:1"`.
        devices: Several, each with a replica of the model, behind one queue; instead of `device`.
        dtype: Precision of the body; the head is always float32. `"auto"`: float16 on CUDA; on CPU
            bfloat16 where it measures faster, else float32. `"int8"` (engines openvino and onnx, on
            CPU) is never chosen for you: it changes scores visibly.
        engine: `"openvino"`, `"onnx"` and `"torch"` run the BERT family; `"transformers"` runs any
            other one-logit sequence classifier. `"auto"`: on CPU OpenVINO or ONNX Runtime, whichever
            measured faster on such a CPU, of what is installed, else torch.
        max_length: Tokens of a pair, special tokens included. None: the checkpoint's own limit.
        max_query_tokens: Tokens of the query; a longer one is cut and flagged. None: three quarters
            of `max_length`, so that a document always keeps a quarter.
        max_batch_tokens: Tokens in one batch, padding included. None: a default for the device, within its
            free memory.
        max_device_memory: Bytes that weights and one batch may take of a CUDA device, for cards that others
            share; about, as batches are sized by an estimate. Graphs captured at load count, too; those
            captured later come on top, with about as much as a batch of 16,384 tokens. None: half of what is
            free at load.
        cuda_graphs: When to capture CUDA graphs for small batches: `"lazy"`, as they are needed; `"load"`,
            all at once, so that no request pays for it; `"off"`, never.
        max_queue_tokens: Tokens that may wait for the engine; more are refused with `QueueFullError`.
            The default bounds memory (64 MiB of ids), not waiting: servers want less.
        token_cache_bytes: Memory for token ids of texts seen before, least recently used out first;
            0 turns it off.
        score_cache_size: How many scores to remember, least recently used out first; 0 turns it off.
        engine_cache_dir: Folder for converted, quantised and compiled graphs. None: a folder of the
            user's cache.
        cache_dir: Folder of the hub cache. None: huggingface_hub's.
        local_files_only: Never ask the hub, use what is cached.
        token: Hub token; in no repr, dump, error or pickle. None: what huggingface_hub finds by itself.
    """

    model: str = Field(default=DEFAULT_MODEL, min_length=1)
    revision: str | None = None
    device: _Device = "auto"
    devices: (
        Annotated[tuple[Annotated[_Device, AfterValidator(_not_auto)], ...], Field(min_length=1)] | None
    ) = None
    dtype: Dtype = "auto"
    engine: EngineName = "auto"
    max_length: int | None = Field(default=None, ge=8)
    max_query_tokens: int | None = Field(default=None, ge=1)
    max_batch_tokens: int | None = Field(default=None, ge=1)
    max_device_memory: int | None = Field(default=None, ge=1)
    cuda_graphs: Literal["lazy", "load", "off"] = "lazy"
    max_queue_tokens: int = Field(default=2**24, ge=1)
    token_cache_bytes: int = Field(default=2**25, ge=0)
    score_cache_size: int = Field(default=0, ge=0)
    engine_cache_dir: str | None = None
    cache_dir: str | None = None
    local_files_only: bool = False
    token: SecretStr | None = Field(default=None, exclude=True, repr=False)


class RerankSettings(_Settings):
    """What to do with the logits.

    Attributes:
        top_k: How many documents to return at most, after `min_score`. None: all. 0: none.
        min_score: Lowest score to keep, inclusive, on `scale`, applied before `top_k`. None keeps
            everything; 0.0 is a threshold like any other.
        scale: `"probability"` is the sigmoid of the logit (0 to 1), `"logit"` the model's own output,
            `"calibrated"` what `calibration` makes of it (0 to 1). A document's score never depends on the
            other documents, but for rounding.
        calibration: What `scale="calibrated"` needs: a `Calibration`, its fields, or the path of a file that
            `Calibration.save` wrote (as `RERANK_CALIBRATION` is), which is read at once.
        fusion: What the order goes by, besides the cross-encoder. None: nothing. `"rrf"`: the first
            stage's order too, by reciprocal ranks. A weight: the first stage's scores too; 1.0 counts the
            cross-encoder alone, 0.0 the first stage alone. Scores, logits and `min_score` stay as they are.
            See `rerank_plugins.fusion`.
        on_error: `"raise"`, or `"keep_order"`: if scoring fails (`ScoringError`; of a scorer of your own, no
            other error), return the documents in their input order with `reranked=False` and the reason. Bad
            input raises under both.
        long_documents: What to do with a document that does not fit beside its query. `"truncate"` reads
            its start. `"max_passage"` reads it in overlapping windows and takes the best one's logit.
        passage_tokens: Tokens of a window, at most; longer documents are split even if they would fit. Models
            trained on passages read short ones best: 128 to 192. None: as many as fit beside the query.
        passage_overlap: Tokens that neighbouring windows share at least, so that a passage cut by one is
            whole in the next; more than half a window counts as half.
        max_passages: Windows to read of one document, from its start; a document with more is flagged
            `truncated`. 1 reads the first passage. None: all.
        best_passages: A document's logit is the mean of its best so many windows' (of all, if there are
            fewer); 1 is the best window's.
        tracing: Whether to run in an OpenTelemetry span, if opentelemetry-api is installed.
        trace_content: Whether spans hold the query and the documents' texts.
    """

    top_k: int | None = Field(default=None, ge=0)
    min_score: Annotated[float, AfterValidator(_not_nan)] | None = None
    scale: Scale = "probability"
    # NoDecode: in the environment it is a path, not JSON.
    calibration: Annotated[Calibration | None, NoDecode, BeforeValidator(_read_calibration)] = None
    fusion: Fusion | None = None
    on_error: OnError = "raise"
    long_documents: LongDocuments = "truncate"
    passage_tokens: int | None = Field(default=None, ge=1)
    passage_overlap: int = Field(default=64, ge=0)
    max_passages: int | None = Field(default=32, ge=1)
    best_passages: int = Field(default=1, ge=1)
    tracing: bool = True
    trace_content: bool = False

    @model_validator(mode="after")
    def _check_calibrated(self) -> Self:
        if self.scale == "calibrated" and self.calibration is None:
            raise InvalidInputError(
                'scale="calibrated" needs a calibration, but got None; set calibration= to what '
                "rerank_plugins.calibration.fit returned, or it or RERANK_CALIBRATION to the path of its file"
            )
        return self
