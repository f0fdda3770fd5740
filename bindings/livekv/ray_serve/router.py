"""Ray Serve's router of requests to replicas, as placement.py decides."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from livekv.ray_serve.asked import Asked
from livekv.ray_serve.placement import Placement


def _blocks(request: PendingRequest | None) -> list[bytes]:
    asked = request.args[0] if request and request.args else None
    return asked.blocks if isinstance(asked, Asked) else []


class PrefixRouter(RequestRouter):
    def initialize_state(self, **kwargs: float) -> None:
        """Placement's."""
        self._placement: Placement[ReplicaID] = Placement(**kwargs)

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        self._placement.set_replicas(one.replica_id for one in replicas)

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        super().on_replica_actor_died(replica_id)
        self._placement.set_replicas(self.curr_replicas)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Each is a rank of its own. Where all are full, Ray asks again after a while."""
        if pending_request is None:
            return [candidate_replicas]
        request = pending_request.metadata.internal_request_id
        loads = {one.replica_id: self.replica_queue_len_cache.get(one.replica_id) or 0 for one in candidate_replicas}
        best = self._placement.choose(request, _blocks(pending_request), loads)
        pending_request.routing_context.should_backoff = True
        pending_request.future.add_done_callback(functools.partial(self._unless_routed, request))
        candidates = {one.replica_id: one for one in candidate_replicas}
        return [[candidates[name]] for name in best if name in candidates]

    def _unless_routed(self, request: str, found: asyncio.Future[RunningReplica]) -> None:
        if found.cancelled():
            self._placement.ended(request)

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        self._placement.moved(pending_request.metadata.internal_request_id, replica_id, _blocks(pending_request))

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        self._placement.ended(internal_request_id)
