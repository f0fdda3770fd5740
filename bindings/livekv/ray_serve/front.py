"""What clients reach: it checks the API key, reads the body, and gives the request to a replica."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message

from livekv.ray_serve.asked import Asked
from livekv.ray_serve.placement import blocks_of, text_of
from livekv.serve import errors
from livekv.serve.answers import unless_gone
from livekv.serve.errors import ApiError, ClientGone
from livekv.serve.guard import Guard
from livekv.serve.request import Refused

OF_ONE = ("/", "/status", "/metrics")
"""Paths of one server, which here would be of any."""
ATTEMPTS = 3
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

Ask = Callable[[Asked], AsyncIterator[Message]]


class ReplicaGone(Exception):
    """It ended while it worked on a request."""


def make_front(ask: Ask, api_key: str | None, max_body: int) -> ASGIApp:
    """ask: gives a request to a replica; may raise ReplicaGone. A request whose answer has not begun goes to the next
    one then."""

    async def forward(http: Request) -> Response:
        if http.url.path in OF_ONE:
            raise ApiError(404, f"{http.url.path} is of one server; here are several")
        body = await http.body()
        blocks = await asyncio.to_thread(_blocks, body)
        asked = Asked(http.method, http.url.path, http.url.query.encode(), http.headers.raw, body, blocks)
        messages, start = await _begun(http, ask, asked)
        answer = StreamingResponse(_bodies(messages), start["status"])
        answer.raw_headers = list(start["headers"])
        return answer

    handlers = {
        Refused: errors.on_refused,
        HTTPException: errors.on_http,
        ClientGone: _nobody,
        Exception: errors.on_bug,
    }
    guard = Middleware(Guard, api_key=api_key, max_body=max_body, any_host=api_key is not None)
    route = Route("/{path:path}", forward, methods=METHODS)
    return Starlette(routes=[route], exception_handlers=handlers, middleware=[guard])


def _blocks(body: bytes) -> list[bytes]:
    try:
        return blocks_of(text_of(json.loads(body)))
    except (ValueError, RecursionError):  # the replica says what is wrong with it
        return []


async def _begun(http: Request, ask: Ask, asked: Asked) -> tuple[AsyncIterator[Message], Message]:
    """An answer and its first message."""
    for _ in range(ATTEMPTS):
        messages = ask(asked)
        with contextlib.suppress(ReplicaGone):
            return messages, await unless_gone(http, anext(messages))
    raise ApiError(503, f"{ATTEMPTS} servers ended, one after the other, while they worked on it")


async def _bodies(messages: AsyncIterator[Message]) -> AsyncIterator[bytes]:
    async with contextlib.aclosing(messages):  # type: ignore[type-var]
        async for message in messages:
            yield message.get("body", b"")


async def _nobody(request: Request, problem: Exception) -> Response:
    return Response(status_code=499)
