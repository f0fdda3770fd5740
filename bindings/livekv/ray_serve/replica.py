"""One of the servers behind the ingress: livekv.serve's app, asked through Ray in place of a port."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import AsyncIterator

from ray import serve
from starlette.types import Message

from livekv._livekv import Error
from livekv.ray_serve.asked import Asked, answer
from livekv.serve.app import make_app
from livekv.serve.options import name_of, worker_of


@serve.deployment(name="replica")
class Replica:
    """The ingress has seen to the API key and the body's size."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._ended = contextlib.ExitStack()
        self._worker = worker_of(args, self._ended)
        self._app = make_app(self._worker, name_of(args), None, args.max_body, any_host=True)
        self._worker.start()
        self._id = serve.get_replica_context().replica_id.unique_id.encode()

    async def ask(self, asked: Asked) -> AsyncIterator[Message]:
        async for message in answer(self._app, asked):
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"x-livekv-replica", self._id)]
            yield message

    async def check_health(self) -> None:
        if not self._worker.alive:
            raise Error("nothing is computed any more")

    def __del__(self) -> None:  # Ray calls it when a replica ends
        if hasattr(self, "_app"):
            self._worker.close()
        self._ended.close()
