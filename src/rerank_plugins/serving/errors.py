"""`RequestError`: a request that gets no scores, and the replies that say so in the client's own format."""

from typing import Any

from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from rerank_plugins.errors import (
    InvalidInputError,
    ModelError,
    QueueFullError,
    RerankError,
    ScorerClosedError,
)

__all__ = ["ErrorReply", "RequestError", "TeiErrorReply", "error_reply", "explain", "problems"]

# Reason -> status, in TEI's words; where these have a status of their own, that too.
_TEI = {
    "invalid": ("Validation", 422),
    "too_large": ("Validation", 413),
    "too_long": ("Tokenizer", 422),
    "empty": ("Empty", 400),
    "overloaded": ("Overloaded", 429),
    "failed": ("Backend", 424),
    "draining": ("Unhealthy", 503),
}


class ErrorDetail(BaseModel):
    """What vLLM's clients read of an error."""

    message: str
    type: str = Field(description="Why, in one word: invalid, too_large, overloaded, ...")
    param: str | None = None
    code: int = Field(description="The HTTP status.")


class ErrorReply(BaseModel):
    """An error as Cohere's (`message`, `id`), Jina's (`detail`) and vLLM's (`error`) clients read it."""

    message: str
    id: str = Field(description="The request's id.")
    detail: str
    error: ErrorDetail


class TeiErrorReply(BaseModel):
    """An error as TEI's clients read it."""

    error: str
    error_type: str


class RequestError(HTTPException):
    """A request that gets no scores.

    Args:
        status: HTTP status.
        reason: Why, in one word; metrics count by it.
        message: Why, for people; names the value and the fix.
        retry_after: Seconds after which to try again.
    """

    def __init__(self, status: int, reason: str, message: str, *, retry_after: int | None = None) -> None:
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        super().__init__(status, message, headers)
        self.reason = reason


def explain(error: RerankError) -> RequestError:
    """Return what a client is told of an error of ours."""
    if isinstance(error, InvalidInputError):
        return RequestError(400, "invalid", str(error))
    if isinstance(error, QueueFullError):
        return RequestError(429, "overloaded", str(error), retry_after=1)
    if isinstance(error, ScorerClosedError):
        return RequestError(503, "draining", str(error), retry_after=1)
    if isinstance(error, ModelError):
        return RequestError(503, "model_unavailable", "the model could not be loaded; see the server's log")
    return RequestError(500, "failed", "scoring failed; see the server's log")


def error_reply(error: HTTPException, *, dialect: str, request_id: str) -> JSONResponse:
    """Return an error in the format that a dialect's clients read."""
    status, message = error.status_code, str(error.detail)
    reason = getattr(error, "reason", "http")
    body: dict[str, Any]
    if dialect == "tei":
        kind, status = _TEI.get(reason, ("Validation", status))
        body = {"error": message, "error_type": kind}
    else:
        detail = ErrorDetail(message=message, type=reason, code=status)
        body = ErrorReply(message=message, id=request_id, detail=message, error=detail).model_dump()
    return JSONResponse(body, status, dict(error.headers or {}))


def problems(model: Any, *statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe error replies for OpenAPI."""
    known = {
        400: "The body is no valid request; the message names the field.",
        401: "The bearer key is missing or unknown.",
        404: "The model is not served here.",
        413: "More bytes, documents or tokens than one request may have.",
        415: "The body must be application/json.",
        422: "The body is no valid request; the message names the field.",
        424: "Scoring failed.",
        429: "Too much waits already; Retry-After says when to come back.",
        500: "Scoring failed.",
        503: "The server stops, or the model cannot be loaded.",
        504: "The deadline passed; the work was dropped.",
    }
    return {status: {"model": model, "description": known[status]} for status in statuses}
