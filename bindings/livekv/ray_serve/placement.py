"""Which replica a prompt goes to: the one that knows most of its beginning, less what it has to do already.

A prompt's text is cut into blocks, each of which is named by a hash of all text up to its end. Of each replica the
names of what was sent to it are remembered, the least recently used of which go first. What a replica really has in
memory is not asked: one that has dropped a beginning reads it again, or takes it from the store.

    score = worth * characters of the beginning that were sent there - request_cost * requests it has

The highest is first; of equal ones that with fewer requests, then the one that was given least so far.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

Name = TypeVar("Name")

BLOCK = 256
"""Bytes."""
MOST_BLOCKS = 1 << 16
"""Of a replica: 16 MiB of text."""
REQUEST_COST = 4000
"""Characters that take about as long to read as a request that goes first takes in all."""
WORTH_WITHOUT = 1.0
"""Of a character that need not be read again, when replicas share no store."""
WORTH_WITH_STORE = 0.1
"""When they do: every replica takes from it what any has read, in a fraction of the time that computing takes."""


def text_of(body: Any) -> bytes:
    """Of a request's JSON, what the prompt is made from, in the prompt's order: two conversations that begin alike have
    texts that do. Empty for what has no prompt."""
    if not isinstance(body, dict):
        return b""
    if "prompt" in body:
        prompt = body["prompt"]
        return prompt.encode("utf-8", "surrogatepass") if isinstance(prompt, str) else json.dumps(prompt).encode()
    messages = body.get("messages")
    parts = [body.get("tools"), body.get("system"), *(messages if isinstance(messages, list) else ())]
    return b"\n".join(json.dumps(part).encode() for part in parts if part is not None)


def blocks_of(text: bytes) -> list[bytes]:
    """Names of its whole blocks, first to last."""
    names, name = [], b""
    for at in range(0, min(len(text) // BLOCK, MOST_BLOCKS) * BLOCK, BLOCK):
        name = hashlib.blake2b(name + text[at : at + BLOCK], digest_size=12).digest()
        names.append(name)
    return names


class _Replica:
    def __init__(self) -> None:
        self.blocks: OrderedDict[bytes, None] = OrderedDict()
        """The one used last is the last."""
        self.n_given = 0
        """Blocks, in all."""

    def n_known(self, blocks: Sequence[bytes]) -> int:
        return next((i for i, name in enumerate(blocks) if name not in self.blocks), len(blocks))

    def learn(self, blocks: Sequence[bytes]) -> None:
        self.n_given += len(blocks)
        for name in reversed(blocks):  # a text's end goes before its beginning
            self.blocks[name] = None
            self.blocks.move_to_end(name)
        while len(self.blocks) > MOST_BLOCKS:
            self.blocks.popitem(last=False)


class Placement(Generic[Name]):
    """Of requests by a name of theirs; replicas by theirs."""

    def __init__(self, worth: float = WORTH_WITHOUT, request_cost: float = REQUEST_COST) -> None:
        self.worth = worth
        self.request_cost = request_cost
        self._replicas: dict[Name, _Replica] = {}
        self._at: dict[str, Name] = {}  # of requests that have not ended

    def set_replicas(self, names: Iterable[Name]) -> None:
        """There are these now; what was sent to others is forgotten."""
        self._replicas = {name: self._replicas.get(name) or _Replica() for name in names}
        self._at = {request: name for request, name in self._at.items() if name in self._replicas}

    def choose(self, request: str, blocks: Sequence[bytes], loads: Mapping[Name, int] | None = None) -> list[Name]:
        """All replicas, best first; the request is counted with the first until moved or ended says otherwise. loads:
        requests of replicas that others may have sent; more counts of the two."""
        self.ended(request)
        counts = dict.fromkeys(self._replicas, 0)
        for name in self._at.values():
            counts[name] += 1
        for name, n in (loads or {}).items():
            if name in counts:
                counts[name] = max(n, counts[name])

        def rank(name: Name) -> tuple[float, int, int]:
            one = self._replicas[name]
            score = self.worth * BLOCK * one.n_known(blocks) - self.request_cost * counts[name]
            return -score, counts[name], one.n_given

        best = sorted(self._replicas, key=rank)
        if best:
            self.moved(request, best[0], blocks)
        return best

    def moved(self, request: str, name: Name, blocks: Sequence[bytes]) -> None:
        """The request is at that replica, which reads its text."""
        if name in self._replicas and self._at.get(request) != name:
            self._at[request] = name
            self._replicas[name].learn(blocks)

    def ended(self, request: str) -> None:
        self._at.pop(request, None)
