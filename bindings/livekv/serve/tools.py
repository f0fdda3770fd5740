"""Tool calls: how a conversation asks for them, the grammar that keeps them to their schemas, and how they are found in
the text. A call is written as Qwen's and Hermes' templates have it:

    <tool_call>
    {"name": "weather", "arguments": {"city": "Bern"}}
    </tool_call>

For a model whose own template does not write that, a system message tells it.
"""

from __future__ import annotations

import json
import uuid
import warnings
from collections.abc import Collection, Sequence
from typing import Any

from llguidance import StructTag

from livekv._livekv import Error
from livekv.model import Model
from livekv.serve.grammar import embedded

BEGIN, END = "<tool_call>", "</tool_call>"
Messages = list[dict[str, Any]]
_FENCE = "```json"
_PROBE = [{"type": "function", "function": {"name": "zq_probe", "description": "", "parameters": {"type": "object"}}}]


def writes_tools(model: Model) -> bool:
    """Whether the model's own template describes tools, and how they are called in this form."""
    try:
        with warnings.catch_warnings():  # a template that reads no tools is one of the answers
            warnings.simplefilter("ignore")
            text = model.apply_chat_template([{"role": "user", "content": "?"}], tools=_PROBE)
    except Error:
        return False
    return "zq_probe" in text and BEGIN in text


def in_words(messages: Messages, tools: Sequence[dict[str, Any]]) -> Messages:
    """The conversation for a template that knows nothing of tools: they, calls and results are text."""
    described = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    system = (
        f"You can call functions. Each line describes one:\n{described}\n\nTo call a function, write\n"
        f'{BEGIN}\n{{"name": "the function\'s name", "arguments": {{...}}}}\n{END}'
    )
    told: Messages = []
    if messages[0]["role"] == "system":
        told.append({"role": "system", "content": f"{_joined(messages[0]['content'])}\n\n{system}"})
        messages = messages[1:]
    else:
        told.append({"role": "system", "content": system})
    for message in messages:
        role, content = message["role"], _joined(message.get("content"))
        if role == "tool":
            role, content = "user", f"<tool_response>\n{content}\n</tool_response>"
        calls = "\n".join(_written(call) for call in message.get("tool_calls") or ())
        content = "\n".join(filter(None, (content, calls)))
        if told[-1]["role"] == role == "user":
            told[-1]["content"] += f"\n{content}"
        else:
            told.append({"role": role, "content": content})
    return told


def _joined(content: str | list[dict[str, str]] | None) -> str:
    return "".join(part["text"] for part in content) if isinstance(content, list) else content or ""


def _written(call: dict[str, Any]) -> str:
    function = call["function"]
    inside = json.dumps({name: function[name] for name in ("name", "arguments")}, ensure_ascii=False)
    return f"{BEGIN}\n{inside}\n{END}"


def grammar_of(tools: Sequence[dict[str, Any]], must: bool, several: bool) -> str:
    """Lark. must: calls and nothing else; without, text that may hold calls. several: more than one call."""
    heads = [f'{BEGIN}\n{{"name": {json.dumps(tool["function"]["name"])}, "arguments": ' for tool in tools]
    schemas = [{"type": "object", **(tool["function"].get("parameters") or {})} for tool in tools]
    if not must:
        tags = [
            StructTag(trigger=BEGIN, begin=head, grammar=embedded(schema).removeprefix("%json "), end=f"}}\n{END}")
            for head, schema in zip(heads, schemas, strict=True)
        ]
        return StructTag.to_grammar(tags, assume_special=False)
    names = [f"call_{i}" for i in range(len(tools))]
    end = json.dumps(f"}}\n{END}")
    rules = [
        f"{name}: {json.dumps(head)} {embedded(schema)} {end}"
        for name, head, schema in zip(names, heads, schemas, strict=True)
    ]
    start = 'start: call ("\\n" call)*' if several else "start: call"
    return "\n".join(["%llguidance {}", start, f"call: {' | '.join(names)}", *rules])


class Reader:
    """Finds calls in text that comes in pieces.

    names: of the tools. An answer that is a call as a whole, without the marks, is one too: some models write that.
    """

    def __init__(self, names: Collection[str] = ()) -> None:
        self._names = names
        self._behind_call = False  # and its line is not over
        self._bare: bool | None = None  # whether the answer begins as an object; None: it has not begun
        self.calls: list[dict[str, Any]] = []
        """In OpenAI's form, as they become whole."""
        self._held = ""

    def push(self, text: str) -> str:
        """The text that is certainly none of a call."""
        self._held += text
        head = self._held.lstrip()
        if self._bare is None and not _FENCE.startswith(head):
            self._bare = head.startswith(("{", _FENCE))
        if self._bare is not False:
            return ""
        out = ""
        while True:
            if self._behind_call:
                self._held = self._held.lstrip("\n")
                self._behind_call = not self._held
            at = self._held.find(BEGIN)
            if at < 0:
                keep = next((n for n in range(len(BEGIN) - 1, 0, -1) if self._held.endswith(BEGIN[:n])), 0)
                cut = len(self._held) - keep
                out, self._held = out + self._held[:cut], self._held[cut:]
                return out
            out, self._held = out + self._held[:at], self._held[at:]
            end = self._held.find(END)
            if end < 0:
                return out
            inside, self._held = self._held[len(BEGIN) : end], self._held[end + len(END) :]
            if (call := _call_of(inside)) is None:
                out += f"{BEGIN}{inside}{END}"
            else:
                self.calls.append(call)
                self._behind_call = True

    def finish(self) -> str:
        """What was held back: a call that was cut off is text."""
        held, self._held = self._held, ""
        if self._bare:
            inside = held.strip().removeprefix(_FENCE).removesuffix("```")
            if (call := _call_of(inside)) and call["function"]["name"] in self._names:
                self.calls.append(call)
                return ""
        return held


class PlainReader(Reader):
    """Of a conversation without tools: all is text."""

    def push(self, text: str) -> str:
        return text


def _call_of(text: str) -> dict[str, Any] | None:
    try:
        call = json.loads(text)
        name, arguments = call["name"], json.dumps(call["arguments"], ensure_ascii=False)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if not isinstance(name, str) or not isinstance(call["arguments"], dict):
        return None
    return {
        "id": f"call_{uuid.uuid4().hex[:24]}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }
