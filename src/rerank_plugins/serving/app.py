"""`create_app`: the FastAPI application, wired."""

import logging
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from rerank_plugins import __version__
from rerank_plugins.errors import RerankError
from rerank_plugins.serving import operations, routes
from rerank_plugins.serving.auth import Keys
from rerank_plugins.serving.errors import error_reply, explain
from rerank_plugins.serving.limits import service_of
from rerank_plugins.serving.logs import Entrance, request_id_of
from rerank_plugins.serving.metrics import Metrics
from rerank_plugins.serving.models import ModelPool
from rerank_plugins.serving.service import Service
from rerank_plugins.serving.settings import ServerSettings
from rerank_plugins.serving.status.routes import add_status

__all__ = ["create_app"]

logger = logging.getLogger("rerank_plugins.serving")


def create_app(
    settings: ServerSettings | None = None,
    *,
    pool: ModelPool | None = None,
) -> FastAPI:
    """Build the server's application; nothing is loaded before it starts.

    Args:
        settings: How to serve; None: what `RERANK_SERVER_*` variables say.
        pool: Models to serve instead of those that settings name; who made it closes it.

    Returns:
        An ASGI application, with the `Service` in `app.state.service`, and in `app.state.failure` why it did
        not start.

    Raises:
        InvalidInputError: If a setting is invalid, or the keys file cannot be read.
    """
    settings = settings or ServerSettings()
    models = pool or ModelPool.from_settings(settings)
    metrics = Metrics()
    service = Service(models, settings, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            await _load(service)
        except RerankError as error:
            app.state.failure = error  # for whoever runs the server: ASGI passes on no more than a text
            raise
        yield
        if pool is None:
            models.close()

    app = FastAPI(
        title="rerank-plugins",
        version=__version__,
        description="Cross-encoder reranking in the formats of Cohere, Jina, vLLM, Voyage and TEI.",
        lifespan=lifespan,
        # These pages would load scripts from elsewhere; the document itself is /openapi.json.
        docs_url=None,
        redoc_url=None,
        # A span around each request that ranks, in the caller's trace. Its log records would quote texts.
        telemetry={"logs": False, "operation_spans": False, "exclude": _ranks_nothing},
    )
    app.state.service, app.state.failure = service, None
    app.include_router(routes.router)
    app.include_router(operations.router)
    add_status(app, service, metrics)
    app.add_exception_handler(HTTPException, _refuse)
    app.add_exception_handler(RerankError, _refuse)
    app.add_middleware(Entrance, keys=Keys.of(settings), observer=service.observer, log=settings.request_log)
    return app


def _ranks_nothing(scope: MutableMapping[str, Any]) -> bool:
    return bool(scope["type"] != "http" or scope["method"] != "POST")


async def _load(service: Service) -> None:
    names = {"lazy": [], "first": [service.pool.default], "all": service.pool.names}
    for name in names[service.settings.load]:
        await service.pool.get(name)


async def _refuse(request: Request, error: Exception) -> Response:
    """Answer what is no success in the client's own format."""
    if isinstance(error, RerankError):
        refused: HTTPException = explain(error)
        if refused.status_code >= 500:
            logger.error("%s", error, extra={"fields": {"request_id": request_id_of(request)}})
    else:
        assert isinstance(error, HTTPException)  # noqa: S101 - no other handler leads here
        refused = error
    service_of(request).observer.rejected(getattr(refused, "reason", "http"))
    return error_reply(refused, dialect=request.state.dialect, request_id=request_id_of(request))
