"""A conversation as Python has it, checked and made plain for the engine."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from livekv._livekv import Error

# Arguments of transformers' function of the same name: as variables of a template they would do nothing.
_FOREIGN = {
    "chat_template",
    "continue_final_message",
    "conversation",
    "max_length",
    "padding",
    "return_assistant_tokens_mask",
    "return_dict",
    "return_tensors",
    "sanitize_control_tokens",
    "tokenizer_kwargs",
    "truncation",
}


def plain_messages(messages: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Role, content and, where there is more to it than these two texts, the whole message as JSON, of each message.
    Raises Error for what is no message."""
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Iterable):
        raise Error(f"messages is {type(messages).__name__}, not a list of messages")
    return [_plain(i, message) for i, message in enumerate(messages)]


def plain_variables(tools: Sequence[Mapping[str, Any]] | None, variables: Mapping[str, Any]) -> str:
    """What a template may read beside the messages, as JSON; "" for nothing. Raises Error for what is no JSON."""
    if strange := _FOREIGN & set(variables):
        raise TypeError(f"apply_chat_template() takes no {min(strange)}, which is transformers' and not done here")
    given = dict(variables)
    if tools is not None:
        if not isinstance(tools, Sequence) or not all(isinstance(tool, Mapping) for tool in tools):
            raise Error("tools is not a list of mappings, each the JSON schema of a function")
        given["tools"] = [dict(tool) for tool in tools]
    try:
        _check(given)
        text = json.dumps(given, allow_nan=False, ensure_ascii=False) if given else ""
        text.encode()
    except (TypeError, ValueError, RecursionError) as problem:
        raise Error(f"the variables {', '.join(given)} cannot be given to a template: {problem}") from None
    return text


def _plain(i: int, message: Mapping[str, Any]) -> tuple[str, str, str]:
    if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
        raise Error(f"message {i} is not a mapping with role and content")
    role, content = message["role"], _content(i, message["content"])
    if not isinstance(role, str):
        raise Error(f"the role of message {i} is {type(role).__name__}, not text")
    whole = _with_reasoning({**message, "content": content})
    try:
        _check(whole)
        is_plain = list(whole) == ["role", "content"]
        text = content if isinstance(content, str) and is_plain else None
        more = json.dumps(whole, allow_nan=False, ensure_ascii=False) if text is None else ""
        "".join((role, text or "", more)).encode()
    except (TypeError, ValueError, RecursionError) as problem:  # no JSON, or a lone surrogate
        raise Error(f"message {i} cannot be given to a template: {problem}") from None
    return role, text or "", more


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """Templates read what a model thought as reasoning_content, some as thinking; callers name it as either, or as
    reasoning. As transformers 5.23 has it: the first of them that is there is given under both names."""
    names = ("reasoning_content", "thinking", "reasoning")
    thought = next((message[name] for name in names if message.get(name) is not None), None)
    return message if thought is None else {"thinking": thought, **message, "reasoning_content": thought}


def _check(value: object) -> None:
    """Raises TypeError for a key that JSON would make another one (1, True and None are texts to it), ValueError for a
    whole number that a template has no room for."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"a key is {type(key).__name__}, not text")
            _check(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check(item)
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("a whole number is beyond 64 bits")


def _content(i: int, content: object) -> str | list[dict[str, Any]] | None:
    """Text as it is, None as none, parts of text as a list."""
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, Sequence) or isinstance(content, (bytes, bytearray)):
        raise Error(f"the content of message {i} is {type(content).__name__}, not text")
    for part in content:
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise Error(f'a part of message {i} is not {{"type": "text", "text": ...}}')
    return [dict(part) for part in content]
