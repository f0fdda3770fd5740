"""What OpenAI's forms of a request have in common, as it is checked: every field is known, has its type and range, and
one that would change the text and is not supported is refused.

A body that is wrong in a million places has one error: lists end at their first, and fields that are unknown have one
for all."""

from __future__ import annotations

import functools
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

MOST_MESSAGES = 10_000
MOST_PARTS = 10_000
"""Of a message: pieces of text, calls of tools."""
MOST_TOOLS = 128


def _neutral(value: float) -> float:
    if value != 0:
        raise PydanticCustomError("not_supported", "it is not supported; only 0 is possible")
    return value


Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
Share = Annotated[float, Field(ge=0, le=1)]
Zero = Annotated[float, AfterValidator(_neutral), WithJsonSchema({"type": "number", "const": 0})]
Stop = Annotated[str, Field(max_length=4096)]
Stops = Annotated[list[Stop], Field(max_length=16, fail_fast=True)]


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _knows_its_fields(cls, given: Any) -> Any:
        """One error for all that are unknown, where pydantic would make one for each."""
        if isinstance(given, dict) and (unknown := next((name for name in given if name not in cls._names()), None)):
            raise PydanticCustomError("unknown_field", "there is no such field here", {"name": str(unknown)[:100]})
        return given

    @classmethod
    @functools.cache
    def _names(cls) -> frozenset[str]:
        return frozenset(field.alias or name for name, field in cls.model_fields.items())


class StreamOptions(Strict):
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class Generating(Strict):
    """Options of text that is generated; what is not given is as on the command line."""

    model: str | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    max_tokens: Count | None = None
    stop: Stop | Stops | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Share | None = None
    top_k: Count | None = None
    min_p: Share | None = None
    repeat_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    ignore_eos: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # Neutral values of what is not supported.
    frequency_penalty: Zero | None = None
    presence_penalty: Zero | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    no_stop_trim: Literal[False] | None = None  # this and the next two are put in by sglang's and vLLM's routers
    skip_special_tokens: Literal[True] | None = None
    return_hidden_states: Literal[False] | None = None
    # What does not change the text.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: Literal[False] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None

    def sampling(self) -> dict[str, Any]:
        """Options of livekv.Sampler."""
        names = ("temperature", "top_p", "top_k", "min_p", "repeat_penalty")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())

    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class CompletionBody(Generating):
    """POST /v1/completions."""

    prompt: (
        str
        | Annotated[list[str], Field(fail_fast=True)]
        | Annotated[list[int], Field(fail_fast=True)]
        | Annotated[list[Annotated[list[int], Field(fail_fast=True)]], Field(fail_fast=True)]
    )
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    best_of: Literal[1] | None = None
    echo: bool | None = None
    suffix: Literal[""] | None = None


class TextPart(Strict):
    type: Literal["text"]
    text: str


class CalledFunction(Strict):
    name: str
    arguments: str
    """JSON."""


class ToolCall(Strict):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None


class Message(Strict):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], Field(max_length=MOST_PARTS, fail_fast=True)] | None = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MOST_PARTS, fail_fast=True)] | None = None
    tool_call_id: str | None = None
    # As clients hand an answer back.
    refusal: None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None


class Function(Strict):
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    type: Literal["function"]
    function: Function


class NamedFunction(Strict):
    name: str


class NamedTool(Strict):
    type: Literal["function"]
    function: NamedFunction


class JsonSchema(Strict):
    name: str
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")] = {}
    strict: bool | None = None


class ResponseFormat(Strict):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatBody(Generating):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[Tool], Field(max_length=MOST_TOOLS, fail_fast=True)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    # As the routers put them in. What a model thinks is text like any other here.
    continue_final_message: Literal[False] | None = None
    separate_reasoning: bool | None = None
    stream_reasoning: bool | None = None
    include_reasoning: bool | None = None


class TokenizeBody(Strict):
    """POST /tokenize. add_special: with bos and eos as the model asks; parse_special: control tokens as such."""

    content: str
    add_special: bool = True
    parse_special: bool = False
    model: str | None = None


class DetokenizeBody(Strict):
    """POST /detokenize."""

    tokens: Annotated[list[int], Field(fail_fast=True)]
    skip_special: bool = True
    model: str | None = None
