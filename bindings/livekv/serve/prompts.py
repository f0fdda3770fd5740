"""From a conversation as clients write it to a prompt's tokens, and to what its answer may be."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from livekv._livekv import Error
from livekv.model import Model
from livekv.serve.answers import Service
from livekv.serve.bodies import parsed
from livekv.serve.errors import ApiError
from livekv.serve.fields import ChatBody, Message, NamedTool
from livekv.serve.grammar import Grammars, Wanted, of_json, of_lark
from livekv.serve.request import Constraint
from livekv.serve.tools import Messages, PlainReader, Reader, grammar_of, in_words, writes_tools


@dataclass(frozen=True)
class Conversation:
    prompt: Sequence[int]
    grammar: Wanted | None
    """That an answer keeps to."""
    reader: Callable[[], Reader]
    """Makes what finds the calls in one answer."""


# One of each model that is served.
grammars_of = functools.lru_cache(maxsize=4)(Grammars)
_writes_tools = functools.lru_cache(maxsize=4)(writes_tools)


def conversation_of(service: Service, body: ChatBody) -> Conversation:
    """Raises Error for what the template refuses, and for a schema that is none."""
    service.check_conversation(len(body.messages), _texts(body))
    messages = [_plain(message) for message in body.messages]
    model = service.model
    tools = [_tool(tool.model_dump(exclude_none=True)) for tool in body.tools or ()]
    choice = body.tool_choice or "auto"
    if isinstance(choice, NamedTool):
        name = choice.function.name
        if not any(tool["function"]["name"] == name for tool in tools):
            raise Error(f"tool_choice names {name[:100]!r}, which is not among the tools")
    elif choice == "required" and not tools:
        raise Error("tool_choice is required, and there are no tools")
    if not tools or choice == "none":
        return Conversation(prompt_of(model, messages, []), _format_of(body), PlainReader)
    if body.response_format and body.response_format.type != "text":
        raise Error("response_format and tools cannot be had together")
    return with_tools(model, messages, tools, choice if isinstance(choice, str) else choice.function.name,
                      body.parallel_tool_calls)  # fmt: skip


def with_tools(
    model: Model, messages: Messages, tools: list[dict[str, Any]], choice: str, parallel: bool | None
) -> Conversation:
    """choice: auto, required, or the name of the one that must be called. parallel: several calls in one answer; None:
    where the model is free to call or not."""
    must = choice != "auto"
    offered = tools if choice in ("auto", "required") else [t for t in tools if t["function"]["name"] == choice]
    lark = grammar_of(offered, must, several=not must if parallel is None else parallel)
    names = [tool["function"]["name"] for tool in tools]
    return Conversation(prompt_of(model, messages, tools), of_lark(lark, "the tools"), functools.partial(Reader, names))


async def constraint_of(service: Service, talk: Conversation) -> Callable[[], Constraint] | None:
    """Raises ApiError, 400 for a grammar that is none."""
    if talk.grammar is None:
        return None
    try:
        return await grammars_of(service.model).constraint(talk.grammar)
    except Error as problem:
        raise ApiError(400, str(problem)) from None


def prompt_of(model: Model, messages: Messages, tools: list[dict[str, Any]]) -> list[int]:
    if not tools and any("tool_calls" in message or message["role"] == "tool" for message in messages):
        if not _writes_tools(model):
            messages = in_words(messages, [])
        return model.apply_chat_template(messages, tokenize=True)
    if tools and not _writes_tools(model):
        return model.apply_chat_template(in_words(messages, tools), tokenize=True)
    return model.apply_chat_template(messages, tokenize=True, tools=tools or None)


def _format_of(body: ChatBody) -> Wanted | None:
    wanted = body.response_format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return of_json({"type": "object"})
    if wanted.json_schema is None:
        raise Error("response_format is json_schema without a json_schema")
    return of_json(wanted.json_schema.schema_)


def _texts(body: ChatBody) -> Iterator[str]:
    """All that a template may write of it."""
    for message in body.messages:
        content = message.content
        yield from (part.text for part in content) if isinstance(content, list) else (content or "",)
        yield from filter(None, (message.name, message.tool_call_id))
        for call in message.tool_calls or ():
            yield from (call.id, call.function.name, call.function.arguments)
    for tool in body.tools or ():
        yield from (tool.function.name, tool.function.description or "", json.dumps(tool.function.parameters))


def _plain(message: Message) -> dict[str, Any]:
    """As templates read it: arguments of calls are objects, no content is none."""
    content = message.content
    plain: dict[str, Any] = {
        "role": "system" if message.role == "developer" else message.role,
        "content": [part.model_dump() for part in content] if isinstance(content, list) else content,
    }
    if message.name is not None:
        plain["name"] = message.name
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        plain["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": _arguments(call.function.arguments)},
            }
            for call in message.tool_calls
        ]
    return plain


def _arguments(text: str) -> Any:
    found = parsed((text or "{}").encode(), "the arguments of a tool call")
    if not isinstance(found, dict):
        raise Error("the arguments of a tool call are not a JSON object")
    return found


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    tool["function"].pop("strict", None)
    tool["function"].setdefault("parameters", {"type": "object", "properties": {}})
    return tool
