"""The deployment that clients reach, and its way to the replicas."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp, Message

from livekv.ray_serve.asked import Asked
from livekv.ray_serve.front import ReplicaGone, make_front
from livekv.serve.request import Refused


@serve.deployment(name="ingress", ray_actor_options={"num_cpus": 0}, max_ongoing_requests=10_000)
@serve.ingress()
class Ingress:
    def __init__(self, replicas: DeploymentHandle[Any], api_key: str | None, max_body: int) -> None:
        self._replicas = replicas.options(stream=True)
        self._api_key = api_key
        self._max_body = max_body

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return make_front(self._ask, self._api_key, self._max_body)

    async def _ask(self, asked: Asked) -> AsyncIterator[Message]:
        messages: Any = self._replicas.ask.remote(asked)
        try:
            async for message in messages:
                yield message
        except RayActorError:
            raise ReplicaGone from None
        except BackPressureError:
            raise Refused(429, "all servers have as many requests as they take", retry_after_s=1) from None
        finally:
            messages.cancel()
