"""/v1/chat/completions: conversations, in the words of the model's own template."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse

from livekv.model import Model
from livekv.serve.answers import Service, sse, streamed, token_text, unless_gone, usage_of, whole
from livekv.serve.bodies import body_as
from livekv.serve.errors import ApiError
from livekv.serve.fields import ChatBody
from livekv.serve.prompts import Conversation, constraint_of, conversation_of
from livekv.serve.request import Piece, TokenChance
from livekv.serve.request import Request as Asked

Body = Annotated[ChatBody, Depends(body_as(ChatBody))]


def logprobs_of(model: Model, chances: Sequence[TokenChance]) -> dict[str, Any]:
    def entry(token: int, logprob: float) -> dict[str, Any]:
        text, raw = token_text(model, token)
        return {"token": text, "logprob": logprob, "bytes": raw or None}

    return {
        "content": [
            {**entry(one.token, one.logprob), "top_logprobs": [entry(token, logprob) for token, logprob in one.best]}
            for one in chances
        ],
        "refusal": None,
    }


def chat(service: Service) -> APIRouter:
    router = APIRouter()
    model = service.model

    def head(kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": service.name,
        }

    def logprobs(asked: Asked, chances: Sequence[TokenChance]) -> dict[str, Any] | None:
        return None if asked.n_chances is None else logprobs_of(model, chances)

    @router.post("/v1/chat/completions", response_model=None)
    async def answer(body: Body, http: Request) -> Response | dict[str, Any]:
        service.check_name(body.model)
        if body.top_logprobs is not None and not body.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs", "top_logprobs")
        talk = await service.off_loop(http, lambda: conversation_of(service, body))
        constraint = await unless_gone(http, constraint_of(service, talk))
        max_tokens = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
        n_chances = (body.top_logprobs or 0) if body.logprobs else None
        asked = service.request_of(body, talk.prompt, max_tokens, n_chances, constraint)
        if body.stream:
            return await stream(http, body, talk, asked)
        choices = []
        for index, one in enumerate(await unless_gone(http, whole(service, asked))):
            reader = talk.reader()
            text = reader.push(one.text) + reader.finish()
            message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
            if reader.calls:
                message |= {"content": text.strip() or None, "tool_calls": reader.calls}
            choices.append(
                {
                    "index": index,
                    "message": message,
                    "logprobs": logprobs(asked, one.chances),
                    "finish_reason": "tool_calls" if reader.calls and one.reason == "stop" else one.reason,
                }
            )
        return {**head("chat.completion"), "choices": choices, "usage": usage_of(asked)}

    async def stream(http: Request, body: ChatBody, talk: Conversation, asked: Asked) -> StreamingResponse:
        first = head("chat.completion.chunk")

        def chunk(index: int, delta: dict[str, Any], reason: str | None = None, chances: Any = None) -> str:
            choice = {"index": index, "delta": delta, "logprobs": chances, "finish_reason": reason}
            return sse({**first, "choices": [choice]})

        async def told(pieces: AsyncIterator[Piece]) -> AsyncIterator[str]:
            readers = [talk.reader() for _ in range(asked.n)]
            for index in range(asked.n):
                yield chunk(index, {"role": "assistant", "content": ""})
            async for piece in pieces:
                reader = readers[piece.choice]
                n_calls = len(reader.calls)
                text = reader.push(piece.text) + (reader.finish() if piece.reason else "")
                if text or piece.chances:
                    yield chunk(piece.choice, {"content": text}, chances=logprobs(asked, piece.chances))
                for at, call in enumerate(reader.calls[n_calls:], n_calls):
                    yield chunk(piece.choice, {"tool_calls": [{"index": at, **call}]})
                if piece.reason:
                    called = reader.calls and piece.reason == "stop"
                    yield chunk(piece.choice, {}, "tool_calls" if called else piece.reason)
            if body.wants_usage():
                yield sse({**first, "choices": [], "usage": usage_of(asked)})
            yield sse("[DONE]")

        return await streamed(http, service, asked, told)

    return router
