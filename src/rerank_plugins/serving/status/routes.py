"""The page at `/`, the figures behind it, its try-it box, and `GET /metrics`."""

import asyncio
import base64
import hashlib
import re
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response, Security
from fastapi.responses import HTMLResponse, PlainTextResponse
from pydantic import BaseModel

from rerank_plugins.scoring.protocol import Span, WindowScorer
from rerank_plugins.serving.auth import bearer
from rerank_plugins.serving.errors import ErrorReply, problems
from rerank_plugins.serving.limits import JsonRoute, while_wanted
from rerank_plugins.serving.metrics import Metrics
from rerank_plugins.serving.service import RerankRequest, Service
from rerank_plugins.serving.status.report import StatusReport

__all__ = ["add_status"]


class TryBody(BaseModel):
    """What the page's box sends."""

    query: str
    documents: list[str]
    model: str | None = None


class TryResult(BaseModel):
    """A document's score, and the characters [start, end) of it that were read, where not all were."""

    index: int
    score: float
    truncated: bool
    read: list[Span] | None = None


class TryReply(BaseModel):
    """Results, best first, and what they cost."""

    model: str
    scale: str
    tokens: int
    query_truncated: bool
    results: list[TryResult]


def add_status(app: FastAPI, service: Service, metrics: Metrics) -> None:
    """Let an app say how it is doing.

    Args:
        app: The app.
        service: What it serves.
        metrics: What the service counts with.
    """
    metrics.watch(service.pool.loaded, lambda: service.door.inside)
    report = StatusReport(service, metrics)
    page, policy = _page()

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def status_page() -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": policy, "Cache-Control": "no-cache"})

    told = APIRouter(
        tags=["operations"], responses=problems(ErrorReply, 401), dependencies=[Security(bearer)]
    )

    @told.get("/metrics", response_class=PlainTextResponse)
    async def prometheus(request: Request) -> Response:
        """Tell Prometheus, in its text format or, if accepted, OpenMetrics."""
        body, content_type = metrics.render(request.headers.get("accept", ""))
        return Response(body, headers={"Content-Type": content_type})

    @told.get("/stats")
    async def stats() -> dict[str, Any]:
        """Return what the status page shows: models, queue, totals, the last minutes second by second."""
        return report.now()

    box = APIRouter(route_class=JsonRoute, include_in_schema=False, tags=["try"])

    @box.post("/stats/try")
    async def try_it(body: TryBody, request: Request) -> TryReply:
        return await while_wanted(request, _try(service, body, request.state.deadline))

    app.include_router(told)
    app.include_router(box)


async def _try(service: Service, body: TryBody, deadline: float) -> TryReply:
    asked = RerankRequest(query=body.query, documents=body.documents, model=body.model)
    reply = await service.rank(asked, deadline=deadline)
    reranker = await service.pool.get(reply.model)
    cut = [result for result in reply.results if result.truncated]
    read: dict[int, list[Span]] = {}
    if cut and isinstance(reranker.scorer, WindowScorer):
        pairs = await asyncio.to_thread(reranker.preview, body.query, [result.text for result in cut])
        for result, pair in zip(cut, pairs, strict=True):
            read[result.index] = [(passage.start, passage.end) for passage in pair.passages]
    return TryReply(
        model=reply.model,
        scale=reply.scale,
        tokens=reply.stats.tokens,
        query_truncated=reply.stats.query_truncated,
        results=[
            TryResult(index=r.index, score=r.score, truncated=r.truncated, read=read.get(r.index))
            for r in reply.results
        ],
    )


def _page() -> tuple[str, str]:
    """Return the page, and a policy under which nothing but its own script and style runs."""
    page = files(__package__).joinpath("page.html").read_text("utf-8")

    def own(tag: str) -> str:
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL)
        return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"

    return page, (
        f"default-src 'none'; script-src {own('script')}; style-src {own('style')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
