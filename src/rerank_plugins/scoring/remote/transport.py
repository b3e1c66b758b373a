"""`Transport`: does the steps of calls, with threads or in event loops."""

import asyncio
import os
import ssl
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakSet

import httpx

from rerank_plugins.errors import RemoteError, RerankError, ScorerClosedError
from rerank_plugins.scoring.remote.settings import RemoteSettings
from rerank_plugins.scoring.remote.steps import All, Answer, Pause, Send, Step, Steps

__all__ = ["Transport"]

T = TypeVar("T")

# Far above any reply to 10,000 documents; a server gone mad must not fill our memory.
_MAX_REPLY_BYTES = 2**26

# A loop that is about to end cancels what is being closed, where it would close by itself what is open.
_MOMENT = 0.5

# What a call may want to handle.
_ERRORS = (httpx.RequestError, RerankError)


class Transport:
    """Connections, one pool for all threads and one for each event loop; opened when first needed.

    An event loop's connections are closed by `close`, or when the loop ends (`asyncio.run` sees to that).

    Args:
        settings: Timeouts, headers, and how much to do at once.
    """

    def __init__(self, settings: RemoteSettings) -> None:
        self._settings = settings
        self._ssl: ssl.SSLContext | None = None
        self.closed = False
        self._start()
        _transports.add(self)

    def _start(self) -> None:
        """Have no connections and no threads: at first, and in a forked child, as they are the parent's."""
        self._lock = threading.Lock()
        self._client: httpx.Client | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopClient] = WeakKeyDictionary()

    def run(self, steps: Steps[T], given_up: threading.Event | None = None) -> T:
        """Do the steps of a call, and return its result.

        Args:
            steps: What to do.
            given_up: Set when nobody wants the result any more: then nothing more is asked.

        Raises:
            ScorerClosedError: If `close` was called.
        """
        self._refuse_if_closed()
        given_up = given_up or threading.Event()
        proceed: Callable[[], Step] = partial(next, steps)
        while True:
            try:
                step = proceed()
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]
            if given_up.is_set():
                raise CancelledError
            try:
                with self._closing_named():
                    result = self._do(step, given_up)
            except _ERRORS as error:
                proceed = partial(steps.throw, error)
            else:
                proceed = partial(steps.send, result)

    async def arun(self, steps: Steps[T]) -> T:
        """Do the steps of a call like `run`, without blocking the event loop."""
        self._refuse_if_closed()
        proceed: Callable[[], Step] = partial(next, steps)
        while True:
            try:
                step = proceed()
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]
            try:
                with self._closing_named():
                    result = await self._ado(step)
            except _ERRORS as error:
                proceed = partial(steps.throw, error)
            else:
                proceed = partial(steps.send, result)

    def _do(self, step: Step, given_up: threading.Event) -> Any:
        if isinstance(step, Pause):
            return given_up.wait(step.seconds)
        if isinstance(step, All):
            if len(step.each) <= 1:
                return [self.run(steps, given_up) for steps in step.each]
            return self._all(step.each)
        body = _Body(step)
        with self._open().stream(step.method, step.url, json=step.body, timeout=self._timeout(step)) as reply:
            for chunk in reply.iter_bytes():
                body.add(chunk)
        return body.answer(reply)

    def _all(self, each: Sequence[Steps[Any]]) -> list[Any]:
        given_up, threads = threading.Event(), self._open_threads()
        running = [threads.submit(self.run, steps, given_up) for steps in each]
        try:
            for part in as_completed(running):
                part.result()
        except BaseException:
            given_up.set()
            for part in running:
                part.cancel()
            raise
        return [part.result() for part in running]

    async def _ado(self, step: Step) -> Any:
        if isinstance(step, Pause):
            return await asyncio.sleep(step.seconds)
        if isinstance(step, All):
            return await self._aall(step.each)
        body, client = _Body(step), await self._aopen()
        async with client.stream(step.method, step.url, json=step.body, timeout=self._timeout(step)) as reply:
            async for chunk in reply.aiter_bytes():
                body.add(chunk)
        return body.answer(reply)

    async def _aall(self, each: Sequence[Steps[Any]]) -> list[Any]:
        gate = asyncio.Semaphore(self._settings.max_concurrency)

        async def one(steps: Steps[Any]) -> Any:
            async with gate:
                return await self.arun(steps)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(steps)) for steps in each]
        except BaseExceptionGroup as failed:  # the first is the one that made the group give up
            raise failed.exceptions[0] from failed.exceptions[0].__cause__
        return [task.result() for task in tasks]

    def close(self) -> None:
        """Close all connections; those of event loops that go on a moment later."""
        with self._lock:
            self.closed = True
            client, self._client = self._client, None
            threads, self._threads = self._threads, None
            of_loops, self._of_loops = dict(self._of_loops), WeakKeyDictionary()
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)
        if client is not None:
            client.close()
        for of_loop in of_loops.values():
            of_loop.close_soon()

    def _open(self) -> httpx.Client:
        with self._lock:
            self._refuse_if_closed()
            if self._client is None:
                self._client = self._make(httpx.Client)
            return self._client

    def _open_threads(self) -> ThreadPoolExecutor:
        with self._lock:
            self._refuse_if_closed()
            if self._threads is None:
                self._threads = ThreadPoolExecutor(
                    self._settings.max_concurrency, thread_name_prefix="rerank-plugins-remote"
                )
            return self._threads

    async def _aopen(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        with self._lock:
            self._refuse_if_closed()
            if loop in self._of_loops:
                return self._of_loops[loop].client
            of_loop = _LoopClient(self._make(httpx.AsyncClient), loop)
            for ended in [each for each in self._of_loops if each.is_closed()]:
                del self._of_loops[ended]
            self._of_loops[loop] = of_loop
        await of_loop.close_with_loop()
        return of_loop.client

    @contextmanager
    def _closing_named(self) -> Iterator[None]:
        """Turn what comes of closing under a running call into the error that says so."""
        try:
            yield
        except (RuntimeError, CancelledError) as error:
            # asyncio's own CancelledError is another class.
            if not self.closed or isinstance(error, RerankError):
                raise
            raise ScorerClosedError("the scorer was closed while it was used") from error

    def _refuse_if_closed(self) -> None:
        if self.closed:
            raise ScorerClosedError("the scorer must be open, but it was closed; make a new one")

    def _make(self, kind: Callable[..., T]) -> T:
        """Make a client, which reads the environment for proxies and certificates."""
        try:
            return kind(**self._options())
        except (httpx.InvalidURL, ImportError, OSError, ValueError) as error:
            msg = (
                f"a connection could not be set up: {type(error).__name__}: {error}; look at HTTP_PROXY, "
                "HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE"
            )
            raise RemoteError(msg) from error

    def _options(self) -> dict[str, Any]:
        settings = self._settings
        headers = {name: value.get_secret_value() for name, value in settings.headers}
        if settings.api_key is not None:
            headers["Authorization"] = f"Bearer {settings.api_key.get_secret_value()}"
        limits = httpx.Limits(
            max_connections=settings.max_concurrency,
            max_keepalive_connections=settings.max_concurrency,
            keepalive_expiry=4.0,  # before uvicorn, on which most of these servers run, hangs up after 5
        )
        # Reading all certificate authorities takes longer than a request; once is enough.
        self._ssl = self._ssl or httpx.create_ssl_context()
        return {"headers": headers, "limits": limits, "verify": self._ssl}

    def _timeout(self, step: Send) -> httpx.Timeout:
        left = step.deadline.left
        if left <= 0:
            msg = f"no answer within the deadline of {self._settings.deadline:g} s"
            raise RemoteError(msg, url=step.url)
        reading = min(self._settings.timeout, left)
        return httpx.Timeout(
            reading,
            connect=min(self._settings.connect_timeout, left),
            pool=None if self._settings.deadline is None else left,
        )


class _Body:
    """A reply's body as it arrives, not too much of it and not too late."""

    def __init__(self, step: Send) -> None:
        self._step = step
        self._bytes = bytearray()

    def add(self, chunk: bytes) -> None:
        self._bytes += chunk
        if len(self._bytes) > _MAX_REPLY_BYTES:
            msg = f"the reply of {self._step.url} must be at most {_MAX_REPLY_BYTES} bytes, but is longer"
            raise RemoteError(msg, url=self._step.url)
        if self._step.deadline.left <= 0:
            msg = "the deadline passed while the reply arrived"
            raise httpx.ReadTimeout(msg)

    def answer(self, reply: httpx.Response) -> Answer:
        return Answer(reply.status_code, reply.headers, bytes(self._bytes))


class _LoopClient:
    """The client of one event loop, closed when that is asked for, or when the loop ends."""

    def __init__(self, client: httpx.AsyncClient, loop: asyncio.AbstractEventLoop) -> None:
        self.client = client
        self._loop = loop
        self._closing: asyncio.Task[None] | None = None
        self._guard = self._wait_and_close()

    async def close_with_loop(self) -> None:
        """Have the loop close the client at its end, as it closes all generators that were begun."""
        await anext(self._guard)

    def close_soon(self) -> None:
        """Close the client in a moment; for any thread."""
        if self._loop.is_running():
            self._loop.call_soon_threadsafe(self._loop.call_later, _MOMENT, self._close)

    def _close(self) -> None:
        self._closing = self._loop.create_task(self.client.aclose())

    async def _wait_and_close(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            if self._closing is not None:
                await asyncio.wait({self._closing})
            await self.client.aclose()


_transports: WeakSet[Transport] = WeakSet()


def _forget() -> None:
    for transport in _transports:
        transport._start()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
