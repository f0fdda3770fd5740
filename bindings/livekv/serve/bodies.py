"""A request's body: read, bounded before anything is made of it, and checked. Nothing here may stop the loop for long:
what a body can cost is known from a count of its bytes, and large ones are read in a thread of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from fastapi import Request as HttpRequest
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect

from livekv.serve.errors import ApiError, ClientGone, of_validation

B = TypeVar("B", bound=BaseModel)

MOST_MARKS = 1 << 18
"""Commas, colons and brackets of a body, outside its strings. Twice as many numbers and empty lists took 40 MB and a
tenth of a second, of which the interpreter is held; checking what they are may take several times that."""
_MARKS = b",:[{"
_ON_LOOP = 1 << 16
"""Bytes of a body that the loop reads by itself."""
_SLICE = 1 << 20
_KINDS = np.zeros(256, np.uint8)
_KINDS[list(_MARKS)] = 1
_KINDS[ord('"')] = 2
# One: readers of large bodies hold the interpreter in turns, not all at a time.
_reader = ThreadPoolExecutor(1, "livekv-body")


def n_marks(text: bytes) -> int:
    """How many _MARKS are outside the strings of JSON. Of what is no JSON: those before its first fault, and others."""
    if b"\\" in text:
        text = text.replace(b"\\\\", b"  ").replace(b'\\"', b"  ")
    n, in_string = 0, False
    for at in range(0, len(text), _SLICE):
        kinds = _KINDS[np.frombuffer(text, np.uint8, min(_SLICE, len(text) - at), at)]
        inside = np.logical_xor.accumulate(kinds == 2) ^ in_string
        n += int(np.count_nonzero((kinds == 1) & ~inside))
        in_string = bool(inside[-1])
    return n


def parsed(text: bytes, what: str) -> Any:
    """JSON. what: it is of, in messages. Raises ApiError 400 for what is none, has half a surrogate pair in it, or more
    than MOST_MARKS."""
    if sum(map(text.count, (bytes([mark]) for mark in _MARKS))) > MOST_MARKS and (n := n_marks(text)) > MOST_MARKS:
        raise ApiError(400, f"{what} has too many values: {n} commas, colons and brackets, of {MOST_MARKS} at most")
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError as problem:
        raise ApiError(400, f"{what} is not valid JSON: {problem}") from None


def checked(kind: type[B], text: bytes) -> B:
    """Raises ApiError 400."""
    try:
        return kind.model_validate(parsed(text, "the body"))
    except ValidationError as problem:
        raise of_validation(problem) from None


def body_as(kind: type[B]) -> Callable[[HttpRequest], Awaitable[B]]:
    """What reads a request's body, for Depends."""

    async def read(http: HttpRequest) -> B:
        media_type = http.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":  # which no page of the web may send here without being asked first
            raise ApiError(400, "the request's Content-Type must be application/json")
        parts = bytearray()
        try:
            async for part in http.stream():
                parts += part
        except ClientDisconnect:
            raise ClientGone from None
        text = bytes(parts)
        del parts
        http.state.n_bytes = len(text)
        if len(text) <= _ON_LOOP:
            return checked(kind, text)
        return await asyncio.get_running_loop().run_in_executor(_reader, checked, kind, text)

    return read
