"""How a server ends: at Ctrl-C and SIGTERM alike, everybody who waits is told so, then what is open is closed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import socket
from types import FrameType

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from livekv.serve.answers import sse
from livekv.serve.errors import ApiError, body_of, response_of
from livekv.serve.worker import ENDS, Worker

AT_ONCE = 16
"""Connections that are taken before connections.py counts them; there are file descriptors for a few times as many."""
BACKLOG = 512
"""Those that may wait to be taken, of which asyncio would take all at once."""
GRACE_S = 2
"""For clients to take what they are told."""


class Server(uvicorn.Server):
    """Returns from run when it was told to end; uvicorn's own raises the signal again, which leaves everything open.
    temporary: a folder that is removed at the end, also when a second signal ends it at once."""

    def __init__(self, config: uvicorn.Config, worker: Worker, temporary: str | None = None) -> None:
        super().__init__(config)
        self._worker = worker
        self._temporary = temporary

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            if self._temporary:
                shutil.rmtree(self._temporary, ignore_errors=True)
            os._exit(128 + sig)  # a step may be under way for long, and threads would be waited for
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for one in sockets or ():
            one.listen(BACKLOG)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # it tells of each request that is cut off
        self._worker.tell_the_end()
        await super().shutdown(sockets)


class ToldTheEnd:
    """Answers requests that are cut off, as they wait for something that does not end in time."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except asyncio.CancelledError:
            if scope["type"] != "http":
                raise
            problem = ApiError(503, ENDS)
            with contextlib.suppress(asyncio.CancelledError):  # and it does not take that either
                if not begun:
                    await response_of(problem, scope["path"])(scope, receive, send)
                else:
                    event = sse(body_of(problem, scope["path"])).encode()
                    await send({"type": "http.response.body", "body": event, "more_body": False})
