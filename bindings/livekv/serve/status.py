"""What a server is doing, as its page shows it: taken between two steps, in the thread that makes them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from livekv.serve.job import Job
from livekv.serve.scheduler import Scheduler
from livekv.serve.text import Text

MOST_ROWS = 200
"""Of sequences that are kept, and of branches of the prefix tree."""


def status_of(scheduler: Scheduler) -> dict[str, Any]:
    """Bytes, tokens and tokens a second; texts are not told."""
    limits, store = scheduler.limits, scheduler.model.store
    kept = scheduler.kept.sessions()
    sessions = [row for job in scheduler.jobs() for row in _of_job(job)]
    sessions += [
        {"state": "kept", "tokens": one.n_tokens, "bits_per_value": one.kv_bits_per_value, "kv_bytes": one.kv_bytes}
        for one in kept[: -MOST_ROWS - 1 : -1]
    ]
    return {
        "description": scheduler.model.description,
        "kv": scheduler.kv.spec,
        "n_ctx": scheduler.n_ctx,
        "memory": {
            "limit": limits.memory,
            "requests": scheduler.kv_bytes,
            "kept": scheduler.kept.n_bytes,
            "prefix_cache": scheduler.engine.prefix_idle_bytes,
            "prefix_cache_limit": scheduler.model.prefix_cache_bytes,
        },
        "waiting": scheduler.n_waiting,
        "sessions": sessions,
        "n_kept": len(kept),
        "prefix_tree": branches(scheduler.engine.prefix_nodes()),
        "counters": asdict(scheduler.counters),
        "store": store.counts if store else None,
    }


def _of_job(job: Job) -> Iterator[dict[str, Any]]:
    seconds = max(1e-6, time.monotonic() - job.since)
    texts: list[Text | None] = [text for text in job.texts if not text.ended]
    for text in texts or [None]:
        session = text.session if text else job.session
        done = text.n_written if text else job.n_read - job.request.n_cached
        stats = session.kv_stats()
        yield {
            "state": "writing" if text else "reading",
            "request": job.number,
            "choice": text.choice if text else 0,
            "prompt_tokens": len(job.prompt),
            "tokens": session.n_tokens,
            "tokens_per_s": done / seconds,
            "bits_per_value": stats.bits_per_value,
            "kv_bytes": session.kv_bytes,
            "bytes": asdict(stats.bytes),
            "reused": [{"from": origin, "tokens": n} for origin, n in job.reused.items() if n > 0],
        }


def branches(nodes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of a tree's pieces, each followed by those that go on from it: what has no branch and is used alike is one."""
    path: list[int] = []  # from the root to the node at hand
    above: list[int | None] = []  # of each node, the one that it goes on from
    for i, node in enumerate(nodes):
        del path[node["depth"] :]
        above.append(path[-1] if path else None)
        path.append(i)
    n_next = Counter(above)
    pieces: list[dict[str, Any]] = []
    piece_of: list[dict[str, Any]] = []
    for node, parent in zip(nodes, above, strict=True):
        one = None if parent is None else piece_of[parent]
        if one is None or n_next[parent] > 1 or one["in_use"] != node["in_use"]:
            first = 0 if one is None else one["first_token"] + one["n_tokens"]
            depth = 0 if one is None else one["depth"] + 1
            one = {"depth": depth, "first_token": first, "n_tokens": 0, "bytes": 0, "in_use": node["in_use"]}
            pieces.append(one)
        one["n_tokens"] += node["n_tokens"]
        one["bytes"] += node["bytes"]
        piece_of.append(one)
    return {"pieces": pieces[:MOST_ROWS], "more": max(0, len(pieces) - MOST_ROWS)}
