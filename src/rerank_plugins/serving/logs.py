"""Request ids, and one log record a request: who, what and how long, never a text."""

import json
import logging
import re
import time
import traceback
import uuid
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rerank_plugins.serving.auth import OPEN_PATHS, Keys
from rerank_plugins.serving.errors import RequestError, error_reply
from rerank_plugins.serving.service import Observer
from rerank_plugins.tracing import annotate

__all__ = ["REQUEST_ID_HEADER", "Entrance", "JsonFormatter", "request_id_of"]

REQUEST_ID_HEADER = "X-Request-ID"

requests_log = logging.getLogger("rerank_plugins.serving.requests")
logger = logging.getLogger("rerank_plugins.serving")

_REQUEST_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)


def request_id_of(request: Request) -> str:
    """Return the id under which a request is answered and logged."""
    return str(request.state.request_id)


class Entrance:
    """ASGI middleware: gives each request an id, checks its key, counts and logs it, and answers crashes.

    Args:
        app: What is behind it.
        keys: Who may call; empty: anyone.
        observer: Who counts.
        log: Whether to log a line a request.
    """

    def __init__(self, app: ASGIApp, *, keys: Keys, observer: Observer, log: bool) -> None:
        self._app = app
        self._keys = keys
        self._observer = observer
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection's event stream, as ASGI wants it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request = Request(scope, receive)
        state = scope.setdefault("state", {})
        given = request.headers.get(REQUEST_ID_HEADER, "")
        state["request_id"] = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        state["dialect"] = "other"
        status = 0

        async def reply(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                annotate(request_id=state["request_id"], dialect=state["dialect"])
                header = (REQUEST_ID_HEADER.lower().encode(), state["request_id"].encode())
                message["headers"] = [*message["headers"], header]
            await send(message)

        try:
            await self._enter(request, scope, receive, reply)
        except Exception as error:  # noqa: BLE001 - whatever happens, the client gets an answer, the server lives
            _log_crash(error, state["request_id"])
            if not status:
                failed = RequestError(500, "failed", "the server failed; its log says how")
                answer = error_reply(failed, dialect=state["dialect"], request_id=state["request_id"])
                await answer(scope, receive, reply)
        finally:
            seconds = time.perf_counter() - started
            self._observer.requests(state["dialect"], status, seconds)
            # Health checks, scrapes and the status page's refreshes would drown the rest.
            if self._log and (state["dialect"] != "other" or status >= 400):
                self._write(request, state, status, seconds)

    async def _enter(self, request: Request, scope: Scope, receive: Receive, reply: Send) -> None:
        state = scope["state"]
        # uvicorn puts the path that a proxy stripped in front again.
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if self._keys and path not in OPEN_PATHS:
            state["caller"] = self._keys.owner(request.headers.get("authorization"))
            if state["caller"] is None:
                self._observer.rejected("key")
                refused = RequestError(
                    401, "key", "Authorization must be 'Bearer KEY' with a key of this server"
                )
                refused.headers = {"WWW-Authenticate": "Bearer"}
                answer = error_reply(refused, dialect="other", request_id=state["request_id"])
                await answer(scope, receive, reply)
                return
        await self._app(scope, receive, reply)

    def _write(self, request: Request, state: dict[str, Any], status: int, seconds: float) -> None:
        fields = {
            "request_id": state["request_id"],
            "method": request.method,
            "path": request.scope["path"][:200],
            "status": status,
            "ms": round(seconds * 1000, 2),
            "caller": state.get("caller"),
            "dialect": state["dialect"],
        } | state.get("figures", {})
        requests_log.info("request", extra={"fields": {k: v for k, v in fields.items() if v is not None}})


def _log_crash(error: Exception, request_id: str) -> None:
    # Where it happened, but not what it says: that may quote a text.
    where = "".join(traceback.format_tb(error.__traceback__))
    fields = {"request_id": request_id, "error": type(error).__name__, "traceback": where}
    logger.error("a request failed", extra={"fields": fields})


class JsonFormatter(logging.Formatter):
    """Writes a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return time, level, logger, message, and the fields that the record brings."""
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        } | getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
