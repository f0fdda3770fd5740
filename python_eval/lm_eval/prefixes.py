"""Contexts that begin alike are read once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import livekv

# A shared beginning shorter than this is read again: a copy of the session costs as much.
MIN_SHARED = 32


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """Tokens that `a` and `b` begin with alike."""
    for n, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return n
    return min(len(a), len(b))


def split_runs(contexts: Sequence[list[int]], at_most: int) -> list[list[int]]:
    """Indices of the contexts, sorted, in runs of neighbours that share a beginning, `at_most` a run: what one worker
    takes at once."""
    runs: list[list[int]] = []
    for index in sorted(range(len(contexts)), key=lambda i: contexts[i]):
        related = bool(runs) and common_length(contexts[runs[-1][-1]], contexts[index]) >= MIN_SHARED
        if related and len(runs[-1]) < at_most:
            runs[-1].append(index)
        else:
            runs.append([index])
    return runs


def sessions(
    open_session: Callable[[], livekv.Session], contexts: Sequence[list[int]]
) -> Iterator[tuple[int, livekv.Session, int]]:
    """(index, session, tokens read for it) for each context, in sorted order.

    The session holds the context, which may be empty, and is the caller's. A beginning that the next context
    shares is read into a session of its own, which is forked: no session has ever held tokens of another context, so a
    cache that keeps running statistics is what it would be had the context been read alone.
    """
    order = sorted(range(len(contexts)), key=lambda i: contexts[i])
    stems: list[livekv.Session] = []  # each holds a beginning of the next
    for at, index in enumerate(order):
        context = contexts[index]
        while stems and context[: stems[-1].n_tokens] != stems[-1].tokens:
            stems.pop()
        n_read = 0
        shared = common_length(context, contexts[order[at + 1]]) if at + 1 < len(order) else 0
        known = stems[-1].n_tokens if stems else 0
        if shared >= max(MIN_SHARED, known + 1):
            stem = stems[-1].fork() if stems else open_session()
            stem.prefill(context[known:shared])
            n_read += shared - known
            stems.append(stem)
            known = shared
        session = stems[-1].fork() if stems else open_session()
        if len(context) > known:
            session.prefill(context[known:])
            n_read += len(context) - known
        yield index, session, n_read
