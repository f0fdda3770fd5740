"""/v1/messages: Anthropic's API."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse

from livekv._livekv import Error
from livekv.sampling import drawn_seed
from livekv.serve.answers import Service, sse, streamed, unless_gone, whole
from livekv.serve.anthropic_fields import CountBody, MessagesBody, TextBlock, ToolResult, ToolUse, Turn
from livekv.serve.bodies import body_as
from livekv.serve.prompts import Conversation, constraint_of, prompt_of, with_tools
from livekv.serve.request import Piece
from livekv.serve.request import Request as Asked
from livekv.serve.tools import Messages, PlainReader

Body = Annotated[MessagesBody, Depends(body_as(MessagesBody))]
Counted = Annotated[CountBody, Depends(body_as(CountBody))]


def _text(content: str | Sequence[TextBlock] | None) -> str:
    return content if isinstance(content, str) else "".join(block.text for block in content or ())


def _content(content: str | Sequence[TextBlock]) -> str | list[dict[str, str]]:
    return content if isinstance(content, str) else [{"type": "text", "text": block.text} for block in content]


def _texts(body: CountBody) -> Iterator[str]:
    """All that a template may write of it."""
    yield _text(body.system)
    for turn in body.messages:
        if isinstance(turn.content, str):
            yield turn.content
            continue
        for block in turn.content:
            if isinstance(block, TextBlock):
                yield block.text
            elif isinstance(block, ToolResult):
                yield from (block.tool_use_id, _text(block.content))
            else:
                yield from (block.id, block.name, json.dumps(block.input))
    for tool in body.tools or ():
        yield from (tool.name, tool.description or "", json.dumps(tool.input_schema))


def plain_messages(body: CountBody) -> Messages:
    """The conversation as templates read it: results of tools are messages of their own."""
    messages: Messages = []
    if body.system:
        messages.append({"role": "system", "content": _content(body.system)})
    for turn in body.messages:
        messages += _plain(turn)
    return messages


def _plain(turn: Turn) -> Messages:
    if isinstance(turn.content, str):
        return [{"role": turn.role, "content": turn.content}]
    wrong = ToolResult if turn.role == "assistant" else ToolUse
    if any(isinstance(block, wrong) for block in turn.content):
        raise Error(f"a message of the {turn.role} holds a {'tool_result' if wrong is ToolResult else 'tool_use'}")
    texts = [block for block in turn.content if isinstance(block, TextBlock)]
    results: Messages = [
        {"role": "tool", "content": _content(block.content or ""), "tool_call_id": block.tool_use_id}
        for block in turn.content
        if isinstance(block, ToolResult)
    ]
    calls = [
        {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": block.input}}
        for block in turn.content
        if isinstance(block, ToolUse)
    ]
    has_text = any(block.text for block in texts)
    said: dict[str, Any] = {"role": turn.role, "content": _content(texts) if has_text else ""}
    if calls:
        said |= {"content": said["content"] or None, "tool_calls": calls}
    return results + ([said] if has_text or calls or not results else [])


def conversation_of(service: Service, body: CountBody) -> Conversation:
    if body.messages[-1].role != "user":
        raise Error("the last message is not the user's")
    service.check_conversation(len(body.messages), _texts(body))
    messages = plain_messages(body)
    choice = body.tool_choice
    tools: list[dict[str, Any]] = [
        {"type": "function", "function": {"name": tool.name, "description": tool.description or "",
                                          "parameters": tool.input_schema}}
        for tool in body.tools or ()
    ]  # fmt: skip
    if choice and choice.type in ("any", "tool") and not tools:
        raise Error(f"tool_choice is {choice.type}, and there are no tools")
    if not tools or (choice and choice.type == "none"):
        return Conversation(prompt_of(service.model, messages, []), None, PlainReader)
    wanted = "auto"
    if choice and choice.type == "any":
        wanted = "required"
    elif choice and choice.type == "tool":
        wanted = choice.name or ""
        if wanted not in {tool["function"]["name"] for tool in tools}:
            raise Error(f"tool_choice names {wanted[:100]!r}, which is not among the tools")
    several = False if choice and choice.disable_parallel_tool_use else None
    return with_tools(service.model, messages, tools, wanted, several)


def _block_of(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {
        "type": "tool_use",
        "id": call["id"].replace("call_", "toolu_"),
        "name": function["name"],
        "input": json.loads(function["arguments"]),
    }


def _reason(reason: str, stop: str | None, called: bool) -> str:
    if reason == "length":
        return "max_tokens"
    if stop is not None:
        return "stop_sequence"
    return "tool_use" if called else "end_turn"


def _usage(asked: Asked) -> dict[str, int]:
    return {
        "input_tokens": len(asked.prompt) - asked.n_cached,
        "cache_read_input_tokens": asked.n_cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": asked.n_generated,
    }


def messages(service: Service) -> APIRouter:
    router = APIRouter()

    def message(asked: Asked, content: list[dict[str, Any]], reason: str | None, stop: str | None) -> dict[str, Any]:
        return {
            "id": f"msg_{uuid.uuid4().hex}",
            "type": "message",
            "role": "assistant",
            "model": service.name,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": stop,
            "usage": _usage(asked),
        }

    @router.post("/v1/messages", response_model=None)
    async def answer(body: Body, http: Request) -> Response | dict[str, Any]:
        service.check_name(body.model)
        talk = await service.off_loop(http, lambda: conversation_of(service, body))
        constraint = await unless_gone(http, constraint_of(service, talk))
        asked = Asked(
            prompt=talk.prompt,
            max_tokens=body.max_tokens,
            seed=drawn_seed(None),
            sampling=body.sampling(),
            stop=body.stop_sequences or (),
            constraint=constraint,
        )
        if body.stream:
            return await stream(http, talk, asked)
        (one,) = await unless_gone(http, whole(service, asked))
        reader = talk.reader()
        text = reader.push(one.text) + reader.finish()
        content = [_block_of(call) for call in reader.calls]
        if text.strip() or not content:
            content.insert(0, {"type": "text", "text": text})
        return message(asked, content, _reason(one.reason, one.stop, bool(reader.calls)), one.stop)

    @router.post("/v1/messages/count_tokens")
    async def count(body: Counted, http: Request) -> dict[str, int]:
        service.check_name(body.model)
        talk = await service.off_loop(http, lambda: conversation_of(service, body))
        return {"input_tokens": len(talk.prompt)}

    async def stream(http: Request, talk: Conversation, asked: Asked) -> StreamingResponse:
        def event(kind: str, **data: Any) -> str:
            return sse({"type": kind, **data}, kind)

        async def told(pieces: AsyncIterator[Piece]) -> AsyncIterator[str]:
            yield event("message_start", message=message(asked, [], None, None))
            reader, n_blocks, in_text = talk.reader(), 0, False
            async for piece in pieces:
                n_calls = len(reader.calls)
                text = reader.push(piece.text) + (reader.finish() if piece.reason else "")
                new = reader.calls[n_calls:]
                if text and not in_text and (text.strip() or not reader.calls):
                    yield event("content_block_start", index=n_blocks, content_block={"type": "text", "text": ""})
                    in_text = True
                if text and in_text:
                    yield event("content_block_delta", index=n_blocks, delta={"type": "text_delta", "text": text})
                if in_text and (new or piece.reason):
                    yield event("content_block_stop", index=n_blocks)
                    n_blocks, in_text = n_blocks + 1, False
                for block in map(_block_of, new):
                    start = block | {"input": {}}
                    given = {"type": "input_json_delta", "partial_json": json.dumps(block["input"], ensure_ascii=False)}
                    yield event("content_block_start", index=n_blocks, content_block=start)
                    yield event("content_block_delta", index=n_blocks, delta=given)
                    yield event("content_block_stop", index=n_blocks)
                    n_blocks += 1
                if piece.reason:
                    reason = _reason(piece.reason, piece.stop, bool(reader.calls))
                    delta = {"stop_reason": reason, "stop_sequence": piece.stop}
                    yield event("message_delta", delta=delta, usage=_usage(asked))
            yield event("message_stop")

        return await streamed(http, service, asked, told)

    return router
