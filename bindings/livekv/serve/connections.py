"""What connections may do before there is a request, and while their answer is sent: their number is limited, and so is
the time that a head takes, and the time in which nothing is taken of an answer. uvicorn waits for ever, and an idle
connection costs a file descriptor, without which no other one is taken."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections import Counter
from typing import Any, cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from livekv.serve.errors import ApiError, body_of

SPARE = 64
"""File descriptors for everything else: the store, the model, and connections that are being refused."""
MOST = 4096
LOG_S = 60.0


def most_connections() -> int:
    """As many as there are file descriptors for, of which as many as may be are asked for."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return MOST
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST + SPARE if hard == resource.RLIM_INFINITY else min(hard, MOST + SPARE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return MOST if soft == resource.RLIM_INFINITY else max(16, min(MOST, soft - SPARE))


class Connections:
    """Those of a server, which know each other by the client's address. Where there are too many, the one that has been
    without a whole request for the longest goes; where all have one, the newest is answered 503.

    head_s: from the first moment, or the last answer, to the end of a request's head. stalled_s: in which a client must
    take some of an answer that is waiting for it.
    """

    def __init__(self, most: int, head_s: float, stalled_s: float) -> None:
        self._most = most
        self._head_s = head_s
        self._stalled_s = stalled_s
        self._all: dict[Any, asyncio.Transport] = {}
        self._asked: Counter[Any] = Counter()  # requests under way
        self._waiting: dict[Any, asyncio.TimerHandle] = {}  # without a whole request, the oldest first

    def open(self, transport: asyncio.Transport) -> bool:
        """Whether it is taken."""
        if len(self._all) >= self._most:
            if not self._waiting:
                return False
            oldest = next(iter(self._waiting))
            transport_of = self._all[oldest]
            self.close(oldest)
            transport_of.abort()
        name = name_of(transport)
        self._all[name] = transport
        self._wait(name)
        return True

    def close(self, name: Any) -> None:
        self._all.pop(name, None)
        self._has_request(name)

    def limited(self, app: ASGIApp) -> ASGIApp:
        """app, whose requests are noted."""

        async def noted(scope: Scope, receive: Receive, send: Send) -> None:
            name = scope.get("client")
            if scope["type"] != "http" or name not in self._all:
                await app(scope, receive, send)
                return
            if timer := self._waiting.get(name):
                timer.cancel()  # the head is there; guard.py has a limit for the body
            self._asked[name] += 1

            async def received() -> Message:
                message = await receive()
                if message["type"] == "http.request" and not message.get("more_body"):
                    self._has_request(name)
                return message

            try:
                await app(scope, received, send)
            finally:
                self._asked[name] -= 1
                if not self._asked[name]:  # the next one may have begun
                    del self._asked[name]
                    self._has_request(name)
                    if name in self._all:
                        self._wait(name)

        return noted

    def _wait(self, name: Any) -> None:
        self._waiting[name] = asyncio.get_running_loop().call_later(self._head_s, self._all[name].abort)

    def _has_request(self, name: Any) -> None:
        if timer := self._waiting.pop(name, None):
            timer.cancel()

    def protocol(self) -> type[asyncio.Protocol]:
        """uvicorn's, with this limit."""
        from uvicorn.protocols.http.auto import AutoHTTPProtocol

        connections = self

        class Limited(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
            taken = False
            stalled: asyncio.TimerHandle | None = None

            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                one = cast(asyncio.Transport, transport)
                self.taken = connections.open(one)
                if self.taken:
                    self.name = name_of(one)
                    super().connection_made(transport)
                else:
                    one.write(_full())
                    one.close()

            def data_received(self, data: bytes) -> None:
                if self.taken:
                    super().data_received(data)

            def pause_writing(self) -> None:
                super().pause_writing()
                self.stalled = asyncio.get_running_loop().call_later(connections._stalled_s, self.transport.abort)

            def resume_writing(self) -> None:
                self.flows()
                super().resume_writing()

            def flows(self) -> None:
                if self.stalled:
                    self.stalled.cancel()
                    self.stalled = None

            def connection_lost(self, problem: Exception | None) -> None:
                self.flows()
                if self.taken:
                    connections.close(self.name)
                    super().connection_lost(problem)

        return Limited


def name_of(transport: asyncio.Transport) -> Any:
    """As uvicorn names a client in scopes."""
    from uvicorn.protocols.utils import get_remote_addr

    return get_remote_addr(transport)


def _full() -> bytes:
    body = json.dumps(body_of(ApiError(503, "there are too many connections"), "/")).encode()
    head = (
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\nConnection: close\r\n"
    )
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Seldom(logging.Filter):
    """Of a warning, one a minute: clients can make as many as they like."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if record.levelno > logging.WARNING or now - self._said.get(record.msg, -LOG_S) >= LOG_S:
            self._said = {record.msg: now, **{said: at for said, at in self._said.items() if now - at < LOG_S}}
            return True
        return False
