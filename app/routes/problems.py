"""Errors as clients see them: problem+json (RFC 9457) on native routes, OpenAI's shape on OpenAI's routes."""

import logging
import math
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from app.errors import ComputeFailed, GenserveError, KillsWorker, Overloaded, Unavailable
from app.schemas.problems import OpenAIError, OpenAIErrorDetail, Problem

NATIVE_ROUTES = (
    "/v1/images/generate",
    "/v1/images/encode",
    "/v1/images/reconstruct",
    "/v1/images/inpaint",
    "/v1/text/complete",
    "/v1/audio/generate",
)

TEMPORARY = (Overloaded.status, Unavailable.status)
UNDECIDED = (408, 409)  # of the 4xx, what clients decide for themselves
PERMANENT = (ComputeFailed.code, KillsWorker.code)  # of the 500s

log = logging.getLogger("genserve.http")


def responses(*statuses: int, openai: bool = False) -> dict[int | str, dict[str, Any]]:
    """The error part of a route's OpenAPI entry."""
    if openai:
        return {status: {"model": OpenAIError, "description": "in OpenAI's shape"} for status in statuses}
    schema = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"content": schema, "description": "RFC 9457 problem"} for status in statuses}


def install(app: FastAPI) -> None:
    """Have every error answered in the shape of the route that it happened on."""
    app.add_exception_handler(GenserveError, _on_own_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_bug)


def own_error(request: Request, error: GenserveError) -> Response:
    """The answer to one of our own errors."""
    return answer(request, error.status, error.code, error.title, error.detail, error.field, _retry_headers(error))


def bug(request: Request) -> Response:
    """The answer to what nobody foresaw; the traceback is in the log, not here."""
    detail = "an unexpected error; see the server's log"
    return answer(request, 500, GenserveError.code, GenserveError.title, detail, None, {})


async def _on_own_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, GenserveError)
    return own_error(request, error)


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Starlette's own: no such route, wrong method."""
    assert isinstance(error, HTTPException)
    code = {404: "route_not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
    detail = f"{request.method} {request.scope['path']}: {error.detail}"
    return answer(request, error.status_code, code, error.detail, detail, None, dict(error.headers or {}))


async def _on_bug(request: Request, _: Exception) -> Response:
    return bug(request)


def _retry_headers(error: GenserveError) -> dict[str, str]:
    if error.retry_after is None:
        return {}
    return {
        "Retry-After": str(max(1, math.ceil(error.retry_after))),
        "retry-after-ms": str(max(1, math.ceil(error.retry_after * 1000))),
    }


def _retrying(status: int, code: str) -> dict[str, str]:
    """What OpenAI's client obeys: whether it pays to send the same request again."""
    if status in TEMPORARY:
        return {"x-should-retry": "true"}
    if code in PERMANENT or (status < 500 and status not in UNDECIDED):
        return {"x-should-retry": "false"}
    return {}


def answer(
    request: Request, status: int, code: str, title: str, detail: str, field: str | None, headers: dict[str, str]
) -> Response:
    """An error in the shape that fits the request's route; the log and the metrics learn its code."""
    request.scope["code"] = code
    path = request.scope["path"]  # `request.url` would decode the query too, which may be anything
    if path.startswith("/v1/") and path not in NATIVE_ROUTES:
        return JSONResponse(
            _openai(status, code, detail, field).model_dump(), status, headers | _retrying(status, code)
        )
    content = _problem(request, status, code, title, detail, field).model_dump(exclude_none=True)
    return JSONResponse(content, status, headers, media_type="application/problem+json")


def problem(request: Request, error: GenserveError) -> Problem:
    """An error as RFC 9457 has it, for an event of a stream."""
    return _problem(request, error.status, error.code, error.title, error.detail, error.field)


def openai_event(error: GenserveError) -> bytes:
    """An error as OpenAI has it, as an event of a stream."""
    return f"data: {_openai(error.status, error.code, error.detail, error.field).model_dump_json()}\n\n".encode()


def _problem(request: Request, status: int, code: str, title: str, detail: str, field: str | None) -> Problem:
    return Problem(
        type=f"urn:genserve:error:{code}",
        title=title,
        status=status,
        code=code,
        detail=detail,
        field=field,
        request_id=request.scope.get("request_id"),
    )


def _openai(status: int, code: str, detail: str, field: str | None) -> OpenAIError:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    kind = "rate_limit_error" if status == Overloaded.status else kind
    return OpenAIError(error=OpenAIErrorDetail(message=detail, type=kind, param=field, code=code))
