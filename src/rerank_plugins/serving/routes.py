"""The paths that rank: a body of some dialect in, its reply out."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Request, Response
from pydantic import BaseModel, Discriminator, Tag

from rerank_plugins.serving.auth import bearer
from rerank_plugins.serving.dialects.rerank import RerankBody, RerankResponse
from rerank_plugins.serving.dialects.score import ScoreBody, ScoreResponse
from rerank_plugins.serving.dialects.tei import TeiBody, TeiResponse
from rerank_plugins.serving.errors import ErrorReply, RequestError, TeiErrorReply, problems
from rerank_plugins.serving.limits import TIMEOUT_HEADER, JsonRoute, service_of, while_wanted
from rerank_plugins.serving.logs import REQUEST_ID_HEADER, request_id_of
from rerank_plugins.serving.service import RerankReply, RerankRequest

__all__ = ["SCALE_HEADER", "router"]

SCALE_HEADER = "X-Rerank-Scale"

_RANKED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Scores.",
        "headers": {
            SCALE_HEADER: {"description": "Scale of the scores.", "schema": {"type": "string"}},
            REQUEST_ID_HEADER: {"description": "The request's id.", "schema": {"type": "string"}},
        },
    }
}
_STATUSES = (400, 401, 404, 413, 415, 422, 429, 500, 503, 504)
_PROBLEMS = _RANKED | problems(ErrorReply, *_STATUSES)
_EITHER = _RANKED | problems(ErrorReply | TeiErrorReply, *_STATUSES, 424)

_PARAMETERS = {
    TIMEOUT_HEADER: ("Milliseconds after which the answer is of no use.", {"type": "integer", "minimum": 1}),
    REQUEST_ID_HEADER: ("Comes back in the reply and stands in the log.", {"type": "string"}),
}
_HEADERS = {
    "parameters": [
        {"name": name, "in": "header", "required": False, "description": text, "schema": schema}
        for name, (text, schema) in _PARAMETERS.items()
    ]
}

router = APIRouter(route_class=JsonRoute, dependencies=[Depends(bearer)])


def _dialect(body: Any) -> str:
    tei = isinstance(body, TeiBody) or (isinstance(body, dict) and body.get("texts") is not None)
    return "tei" if tei else "rerank"


AnyBody = Annotated[
    Annotated[RerankBody, Tag("rerank")] | Annotated[TeiBody, Tag("tei")],
    Discriminator(_dialect),
    Body(),
]


@router.post(
    "/v1/rerank", response_model=RerankResponse, responses=_PROBLEMS, openapi_extra=_HEADERS, tags=["rerank"]
)
async def rerank_v1(body: RerankBody, request: Request) -> Response:
    """Rank documents for a query: Cohere v1, Jina, vLLM and Voyage."""
    return await _rerank(body, request, "1")


@router.post(
    "/v2/rerank", response_model=RerankResponse, responses=_PROBLEMS, openapi_extra=_HEADERS, tags=["rerank"]
)
async def rerank_v2(body: RerankBody, request: Request) -> Response:
    """Rank documents for a query: Cohere v2 and vLLM."""
    return await _rerank(body, request, "2")


@router.post(
    "/rerank",
    response_model=RerankResponse | TeiResponse,
    responses=_EITHER,
    openapi_extra=_HEADERS,
    tags=["rerank"],
)
async def rerank(body: AnyBody, request: Request) -> Response:
    """Rank documents for a query: TEI if there are `texts`, else as /v1/rerank."""
    return await (_tei(body, request) if isinstance(body, TeiBody) else _rerank(body, request, "1"))


@router.post(
    "/v1/score", response_model=ScoreResponse, responses=_PROBLEMS, openapi_extra=_HEADERS, tags=["score"]
)
@router.post(
    "/score", response_model=ScoreResponse, responses=_PROBLEMS, openapi_extra=_HEADERS, tags=["score"]
)
async def score(body: ScoreBody, request: Request) -> Response:
    """Score pairs, in their order: vLLM."""
    requests, places = body.to_requests()
    replies = await _rank(request, requests)
    return _reply(ScoreResponse.of(replies, places, request_id=request_id_of(request)), replies)


async def _rerank(body: RerankBody, request: Request, version: str) -> Response:
    replies = await _rank(request, [body.to_request()])
    response = RerankResponse.of(
        replies[0],
        request_id=request_id_of(request),
        version=version,
        documents=bool(body.return_documents),
    )
    return _reply(response, replies)


async def _tei(body: TeiBody, request: Request) -> Response:
    request.state.dialect = "tei"
    if not body.texts:
        raise RequestError(400, "empty", "texts must hold one text at least, but got none")
    replies = await _rank(request, [body.to_request()])
    return _reply(TeiResponse.of(replies[0], texts=bool(body.return_text)), replies)


async def _rank(request: Request, requests: list[RerankRequest]) -> list[RerankReply]:
    work = service_of(request).rank_all(requests, deadline=request.state.deadline)
    replies = await while_wanted(request, work)
    stats = [reply.stats for reply in replies]
    request.state.figures = {
        "model": replies[0].model,
        "documents": sum(each.documents for each in stats),
        "tokens": sum(each.tokens for each in stats),
        "truncated": sum(each.truncated for each in stats),
        "queue_ms": round(max(each.queue_ms for each in stats), 2),
        "compute_ms": round(max(each.compute_ms for each in stats), 2),
    }
    return replies


def _reply(body: BaseModel, replies: list[RerankReply]) -> Response:
    return Response(
        body.model_dump_json(exclude_none=True),
        media_type="application/json",
        headers={SCALE_HEADER: replies[0].scale},
    )
