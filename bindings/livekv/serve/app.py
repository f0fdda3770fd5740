"""The server's paths."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from livekv._livekv import __version__
from livekv.serve import errors
from livekv.serve.answers import Service
from livekv.serve.bodies import body_as
from livekv.serve.chat import chat
from livekv.serve.completions import completions
from livekv.serve.description import description_of
from livekv.serve.fields import DetokenizeBody, TokenizeBody
from livekv.serve.guard import BODY_S, Guard
from livekv.serve.messages import messages
from livekv.serve.metrics import Metrics
from livekv.serve.page import page
from livekv.serve.request import Refused
from livekv.serve.status import status_of
from livekv.serve.worker import Worker

MAX_BODY = 16 << 20
SLICE = 1 << 16
"""Tokens or characters that are written at a time."""
Tokenize = Annotated[TokenizeBody, Depends(body_as(TokenizeBody))]
Detokenize = Annotated[DetokenizeBody, Depends(body_as(DetokenizeBody))]


def make_app(
    worker: Worker,
    name: str,
    api_key: str | None = None,
    max_body: int = MAX_BODY,
    any_host: bool = False,
    body_s: float = BODY_S,
) -> FastAPI:
    """Steps by worker, which it starts and ends. name: of the model. any_host: requests may name this machine as they
    like; without, only as itself, so that no web page's name can be pointed at it. body_s: until a body is there."""
    metrics = Metrics(worker.scheduler)
    service = Service(worker, name, on_piece=metrics.on_piece)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        await asyncio.to_thread(worker.close)

    app = FastAPI(title="livekv", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_exception_handler(Refused, errors.on_refused)
    app.add_exception_handler(HTTPException, errors.on_http)
    app.add_exception_handler(errors.ClientGone, _nobody)
    app.add_exception_handler(Exception, errors.on_bug)
    app.add_middleware(Guard, api_key=api_key, max_body=max_body, any_host=any_host, body_s=body_s)
    app.include_router(completions(service))
    app.include_router(chat(service))
    app.include_router(messages(service))
    app.include_router(page())

    def model_facts() -> dict[str, Any]:
        return {"id": name, "object": "model", "created": service.started, "owned_by": "livekv",
                "max_model_len": worker.scheduler.n_ctx}  # fmt: skip

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model_facts()]}

    @app.get("/v1/models/{model_name}")
    async def model_named(model_name: str) -> dict[str, Any]:
        service.check_name(model_name)
        return model_facts()

    async def written(http: Request, name: str, work: Callable[[], list[int] | str]) -> Response:
        """As JSON, which is written off the loop too."""
        return Response(await service.off_loop(http, lambda: json_of(name, work())), media_type="application/json")

    @app.post("/tokenize", response_model=None)
    async def tokenize(body: Tokenize, http: Request) -> Response:
        service.check_name(body.model)
        service.check_length(len(body.content))
        tokens = functools.partial(service.model.tokenize, body.content, body.add_special, body.parse_special)
        return await written(http, "tokens", tokens)

    @app.post("/detokenize", response_model=None)
    async def detokenize(body: Detokenize, http: Request) -> Response:
        service.check_name(body.model)
        text = functools.partial(service.model.detokenize, body.tokens, body.skip_special)
        return await written(http, "content", text)

    @app.get("/health")
    async def health() -> dict[str, str]:
        if not worker.alive:
            raise Refused(503, "nothing is computed any more")
        return {"status": "ok"}

    @app.get("/status")
    async def status() -> dict[str, Any]:
        return {"model": name, **await worker.between_steps(lambda: status_of(worker.scheduler))}

    @app.get("/metrics")
    async def metrics_page() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    app.openapi = description_of(app)  # type: ignore[method-assign]
    return app


async def _nobody(request: Any, problem: Exception) -> Response:
    return Response(status_code=499)


def json_of(name: str, value: list[int] | str) -> bytes:
    """An object of this one field. A slice at a time: nothing else in Python runs beside a call that writes JSON."""
    slices = (json.dumps(value[i : i + SLICE])[1:-1].encode() for i in range(0, len(value), SLICE))
    inside = b'"' + b"".join(slices) + b'"' if isinstance(value, str) else b"[" + b", ".join(slices) + b"]"
    return b'{"' + name.encode() + b'": ' + inside + b"}"
