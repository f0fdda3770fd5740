"""A request of HTTP on its way from the ingress to a replica, and the answer on its way back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message

MOST_AHEAD = 64
"""Messages of an answer that nobody has taken yet; the app waits then."""


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    query: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    blocks: list[bytes] = field(default_factory=list)
    """Of its prompt, as placement.py names them."""


async def answer(app: ASGIApp, asked: Asked) -> AsyncIterator[Message]:
    """What an ASGI app says to a request. When the iteration is left before the end, the client is gone."""
    said: asyncio.Queue[Message | None] = asyncio.Queue(MOST_AHEAD)
    gone = asyncio.Event()
    given = False

    async def receive() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": asked.body, "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def run() -> None:
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "scheme": "http",
            "method": asked.method, "path": asked.path, "raw_path": asked.path.encode(), "root_path": "",
            "query_string": asked.query, "headers": asked.headers, "client": None, "server": None,
        }  # fmt: skip
        try:
            await app(scope, receive, said.put)
        finally:
            await said.put(None)

    task = asyncio.ensure_future(run())
    try:
        while (message := await said.get()) is not None:
            yield message
        await task
    finally:
        gone.set()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
