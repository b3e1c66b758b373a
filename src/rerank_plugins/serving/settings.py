"""`ServerSettings`: who may call, what is served, and how much may wait."""

from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from rerank_plugins.errors import InvalidInputError
from rerank_plugins.settings import Scale, ScorerSettings, _Settings

__all__ = ["Load", "ServerSettings"]

Load = Literal["first", "all", "lazy"]


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"  # any other name may lead anywhere


def _list(value: Any) -> Any:
    """Split what stands in the environment as `a,b`."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _pairs(value: Any) -> Any:
    """Read `asked=served,...`, or a list of such pairs, as a mapping."""
    if isinstance(value, Mapping):
        return value
    parts = _list(value)
    for part in parts:
        if not isinstance(part, str) or "=" not in part:
            msg = f"an alias must be ASKED=SERVED, such as 'rerank-v3.5=bundled', but got {part!r}"
            raise InvalidInputError(msg)
    return dict(part.split("=", 1) for part in parts)


class ServerSettings(_Settings):
    """How to serve. What is not given is read from `RERANK_SERVER_*`; lists there are comma separated.

    Models are loaded with `ScorerSettings` and ranked with `RerankSettings`: their `RERANK_*` variables
    (`RERANK_DEVICE`, `RERANK_LONG_DOCUMENTS`, ...) count here too. `RERANK_TOP_K`, `RERANK_MIN_SCORE`,
    `RERANK_SCALE` and `RERANK_ON_ERROR` do not: these are for the client to choose, or set here. Nor does
    `RERANK_FUSION`, as requests carry no first-stage scores.

    Attributes:
        host: Address to bind. One that other machines reach needs keys, or `allow_unauthenticated`.
        port: Port to bind; 0 takes a free one.
        root_path: Path that a proxy strips before it forwards; for `rerank-plugins serve`, as other ASGI
            servers and Ray have a setting of their own.
        models: What clients may ask for by name; the first is what they get without a name. Default: the
            model of `ScorerSettings`.
        aliases: Other names for them, such as `{"rerank-v3.5": "bundled"}`; `"*"` stands for every name that
            is not known otherwise. Replies say which model it was.
        load: When to load: the `"first"` model at the start and others when they are asked for, `"all"` at
            the start, or `"lazy"`, none.
        keys_file: File of `name:sha256` lines, a bearer key each; `rerank-plugins new-key` writes them.
        keys: Bearer keys in clear, for the environment; only their hashes are kept.
        allow_unauthenticated: Serve other machines without keys, behind a gateway that checks callers.
        scale: Scale of scores where a request does not say; `"probability"` is what clients expect.
        max_body_bytes: Bytes of a request.
        max_documents: Documents of a request.
        max_request_tokens: Tokens of a request, estimated from its characters before it is tokenised.
        max_queue_tokens: Tokens of a model's requests that may wait or run. None: 262,144, or 32 full
            batches where that is more.
        max_waiting_requests: Requests that may be inside at once, those whose body still arrives included.
        max_wait_ms: Refuse a request if what is before it takes longer than this, at the measured pace.
        deadline_ms: When to give up on a request; its header `X-Request-Timeout-Ms` can shorten that.
        drain_seconds: How long a stopping server waits for the requests that are inside.
        request_log: Whether to log a line for each request that ranks, or is refused.
    """

    model_config = SettingsConfigDict(env_prefix="RERANK_SERVER_")

    host: str = Field(default="127.0.0.1", min_length=1)
    port: int = Field(default=8000, ge=0, le=65535)
    root_path: str = ""
    models: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_list), Field(min_length=1)] = Field(
        default_factory=lambda: (ScorerSettings().model,)
    )
    aliases: Annotated[dict[str, str], NoDecode, BeforeValidator(_pairs)] = Field(default_factory=dict)
    load: Load = "first"
    keys_file: Path | None = None
    keys: Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_list)] = Field(
        default=(), exclude=True, repr=False
    )
    allow_unauthenticated: bool = False
    scale: Scale = "probability"
    max_body_bytes: int = Field(default=8 * 2**20, ge=1)
    max_documents: int = Field(default=2048, ge=1)
    max_request_tokens: int = Field(default=2**18, ge=1)
    max_queue_tokens: int | None = Field(default=None, ge=1)
    max_waiting_requests: int = Field(default=256, ge=1)
    max_wait_ms: int = Field(default=5_000, ge=1)
    deadline_ms: int = Field(default=30_000, ge=1)
    drain_seconds: float = Field(default=30.0, ge=0, allow_inf_nan=False)
    request_log: bool = True

    @field_validator("keys")
    @classmethod
    def _refuse_short_keys(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(len(key.get_secret_value()) < 16 for key in keys):
            raise InvalidInputError(
                "a key must have 16 characters or more, so that nobody guesses it; "
                "make one with: rerank-plugins new-key NAME"
            )
        return keys

    @model_validator(mode="after")
    def _check_aliases(self) -> Self:
        for asked, served in self.aliases.items():
            if served not in self.models:
                msg = f"alias {asked!r} must stand for one of {list(self.models)}, but got {served!r}"
                raise InvalidInputError(msg)
        return self

    def check_exposure(self) -> None:
        """Refuse to serve other machines without keys.

        Raises:
            InvalidInputError: If `host` is no loopback address, and there are neither keys nor
                `allow_unauthenticated`.
        """
        if _is_loopback(self.host) or self.keys or self.keys_file or self.allow_unauthenticated:
            return
        msg = (
            f"host {self.host!r} lets other machines call, so keys are needed: make one with "
            "'rerank-plugins new-key NAME --keys-file keys.txt' and serve with --keys-file keys.txt; or pass "
            "--allow-unauthenticated if something in front checks who calls"
        )
        raise InvalidInputError(msg)
