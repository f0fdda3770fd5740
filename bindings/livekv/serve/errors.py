"""What goes wrong, in the form of the API that was asked."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from livekv.serve.request import Refused

_OPENAI = {401: "authentication_error", 429: "rate_limit_error", 500: "server_error"}
_ANTHROPIC = {
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class ApiError(Refused):
    """A request that is answered with an error. param: the field it is about."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(status, message)
        self.param = param
        self.code = code


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


def body_of(problem: Refused, path: str) -> dict[str, Any]:
    """The error as JSON."""
    message, status = str(problem), problem.status
    if path.startswith("/v1/messages"):
        kind = _ANTHROPIC.get(status, "api_error" if status >= 500 else "invalid_request_error")
        return {"type": "error", "error": {"type": kind, "message": message}}
    kind = _OPENAI.get(status, "server_error" if status >= 500 else "invalid_request_error")
    param, code = getattr(problem, "param", None), getattr(problem, "code", None)
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def response_of(problem: Refused, path: str) -> JSONResponse:
    headers = {}
    if problem.retry_after_s is not None:
        headers["Retry-After"] = str(problem.retry_after_s)
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body_of(problem, path), problem.status, headers)


def of_validation(problem: ValidationError) -> ApiError:
    """The first thing wrong with a body. Types of body are such that there are never many (fields.py)."""
    first = problem.errors(include_url=False, include_input=False)[0]
    parts = [str(part) for part in first["loc"]]
    if first["type"] == "unknown_field":
        parts.append(first["ctx"]["name"])
    place = ".".join(parts)[:200]
    return ApiError(400, f"{place}{': ' if place else ''}{str(first['msg'])[:300]}", place or None)


async def on_refused(request: Request, problem: Exception) -> JSONResponse:
    assert isinstance(problem, Refused)
    return response_of(problem, request.url.path)


async def on_http(request: Request, problem: Exception) -> JSONResponse:
    assert isinstance(problem, HTTPException)
    answer = response_of(ApiError(problem.status_code, str(problem.detail)), request.url.path)
    for name, value in (problem.headers or {}).items():
        answer.headers[name] = value
    return answer


async def on_bug(request: Request, problem: Exception) -> JSONResponse:
    return response_of(ApiError(500, "the server failed; its log says more"), request.url.path)
