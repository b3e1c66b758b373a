"""The server on Ray Serve: any number of replicas of the application, behind a front that repeats what fails.

    serve run rerank_plugins.serving.ray:app models=bundled allow_unauthenticated=true max_replicas=4

Each replica is the whole application of `rerank_plugins.serving.app`, with a model of its own. The front
forwards requests as they come. When a replica dies, what it was at goes to another one: ranking changes
nothing, so it can be done again.
"""

import asyncio
from string import punctuation
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from rerank_plugins._adapters import missing_extra
from rerank_plugins.errors import ScoringError
from rerank_plugins.scoring.threads import limit_threads
from rerank_plugins.serving.app import create_app
from rerank_plugins.serving.errors import RequestError, error_reply
from rerank_plugins.serving.join import join
from rerank_plugins.serving.models import ModelPool
from rerank_plugins.serving.settings import ServerSettings

try:
    from ray import serve
    from ray.exceptions import RayActorError
    from ray.serve.config import AutoscalingConfig
    from ray.serve.exceptions import BackPressureError
    from ray.serve.handle import DeploymentHandle
except ImportError as error:
    raise missing_extra("ray", error) from error

__all__ = ["Front", "Options", "Replica", "app"]

_REPLICA_HEADER = b"x-rerank-replica"
# How often a request is tried. One that kills whoever touches it must not get around to all replicas.
_ATTEMPTS = 3
# Requests that wait for a replica, at one front; more are refused.
_MOST_WAITING = 1_000
# The front gives up after the replica should have, which has the better answer.
_SLACK_SECONDS = 2.0


class Options(BaseModel):
    """Arguments of `app`, on the command line (`name=value`) or in YAML (`args`).

    Fields of `ServerSettings` are taken too, and win over `RERANK_SERVER_*`. Where to listen is Ray's to say,
    so there must be keys, or `allow_unauthenticated`.

    Attributes:
        min_replicas: Replicas at least.
        max_replicas: Replicas at most; Ray adds them as requests pile up. None: `min_replicas`.
        target_ongoing_requests: Requests inside of a replica, on average, that Ray aims at.
        max_ongoing_requests: Requests inside of a replica at most; they share batches.
        cpus: CPUs of a replica, and its threads.
        gpus: GPUs of a replica; without one it computes on CPU.
        fronts: How many processes forward requests.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    min_replicas: int = Field(default=1, ge=1)
    max_replicas: int | None = Field(default=None, ge=1)
    target_ongoing_requests: float = Field(default=16, gt=0)
    max_ongoing_requests: int = Field(default=64, ge=1)
    cpus: float = Field(default=1, gt=0)
    gpus: float = Field(default=0, ge=0)
    fronts: int = Field(default=1, ge=1)

    def settings(self) -> ServerSettings:
        """Return how replicas serve.

        Raises:
            InvalidInputError: If an argument is neither ours nor of `ServerSettings`, or anyone could call.
        """
        settings = ServerSettings(**{"host": "0.0.0.0"} | (self.model_extra or {}))  # noqa: S104
        settings.check_exposure()
        return settings


class Call(NamedTuple):
    """A request, as it came."""

    method: str
    path: str
    query: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes


def url_of(call: Call) -> httpx.URL:
    """Return what to ask the application for; it gets the very path that the front got."""
    # ASGI's path is decoded, its query is not.
    target = quote(call.path)
    if call.query:
        target += "?" + quote(call.query, safe=punctuation.replace("#", ""))
    return httpx.URL("http://replica", raw_path=target.encode())


class Reply(NamedTuple):
    """What to answer."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    @property
    def replica(self) -> str:
        """The name of the replica that answers."""
        return dict(self.headers)[_REPLICA_HEADER].decode()

    @property
    def response(self) -> Response:
        """The reply as Starlette wants it."""
        response = Response(self.body, self.status)
        response.raw_headers = self.headers
        return response


class Replica:
    """The application, with a model of its own."""

    # Ray awaits it; type checkers think that nobody may.
    async def __init__(self, options: Options) -> None:  # type: ignore[misc]
        self._name = serve.get_replica_context().replica_id.unique_id
        limit_threads(max(1, int(options.cpus)))
        settings = options.settings()
        # Without a GPU of its own it must not take one that it sees.
        place = {} if options.gpus else {"device": "cpu"}
        self._app = create_app(settings, pool=ModelPool.from_settings(settings, scorer_options=place))
        self._inside = httpx.ASGITransport(self._app)
        self._lifespan = self._app.router.lifespan_context(self._app)
        await self._lifespan.__aenter__()

    async def answer(self, call: Call) -> Reply:
        """Let the application answer; cancelling drops the work."""
        request = httpx.Request(call.method, url_of(call), headers=call.headers, content=call.body)
        response = await self._inside.handle_async_request(request)
        headers = [*response.headers.raw, (_REPLICA_HEADER, self._name.encode())]
        return Reply(response.status_code, headers, await response.aread())

    async def check_health(self) -> None:
        """Tell Ray whether to go on with this replica.

        Raises:
            ScoringError: If not.
        """
        reply = await self.answer(Call("GET", "/ready", b"", [], b""))
        if reply.status != 200:
            msg = f"a replica must be ready, but says {reply.body.decode()}"
            raise ScoringError(msg)


class Front:
    """Forwards requests to replicas, and again when one dies."""

    def __init__(self, replicas: DeploymentHandle[Any], options: Options) -> None:
        settings = options.settings()
        self._replicas = replicas.options(method_name="answer")
        self._most_bytes = settings.max_body_bytes
        self._seconds = settings.deadline_ms / 1000 + _SLACK_SECONDS

    async def __call__(self, request: Request) -> Response:
        """Answer one request."""
        try:
            async with asyncio.timeout(self._seconds):
                call = Call(
                    request.method,
                    # Where Ray puts the application below a prefix, the path has it too.
                    request.scope["path"].removeprefix(request.scope.get("root_path", "")),
                    request.scope["query_string"],
                    request.headers.raw,
                    await self._read(request),
                )
                if call.path == "/metrics":
                    return (await self._ask_all(call)).response
                return (await self._forward(call)).response
        except TimeoutError:
            refused = RequestError(504, "deadline", "no answer in time, so the work was dropped")
        except BackPressureError:
            refused = RequestError(
                429, "overloaded", "too many requests wait; try again later", retry_after=1
            )
        except RayActorError:
            refused = RequestError(503, "failed", f"{_ATTEMPTS} replicas died of it", retry_after=1)
        except ClientDisconnect:
            refused = RequestError(499, "left", "the client left")
        return error_reply(refused, dialect="other", request_id=request.headers.get("x-request-id", ""))

    async def _read(self, request: Request) -> bytes:
        """Return the body; of one that is too large only so much that the application sees that it is."""
        body = bytearray()
        async for chunk in request.stream():
            if len(body) <= self._most_bytes:
                body += chunk
        return bytes(body[: self._most_bytes + 1])

    async def _forward(self, call: Call) -> Reply:
        for _ in range(_ATTEMPTS - 1):
            try:
                return Reply(*await self._replicas.remote(call))
            except RayActorError:
                continue  # Ray chooses among those that live
        return Reply(*await self._replicas.remote(call))

    async def _ask_all(self, call: Call) -> Reply:
        """Return what all replicas count, each under its own name."""
        # What is not asked for is plain text, which can be joined.
        plain = call._replace(headers=[(k, v) for k, v in call.headers if k.lower() != b"accept"])
        found = await self._replicas.broadcast("answer", plain).results_async(return_exceptions=True)
        replies = [Reply(*reply) for reply in found if not isinstance(reply, BaseException)]
        if not replies or any(reply.status != 200 for reply in replies):
            return await self._forward(call)
        return Reply(
            200,
            [(b"content-type", CONTENT_TYPE_LATEST.encode())],
            join({reply.replica: reply.body.decode() for reply in replies}),
        )


def app(options: Options) -> Any:
    """Build the application for `serve run` and `serve deploy`.

    Args:
        options: How many replicas, what each has, and how they serve.

    Returns:
        A Ray Serve application whose ingress is `Front`.

    Raises:
        InvalidInputError: If an option cannot be used.
    """
    options.settings()  # what is wrong should be known here, not in a replica's log
    scaling = AutoscalingConfig(
        min_replicas=options.min_replicas,
        max_replicas=max(options.min_replicas, options.max_replicas or 0),
        target_ongoing_requests=options.target_ongoing_requests,
    )
    replicas = serve.deployment(
        autoscaling_config=scaling,
        max_ongoing_requests=options.max_ongoing_requests,
        max_queued_requests=_MOST_WAITING,
        health_check_period_s=5,
        health_check_timeout_s=30,
        ray_actor_options={"num_cpus": options.cpus, "num_gpus": options.gpus},
    )(Replica)
    front = serve.deployment(
        num_replicas=options.fronts,
        max_ongoing_requests=_MOST_WAITING,
        ray_actor_options={"num_cpus": 0},
    )(Front)
    return front.bind(replicas.bind(options), options)
