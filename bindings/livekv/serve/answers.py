"""Requests as handlers see them: answers whole or piece by piece, ended when the client goes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import Request as HttpRequest
from fastapi.responses import StreamingResponse

from livekv._livekv import Error
from livekv.model import Model
from livekv.sampling import drawn_seed
from livekv.serve.errors import ApiError, ClientGone, body_of
from livekv.serve.fields import Generating
from livekv.serve.request import Constraint, Piece, Refused, Request, TokenChance
from livekv.serve.worker import Worker, events

T = TypeVar("T")
FETCH_S = 10.0
"""A prompt begins without what has not come by then."""
LONG = 1 << 16
"""Bytes of a body whose text takes a tokenizer long: it takes them one at a time, so that short ones need not wait."""


@dataclass
class Service:
    """What handlers share."""

    worker: Worker
    name: str
    """Of the model, in requests and answers."""
    started: int = field(default_factory=lambda: int(time.time()))
    on_piece: Callable[[float, bool], None] = lambda since, first: None
    """Told of each piece: the seconds since the one before, or since the request came, and whether it is the first."""

    def __post_init__(self) -> None:
        longest = max(len(self.model.token_piece(token)) for token in range(self.model.n_vocab))
        # None is asyncio's own, whose threads are waited for at the end.
        self._fetchers = ThreadPoolExecutor(4, "livekv-fetch")
        self._texts = ThreadPoolExecutor(4, "livekv-text")
        self._long_texts = ThreadPoolExecutor(1, "livekv-long-text")
        self._most_text = 4 * longest * self.worker.scheduler.n_ctx  # 4: a tokenizer may compose characters

    @property
    def model(self) -> Model:
        return self.worker.scheduler.model

    def check_length(self, n_characters: int) -> None:
        """Refuses text that no tokenizer could make fit, before it spends seconds on it."""
        if n_characters > self._most_text:
            raise ApiError(400, f"{n_characters} characters are too many: the context of "
                                f"{self.worker.scheduler.n_ctx} tokens (-c) leaves no room")  # fmt: skip

    def check_tokens(self, n_tokens: int) -> None:
        """Refuses a prompt of token numbers that cannot fit."""
        n_ctx = self.worker.scheduler.n_ctx
        if n_tokens >= n_ctx:
            raise ApiError(400, f"the prompt has {n_tokens} tokens; the context of {n_ctx} (-c) leaves no room")

    def check_conversation(self, n_messages: int, texts: Iterable[str]) -> None:
        """Refuses a conversation that cannot fit, whatever its template: a message has a token at least. texts: all
        that a template may write."""
        n_ctx = self.worker.scheduler.n_ctx
        if n_messages >= n_ctx:
            raise ApiError(400, f"there are {n_messages} messages; the context of {n_ctx} tokens (-c) leaves no room")
        self.check_length(sum(map(len, texts)))

    def check_name(self, name: str | None) -> None:
        if name is not None and name != self.name:
            raise ApiError(
                404, f"there is no model {name[:100]!r} here, only {self.name!r}", "model", "model_not_found"
            )

    async def off_loop(self, http: HttpRequest, work: Callable[[], T]) -> T:
        """What a body's text takes, in another thread. Raises ApiError 400 for what the library refuses; ClientGone,
        for whom nothing is begun."""
        pool = self._texts if http.state.n_bytes <= LONG else self._long_texts
        try:
            return await unless_gone(http, asyncio.get_running_loop().run_in_executor(pool, work))
        except Error as problem:
            raise ApiError(400, str(problem)) from None

    def request_of(
        self,
        body: Generating,
        prompt: Sequence[int],
        max_tokens: int | None,
        n_chances: int | None = None,
        constraint: Callable[[], Constraint] | None = None,
    ) -> Request:
        return Request(
            prompt=prompt,
            max_tokens=max_tokens,
            n=body.n or 1,
            seed=drawn_seed(None) if body.seed is None else body.seed % 2**64,
            sampling=body.sampling(),
            stop=body.stops(),
            ignore_eos=bool(body.ignore_eos),
            n_chances=n_chances,
            constraint=constraint,
        )

    async def _fetch(self, request: Request) -> None:
        """What the store's remote has of the prompt, before the scheduler sees it: there nobody waits for a network."""
        scheduler = self.worker.scheduler
        if not self.model.store or not self.model.store.has_remote or request.scores_prompt:
            return
        scheduler.check(request)
        fetching = asyncio.get_running_loop().run_in_executor(
            self._fetchers, scheduler.engine.fetch, request.ids, scheduler.n_ctx, scheduler.kv
        )
        await asyncio.wait({fetching}, timeout=FETCH_S)

    async def pieces(self, request: Request) -> AsyncIterator[Piece]:
        await self._fetch(request)
        since, first = request.arrived, True
        async for piece in events(self.worker, request):
            now = time.monotonic()
            self.on_piece(now - since, first)
            since, first = now, False
            yield piece


@dataclass
class Choice:
    """A whole answer."""

    text: str = ""
    chances: list[TokenChance] = field(default_factory=list)
    reason: str = ""
    stop: str | None = None

    def add(self, piece: Piece) -> None:
        self.text += piece.text
        self.chances += piece.chances
        self.reason = piece.reason or self.reason
        self.stop = piece.stop


async def whole(service: Service, request: Request) -> list[Choice]:
    choices = [Choice() for _ in range(request.n)]
    async for piece in service.pieces(request):
        choices[piece.choice].add(piece)
    return choices


async def unless_gone(http: HttpRequest, work: Awaitable[T]) -> T:
    """The result, or ClientGone when the client has hung up before: then the work is cancelled."""

    async def hung_up() -> None:
        while (await http.receive())["type"] != "http.disconnect":
            pass

    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(hung_up())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        gone.cancel()
        task.cancel()
        await asyncio.gather(gone, task, return_exceptions=True)


def sse(data: Any, event: str | None = None) -> str:
    """A server-sent event."""
    head = f"event: {event}\n" if event else ""
    return f"{head}data: {json.dumps(data, ensure_ascii=False) if not isinstance(data, str) else data}\n\n"


async def streamed(
    http: HttpRequest, service: Service, request: Request, told: Callable[[AsyncIterator[Piece]], AsyncIterator[str]]
) -> StreamingResponse:
    """Pieces as told writes them. What fails before the first is an error's status, later an error's event."""
    source = service.pieces(request)
    first = await unless_gone(http, anext(source))

    async def all_pieces() -> AsyncIterator[Piece]:
        yield first
        async for piece in source:
            yield piece

    async def guarded() -> AsyncIterator[str]:
        try:
            async for event in told(all_pieces()):
                yield event
                await asyncio.sleep(0)  # many may wait: whether the client is still there shows between them
        except Refused as problem:
            path = http.url.path
            yield sse(body_of(problem, path), "error" if path.startswith("/v1/messages") else None)

    return StreamingResponse(guarded(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


def usage_of(request: Request) -> dict[str, Any]:
    """In OpenAI's form."""
    n_prompt = len(request.prompt)
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": request.n_generated,
        "total_tokens": n_prompt + request.n_generated,
        "prompt_tokens_details": {"cached_tokens": request.n_cached},
    }


def token_text(model: Model, token: int) -> tuple[str, list[int]]:
    """A token as text and as bytes; of a control token its name and no bytes."""
    piece = model.token_piece(token)
    return piece.decode("utf-8", "replace") if piece else model.detokenize([token], skip_special=False), list(piece)
