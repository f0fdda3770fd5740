"""POST /v1/messages, Anthropic's form of a conversation, as it is checked."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from livekv.serve.fields import MOST_MESSAGES, MOST_PARTS, MOST_TOOLS, Count, Share, Stops, Strict


class Cached(Strict):
    """A mark that other servers need; here every beginning is kept."""

    cache_control: dict[str, Any] | None = None


class TextBlock(Cached):
    type: Literal["text"]
    text: str
    citations: Annotated[list[Any], Field(max_length=0)] | None = None


Texts = Annotated[list[TextBlock], Field(max_length=MOST_PARTS, fail_fast=True)]


class ToolUse(Cached):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


class ToolResult(Cached):
    type: Literal["tool_result"]
    tool_use_id: str
    content: str | Texts = ""
    is_error: bool | None = None


Block = Annotated[TextBlock | ToolUse | ToolResult, Field(discriminator="type")]


class Turn(Strict):
    role: Literal["user", "assistant"]
    content: str | Annotated[list[Block], Field(max_length=MOST_PARTS, fail_fast=True)]


class OfferedTool(Cached):
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]
    description: str | None = None
    input_schema: dict[str, Any]
    type: Literal["custom"] | None = None


class ToolChoice(Strict):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class NoThinking(Strict):
    type: Literal["disabled"]


class CountBody(Strict):
    """What a prompt is made of."""

    model: str
    messages: Annotated[list[Turn], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)]
    system: str | Texts | None = None
    tools: Annotated[list[OfferedTool], Field(max_length=MOST_TOOLS, fail_fast=True)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: NoThinking | None = None


class MessagesBody(CountBody):
    max_tokens: Annotated[Count, Field(ge=1)]
    stop_sequences: Stops | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Share | None = None
    top_k: Count | None = None
    stream: bool | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None

    def sampling(self) -> dict[str, Any]:
        """Options of livekv.Sampler."""
        names = ("temperature", "top_p", "top_k")
        return {name: value for name in names if (value := getattr(self, name)) is not None}
