"""`RemoteSettings`: which server to ask, how, and how long to go on trying."""

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import httpx
from pydantic import BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode, SettingsConfigDict

from rerank_plugins.errors import InvalidInputError
from rerank_plugins.settings import _Settings

__all__ = ["DialectName", "RemoteSettings", "ReplyScale"]

DialectName = Literal["jina", "cohere", "voyage", "vllm", "tei", "infinity"]
ReplyScale = Literal["probability", "logit"]


def _read_urls(value: Any) -> tuple[str, ...]:
    """Return base URLs, from one, several, or several with commas between them (the environment)."""
    if isinstance(value, str):
        value = value.replace(",", " ").split()
    urls = tuple(_check_url(each) for each in value) if isinstance(value, Iterable) else ()
    if not urls:
        msg = (
            "base_urls must be a URL or several, such as http://127.0.0.1:8000, but got none; "
            "give them, or set RERANK_REMOTE_BASE_URLS"
        )
        raise InvalidInputError(msg)
    return urls


def _check_url(value: Any) -> str:
    try:
        url = httpx.URL(value)
    except (httpx.InvalidURL, TypeError) as error:
        msg = f"base_urls must be http or https URLs, but one is none: {error}"
        raise InvalidInputError(msg) from None
    # None of these messages shows the URL: it may hold a password.
    if url.scheme not in {"http", "https"} or not url.host:
        msg = (
            "base_urls must begin with http:// or https:// and name a host, but one has scheme "
            f"{url.scheme!r} and host {url.host!r}"
        )
        raise InvalidInputError(msg)
    if url.userinfo or url.query or url.fragment:
        msg = (
            f"base_urls must have no user, query or fragment, but that of {url.host} has; "
            "give credentials as api_key or headers"
        )
        raise InvalidInputError(msg)
    return str(url).rstrip("/")


def _read_secret(value: Any, name: str = "api_key") -> SecretStr | None:
    """Return a secret that can stand in a header. Messages never show it."""
    if value is None:
        return None
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not isinstance(text, str):
        msg = f"{name} must be a str, but got {type(text).__name__}"
        raise InvalidInputError(msg)
    text = text.strip()  # keys read from files end with a newline
    if not (text.isascii() and text.isprintable()):
        msg = f"{name} must be printable ASCII, as HTTP headers are, but has other characters"
        raise InvalidInputError(msg)
    return SecretStr(text)


def _check_header(name: Any) -> str:
    if not (isinstance(name, str) and name.isascii() and name.isprintable() and name):
        msg = f"the name of a header must be printable ASCII, but got {name!r}"
        raise InvalidInputError(msg)
    return name


def _read_headers(value: Any) -> tuple[tuple[str, SecretStr | None], ...]:
    """Return headers as pairs, from those, a mapping, or one in JSON (the environment)."""
    if value is None:
        return ()
    try:
        if isinstance(value, str):
            value = json.loads(value)
        pairs = value.items() if isinstance(value, Mapping) else value
        # Pairs, not a dict: settings are hashed.
        return tuple((_check_header(name), _read_secret(text, f"headers[{name!r}]")) for name, text in pairs)
    except (TypeError, ValueError) as error:
        if isinstance(error, InvalidInputError):
            raise
        msg = f"headers must be a mapping of names to values, but got {type(value).__name__}"
        raise InvalidInputError(msg) from None


class RemoteSettings(_Settings):
    """Which server scores, and how it is asked.

    What is not given is read from `RERANK_REMOTE_*` variables (`RERANK_REMOTE_BASE_URLS`,
    `RERANK_REMOTE_API_KEY`, ...). Frozen, compared by value. `api_key` and `headers` are secrets: they are
    in no repr, dump, error or pickle.

    Attributes:
        base_urls: Where the server is, such as `http://127.0.0.1:8000`, without the path of the API; one,
            or several to fail over, the first that works. In the environment, commas between them.
        dialect: What it speaks; see `docs/remote.md`. `"jina"` is the plain `POST /v1/rerank` that most
            servers answer, ours too.
        model: Name to send; None sends none, which hosted services refuse.
        api_key: Sent as bearer token.
        headers: More headers, sent with every request: a mapping of names to values.
        scale: What the server's numbers are, where the dialect's default is wrong. None: `"logit"` for
            the dialects that are asked for raw scores (vllm, tei, infinity), else `"probability"`. A reply
            that names its scale, as our server's do, is believed before this.
        max_documents: Documents in one request; more are split. None: what the server says (tei), else
            100. A request refused as too large (413) is halved until it passes.
        max_concurrency: Requests in the air at once: in all threads together, and in each event loop.
        timeout: Seconds without a sign of the server before an attempt is given up.
        connect_timeout: Seconds to connect.
        deadline: Seconds for one call with all its requests, attempts and pauses; None: no limit.
        max_retries: Attempts after the first for each request, over all base URLs.
        backoff: Seconds of the first pause between attempts; doubles from one to the next, with jitter.
        max_pause: Longest pause in seconds, also if the server asks for a longer one by Retry-After.
        cooldown: Seconds that a base URL which failed is asked only if all the others failed too; fewer if
            it says so by Retry-After.
    """

    model_config = SettingsConfigDict(env_prefix="RERANK_REMOTE_")

    # NoDecode: in the environment these are no JSON.
    base_urls: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_read_urls)] = Field(
        # Not required: pydantic would show all that was given, the key too.
        default=(),
        validate_default=True,
    )
    dialect: DialectName = "jina"
    model: str | None = Field(default=None, min_length=1)
    api_key: Annotated[SecretStr | None, BeforeValidator(_read_secret)] = Field(
        default=None, exclude=True, repr=False
    )
    headers: Annotated[tuple[tuple[str, SecretStr], ...], NoDecode, BeforeValidator(_read_headers)] = Field(
        default=(), exclude=True, repr=False
    )
    scale: ReplyScale | None = None
    max_documents: int | None = Field(default=None, ge=1)
    max_concurrency: int = Field(default=8, ge=1)
    timeout: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    connect_timeout: float = Field(default=5.0, gt=0, allow_inf_nan=False)
    deadline: float | None = Field(default=120.0, gt=0, allow_inf_nan=False)
    max_retries: int = Field(default=3, ge=0)
    backoff: float = Field(default=0.25, ge=0, allow_inf_nan=False)
    max_pause: float = Field(default=20.0, ge=0, allow_inf_nan=False)
    cooldown: float = Field(default=30.0, ge=0, allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        unknown = sorted(values.keys() - type(self).model_fields.keys())
        if unknown:  # said here, since pydantic would show the value, which may be a key
            msg = f"RemoteSettings has no setting {', '.join(unknown)}"
            raise InvalidInputError(msg)
        super().__init__(**values)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never be shown."""
        held = [self.api_key, *(value for _, value in self.headers)]
        return tuple(each.get_secret_value() for each in held if each is not None)
