"""`JsonRoute`: what has to hold before a body is worth parsing, and until when an answer is wanted."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic_core import from_json

from rerank_plugins.serving.errors import RequestError
from rerank_plugins.serving.service import Service

__all__ = ["TIMEOUT_HEADER", "JsonRoute", "service_of", "while_wanted"]

TIMEOUT_HEADER = "X-Request-Timeout-Ms"

_READ_AND_DROPPED = 64 * 2**20
_DROP_SECONDS = 2.0

T = TypeVar("T")


def service_of(request: Request) -> Service:
    """Return the service behind the app that got a request."""
    service: Service = request.app.state.service
    return service


class _JsonRequest(Request):
    """A request whose body is bounded, and parsed so that no JSON can hurt."""

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            self._body = await self._read(service_of(self).settings.max_body_bytes)
        return self._body

    async def json(self) -> Any:
        try:
            # Nests 200 deep at most, knows no NaN, and takes neither invalid UTF-8 nor lone surrogates.
            return from_json(await self.body(), allow_inf_nan=False)
        except ValueError as error:
            raise RequestError(400, "invalid", f"the body must be JSON, but: {error}") from None

    async def _read(self, most: int) -> bytes:
        declared = self.headers.get("content-length", "")
        too_large = declared.isascii() and declared.isdigit() and int(declared) > most
        body = bytearray()
        chunks = self._chunks()
        while not too_large and (chunk := await anext(chunks, None)) is not None:
            body += chunk
            too_large = len(body) > most
        if too_large:
            await _drop(chunks)
            raise RequestError(413, "too_large", f"a request may have {most} bytes; send fewer documents")
        return bytes(body)

    async def _chunks(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise RequestError(499, "left", "the client left in the middle of its body")
            yield message.get("body", b"")
            more = message.get("more_body", False)


async def _drop(chunks: AsyncIterator[bytes]) -> None:
    """Read on for a while: a client that is answered in the middle of its body often misses the answer."""
    read = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(_DROP_SECONDS):
            async for chunk in chunks:
                read += len(chunk)
                if read > _READ_AND_DROPPED:
                    return


class JsonRoute(APIRoute):
    """A route whose requests have a bounded JSON body, a place inside, and a deadline."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler, behind these checks."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            service = service_of(request)
            request.state.dialect = self.tags[0]
            with service.door.enter():
                seconds = _seconds(request, service.settings.deadline_ms)
                request.state.deadline = asyncio.get_running_loop().time() + seconds
                _check_type(request)
                try:
                    async with asyncio.timeout_at(request.state.deadline):
                        return await handler(_JsonRequest(request.scope, request.receive))
                except TimeoutError:
                    msg = (
                        f"no answer within {seconds:g} s, so the work was dropped; send less, or wait longer"
                    )
                    raise RequestError(504, "deadline", msg) from None
                except RequestValidationError as error:
                    # Where a path takes two dialects, the one that was chosen stands before the fields.
                    if any("tei" in issue["loc"][1:2] for issue in error.errors()):
                        request.state.dialect = "tei"
                    raise _invalid(error) from None

        return handle


async def while_wanted(request: Request, work: Awaitable[T]) -> T:
    """Return what `work` returns; drop it if the client leaves.

    Raises:
        RequestError: 499, if it left. Nobody reads it but the log.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise RequestError(499, "left", "the client left, so the work was dropped")
    finally:
        gone.cancel()
        task.cancel()
        await asyncio.wait({task, gone})


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _seconds(request: Request, default_ms: int) -> float:
    given = request.headers.get(TIMEOUT_HEADER)
    if given is None:
        return default_ms / 1000
    if not (given.isascii() and given.isdigit() and 0 < len(given) < 16 and int(given)):
        msg = f"{TIMEOUT_HEADER} must be a whole number of milliseconds above 0, but got {given[:40]!r}"
        raise RequestError(400, "invalid", msg)
    return min(int(given), default_ms) / 1000


def _check_type(request: Request) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        msg = f"Content-Type must be application/json, but got {kind[:80]!r}"
        raise RequestError(415, "invalid", msg)


def _invalid(error: RequestValidationError) -> RequestError:
    def line(issue: Any) -> str:
        return f"{'.'.join(map(str, issue['loc'][1:])) or 'body'}: {issue['msg']}"

    problems = "; ".join(line(issue) for issue in error.errors()[:5])
    return RequestError(400, "invalid", f"the request cannot be read: {problems}")
