"""Contexts that begin alike are read once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import livekv

# Beginnings are shared and read in multiples of this many tokens. ggml's attention over an f16 cache sums in 16 bits
# when it processes fewer together, in 32 bits otherwise: likelihoods of 20 tokens then moved by 0.2 nats.
STEP = 64


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """Tokens that `a` and `b` begin with alike."""
    for n, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return n
    return min(len(a), len(b))


def split_runs(contexts: Sequence[list[int]], at_most: int, at_least: int = 1) -> list[list[int]]:
    """Indices of the contexts, sorted, in runs of neighbours that share a beginning, `at_most` a run: what one worker
    takes at once. With `at_least` a run that has fewer goes on with strangers."""
    runs: list[list[int]] = []
    for index in sorted(range(len(contexts)), key=lambda i: contexts[i]):
        related = bool(runs) and common_length(contexts[runs[-1][-1]], contexts[index]) >= STEP
        if runs and len(runs[-1]) < (at_most if related else at_least):
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
    shared = [common_length(contexts[one], contexts[after]) // STEP * STEP for one, after in itertools.pairwise(order)]
    stems: list[livekv.Session] = []  # each holds a beginning of the next
    for at, index in enumerate(order):
        context = contexts[index]
        while stems and context[: stems[-1].n_tokens] != stems[-1].tokens:
            stems.pop()
        known = begin = stems[-1].n_tokens if stems else 0
        for end in _levels(shared[at:], known):
            stem = stems[-1].fork() if stems else open_session()
            stem.prefill(context[known:end])
            stems.append(stem)
            known = end
        session = stems[-1].fork() if stems else open_session()
        if len(context) > known:
            session.prefill(context[known:])
        yield index, session, len(context) - begin


def _levels(shared: Sequence[int], known: int) -> list[int]:
    """Lengths beyond `known` at which contexts yet to come part from this one; `shared`: each with its successor."""
    levels = []
    for length in itertools.accumulate(shared, min):
        if length <= known:
            break
        if length not in levels:
            levels.append(length)
    return levels[::-1]
