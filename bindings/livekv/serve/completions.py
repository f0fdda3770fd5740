"""/v1/completions: prompts, as text or tokens, that are continued."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse

from livekv.model import Model
from livekv.serve.answers import Choice, Service, sse, streamed, token_text, unless_gone, usage_of, whole
from livekv.serve.bodies import body_as
from livekv.serve.errors import ApiError
from livekv.serve.fields import CompletionBody
from livekv.serve.request import Piece, TokenChance
from livekv.serve.request import Request as Asked

DEFAULT_MAX_TOKENS = 16
"""As the API has it."""
MOST_PROMPTS = 64
Body = Annotated[CompletionBody, Depends(body_as(CompletionBody))]


def prompts_of(service: Service, prompt: str | Sequence[Any]) -> list[list[int]]:
    """Each prompt's tokens; texts as livekv-cli -p reads them. What cannot fit is refused before it is read."""
    several = not isinstance(prompt, str) and not all(isinstance(part, int) for part in prompt)
    parts: Sequence[Any] = prompt if several else [prompt]
    if len(parts) > MOST_PROMPTS:
        raise ApiError(400, f"there are {len(parts)} prompts; 1 to {MOST_PROMPTS} are possible", "prompt")
    for part in parts:
        if isinstance(part, str):
            service.check_length(len(part))
        else:
            service.check_tokens(len(part))
    return [service.model.tokenize_prompt(part) if isinstance(part, str) else list(part) for part in parts]


def logprobs_of(model: Model, chances: Sequence[TokenChance], offset: int) -> dict[str, Any]:
    """offset: of the first token's text in the answer. Control tokens are named, and have no text there."""
    tokens = [token_text(model, chance.token) for chance in chances]
    offsets = [offset]
    for text, raw in tokens:
        offsets.append(offsets[-1] + (len(text) if raw else 0))
    return {
        "tokens": [text for text, _ in tokens],
        "token_logprobs": [chance.logprob for chance in chances],
        "top_logprobs": [
            {token_text(model, token)[0]: logprob for token, logprob in chance.best} for chance in chances
        ],
        "text_offset": offsets[:-1],
    }


def completions(service: Service) -> APIRouter:
    router = APIRouter()
    model = service.model

    def head() -> dict[str, Any]:
        return {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": service.name,
        }

    def choice(
        asked: Asked, index: int, text: str, chances: Sequence[TokenChance], reason: str | None, offset: int = 0
    ) -> dict[str, Any]:
        logprobs = None if asked.n_chances is None else logprobs_of(model, chances, offset)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def echoed(asked: Asked, index: int, one: Choice) -> dict[str, Any]:
        """With the prompt in front; nothing is known of its first token."""
        whole_text = model.detokenize(asked.prompt) + one.text
        if asked.n_chances is None:
            return choice(asked, index, whole_text, (), one.reason)
        text, raw = token_text(model, asked.prompt[0])
        rest = logprobs_of(model, [*asked.prompt_chances, *one.chances], len(text) if raw else 0)
        first = {"tokens": text, "token_logprobs": None, "top_logprobs": None, "text_offset": 0}
        logprobs = {name: [value, *rest[name]] for name, value in first.items()}
        return choice(asked, index, whole_text, (), one.reason) | {"logprobs": logprobs}

    @router.post("/v1/completions", response_model=None)
    async def complete(body: Body, http: Request) -> Response | dict[str, Any]:
        service.check_name(body.model)
        prompts = await service.off_loop(http, lambda: prompts_of(service, body.prompt))
        max_tokens = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
        asked = [service.request_of(body, prompt, max_tokens, body.logprobs) for prompt in prompts]
        if body.echo:
            if body.logprobs is not None and service.worker.scheduler.kv.policy == "fastkv":
                raise ApiError(400, "the cache fastkv leaves a prompt's tokens without probabilities", "echo")
            for one in asked:
                one.scores_prompt = one.n_chances is not None
        if body.stream:
            if body.echo:
                raise ApiError(400, "a stream has no echo", "echo")
            if len(asked) > 1:
                raise ApiError(400, "a stream is of one prompt", "prompt")
            return await stream(http, body, asked[0])
        answers = await unless_gone(http, all_of(asked))
        n = body.n or 1
        choices = [
            echoed(asked[i], i * n + j, one)
            if body.echo
            else choice(asked[i], i * n + j, one.text, one.chances, one.reason)
            for i, answer in enumerate(answers)
            for j, one in enumerate(answer)
        ]
        usages = [usage_of(one) for one in asked]
        usage = {key: sum(one[key] for one in usages) for key in ("prompt_tokens", "completion_tokens", "total_tokens")}
        usage["prompt_tokens_details"] = {"cached_tokens": sum(one.n_cached for one in asked)}
        return {**head(), "choices": choices, "usage": usage}

    async def all_of(asked: Sequence[Asked]) -> list[list[Choice]]:
        tasks = [asyncio.ensure_future(whole(service, one)) for one in asked]
        try:
            return list(await asyncio.gather(*tasks))
        finally:  # where one fails, nobody waits for the others
            for task in tasks:
                task.cancel()

    async def stream(http: Request, body: CompletionBody, asked: Asked) -> StreamingResponse:
        first = head()

        async def told(pieces: AsyncIterator[Piece]) -> AsyncIterator[str]:
            offsets = [0] * asked.n
            async for piece in pieces:
                at = offsets[piece.choice]
                part = choice(asked, piece.choice, piece.text, piece.chances, piece.reason, at)
                offsets[piece.choice] += len(piece.text)
                yield sse({**first, "choices": [part]})
            if body.wants_usage():
                yield sse({**first, "choices": [], "usage": usage_of(asked)})
            yield sse("[DONE]")

        return await streamed(http, service, asked, told)

    return router
