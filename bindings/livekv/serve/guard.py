"""What every request passes before anything reads it: the API key, and a limit of the body's size."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import re
import time

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from livekv.serve import page
from livekv.serve.errors import ApiError, response_of

OPEN = {"/health", *page.FILES}
"""Paths that need no key."""
BODY_S = 60.0


def is_loopback(host: str) -> bool:
    """Whether an address to listen at is reached from this machine alone."""
    host = host.lower().removesuffix(".")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _name_in(host: bytes) -> str:
    """Of a Host header, without the port."""
    found = re.fullmatch(r"\[?([^\[\]]*?)\]?(:\d*)?", host.decode("latin-1"))
    return found[1] if found else ""


class Guard:
    """Answers 401 without the key (in Authorization: Bearer, or x-api-key), 413 for a body above max_body bytes, 408
    for one that is not there after body_s seconds.

    any_host: whatever the Host header says; without, 403 where it names another machine: a page of the web whose name
    was pointed here.
    """

    def __init__(
        self, app: ASGIApp, api_key: str | None, max_body: int, any_host: bool = False, body_s: float = BODY_S
    ) -> None:
        self.app = app
        self.body_s = body_s
        self.any_host = any_host
        self.key = None if api_key is None else api_key.encode()
        self.max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        problem: ApiError | None = None
        if not self._has_key(headers) and scope["path"] not in OPEN:
            problem = ApiError(401, "there is no valid API key in the request", code="invalid_api_key")
        elif self._length(headers) > self.max_body:
            problem = self._too_large()
        elif not self.any_host and not is_loopback(_name_in(headers.get(b"host", b"localhost"))):
            problem = ApiError(403, "the request is for another host")
        if problem:
            await response_of(problem, scope["path"])(scope, receive, send)
            return
        n_read, more, deadline = 0, True, time.monotonic() + self.body_s

        async def counted() -> Message:
            nonlocal n_read, more
            try:
                message = await asyncio.wait_for(receive(), deadline - time.monotonic() if more else None)
            except TimeoutError:
                raise HTTPException(408, f"the body was not there after {self.body_s:g} seconds") from None
            more = more and message.get("more_body", False)
            n_read += len(message.get("body", b""))
            if n_read > self.max_body:
                raise HTTPException(413, str(self._too_large()))
            return message

        await self.app(scope, counted, send)

    def _has_key(self, headers: dict[bytes, bytes]) -> bool:
        if self.key is None:
            return True
        scheme, _, bearer = headers.get(b"authorization", b"").partition(b" ")
        given = bearer.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        return hmac.compare_digest(given, self.key)

    def _length(self, headers: dict[bytes, bytes]) -> int:
        text = headers.get(b"content-length", b"0")
        return int(text) if text.isdigit() and len(text) < 20 else 0

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the body is larger than {self.max_body} bytes")
