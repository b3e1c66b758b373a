"""The paths that tell of the server: is it alive, is it ready, what does it serve."""

from typing import Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from rerank_plugins import __version__
from rerank_plugins.scoring.protocol import info_of
from rerank_plugins.serving.auth import bearer
from rerank_plugins.serving.dialects.tei import TeiInfo
from rerank_plugins.serving.errors import ErrorReply, problems
from rerank_plugins.serving.limits import service_of

__all__ = ["router"]

router = APIRouter(tags=["operations"])


class Health(BaseModel):
    """Whether the process answers."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """Whether requests should be sent here."""

    status: Literal["ready", "loading", "draining"]


class Model(BaseModel):
    """A served model.

    Attributes:
        id: Its name.
        owned_by: As OpenAI's clients expect it.
        created: As OpenAI's clients expect it; unknown.
        loaded: Whether it is loaded; if not, the first request for it waits until it is.
        device: Where it runs, when loaded.
        dtype: Its precision, when loaded.
        engine: What runs it, when loaded.
        max_length: Tokens of a pair, when loaded.
    """

    id: str
    object: Literal["model"] = "model"
    owned_by: str = "rerank-plugins"
    created: int = 0
    loaded: bool
    device: str | None = None
    dtype: str | None = None
    engine: str | None = None
    max_length: int | None = None


class Models(BaseModel):
    """What may be asked for."""

    object: Literal["list"] = "list"
    data: list[Model]


# Load balancers may ask by HEAD.
@router.head("/health", include_in_schema=False)
@router.get("/health")
async def health() -> Health:
    """Say whether the process answers: restart it if not."""
    return Health()


@router.head("/ready", include_in_schema=False)
@router.get(
    "/ready",
    response_model=Readiness,
    responses={503: {"model": Readiness, "description": "Send requests elsewhere."}},
)
async def ready(request: Request) -> JSONResponse:
    """Say whether requests should be sent here: not while it loads or stops."""
    service = service_of(request)
    waits = service.settings.load != "lazy" and not service.pool.loaded()
    state: Literal["ready", "loading", "draining"] = (
        "draining" if service.door.closed else "loading" if waits else "ready"
    )
    return JSONResponse(Readiness(status=state).model_dump(), 200 if state == "ready" else 503)


@router.get("/info", dependencies=[Depends(bearer)], responses=problems(ErrorReply, 401, 503))
async def info(request: Request) -> TeiInfo:
    """Describe the default model, loading it if need be, and the limits: TEI."""
    service = service_of(request)
    reranker = await service.pool.get()
    found = info_of(reranker.scorer)
    return TeiInfo(
        model_id=service.pool.default,
        model_sha=getattr(found, "revision", None),
        model_dtype=getattr(found, "dtype", None),
        max_concurrent_requests=service.settings.max_waiting_requests,
        max_input_length=getattr(found, "max_length", None),
        max_batch_tokens=getattr(found, "max_batch_tokens", None),
        max_client_batch_size=service.settings.max_documents,
        version=__version__,
        device=getattr(found, "device", None),
        engine=getattr(found, "engine", None),
        scale=reranker.settings.scale,
    )


@router.get("/v1/models", dependencies=[Depends(bearer)], responses=problems(ErrorReply, 401))
async def models(request: Request) -> Models:
    """List what may be asked for."""
    pool = service_of(request).pool
    loaded = pool.loaded()
    found = {name: info_of(reranker.scorer) for name, reranker in loaded.items()}
    return Models(
        data=[
            Model(
                id=name,
                loaded=name in loaded,
                device=getattr(found.get(name), "device", None),
                dtype=getattr(found.get(name), "dtype", None),
                engine=getattr(found.get(name), "engine", None),
                max_length=getattr(found.get(name), "max_length", None),
            )
            for name in pool.names
        ]
    )
