"""/openapi.json: what is taken, and what is answered, right or wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from livekv.serve.anthropic_fields import CountBody, MessagesBody
from livekv.serve.fields import ChatBody, CompletionBody, DetokenizeBody, TokenizeBody

_TEXT, _NUMBER, _ANY = {"type": "string"}, {"type": "integer"}, {"type": "object"}
_ERRORS = {
    "400": "The request is wrong, or can never be done: what it says of itself, too long a prompt.",
    "401": "There is no valid API key in the request.",
    "403": "Without a key, requests must be for this machine by name.",
    "404": "There is no such path, or no such model.",
    "408": "The body did not come in time.",
    "413": "The body is too large.",
    "429": "As many requests wait as may; Retry-After says when to come back.",
    "500": "The server failed; its log says more.",
    "503": "The server ends, has no memory for it, or was busy for too long.",
    "504": "It took too long.",
}
_OF_ALL = ("401", "403", "500")
_OF_BODIES = ("400", "404", "408", "413")
_OF_GENERATING = ("429", "503", "504")


def _listed(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


_ERROR = {
    "Error": _object(error=_object(message=_TEXT, type=_TEXT, param={"type": ["string", "null"]},
                                   code={"type": ["string", "null"]})),
    "AnthropicError": _object(type={"const": "error"}, error=_object(type=_TEXT, message=_TEXT)),
}  # fmt: skip
_COMPLETION = _object(id=_TEXT, object=_TEXT, created=_NUMBER, model=_TEXT, choices=_listed(_ANY), usage=_ANY)
_MESSAGE = _object(
    id=_TEXT, type={"const": "message"}, role={"const": "assistant"}, model=_TEXT, content=_listed(_ANY),
    stop_reason={"type": ["string", "null"]}, stop_sequence={"type": ["string", "null"]}, usage=_ANY,
)  # fmt: skip
_MODEL = _object(id=_TEXT, object={"const": "model"}, created=_NUMBER, owned_by=_TEXT, max_model_len=_NUMBER)

# Path: the body, and what is answered with 200.
_PATHS: dict[str, tuple[type[BaseModel] | None, dict[str, Any]]] = {
    "/v1/completions": (CompletionBody, _COMPLETION),
    "/v1/chat/completions": (ChatBody, _COMPLETION),
    "/v1/messages": (MessagesBody, _MESSAGE),
    "/v1/messages/count_tokens": (CountBody, _object(input_tokens=_NUMBER)),
    "/v1/models": (None, _object(object={"const": "list"}, data=_listed(_MODEL))),
    "/v1/models/{model_name}": (None, _MODEL),
    "/tokenize": (TokenizeBody, _object(tokens=_listed(_NUMBER))),
    "/detokenize": (DetokenizeBody, _object(content=_TEXT)),
    "/health": (None, _object(status={"const": "ok"})),
    "/status": (None, _object(model=_TEXT, description=_TEXT, n_ctx=_NUMBER, memory=_ANY, sessions=_listed(_ANY))),
}
_STREAMS = ("/v1/completions", "/v1/chat/completions", "/v1/messages")


def description_of(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """What makes app's description, for app.openapi."""

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            whole = get_openapi(title=app.title, version=app.version, routes=app.routes)
            kinds = [(kind, "validation") for kind, _ in _PATHS.values() if kind]
            _, found = models_json_schema(kinds, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
            whole["components"] = {"schemas": found["$defs"] | _ERROR}
            for path, operations in whole["paths"].items():
                for operation in operations.values():
                    _describe(path, operation)
            app.openapi_schema = whole
        return app.openapi_schema

    return described


def _describe(path: str, operation: dict[str, Any]) -> None:
    kind, answer = _PATHS.get(path, (None, None))
    content: dict[str, Any] = {"application/json": {"schema": answer}}
    if answer is None:  # /metrics
        content = {"text/plain": {"schema": _TEXT}}
    if path in _STREAMS:
        content["text/event-stream"] = {"schema": _TEXT}
    codes: tuple[str, ...] = _OF_ALL
    if kind:
        schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
        codes += _OF_BODIES + (_OF_GENERATING if path in _STREAMS else ())
    elif "{" in path:
        codes += ("404",)
    elif path in ("/health", "/status"):
        codes += ("503",)
    error = "AnthropicError" if path.startswith("/v1/messages") else "Error"
    wrong = {"application/json": {"schema": {"$ref": f"#/components/schemas/{error}"}}}
    operation["responses"] = {"200": {"description": "The answer.", "content": content}}
    for code in sorted(codes):
        operation["responses"][code] = {"description": _ERRORS[code], "content": wrong}
