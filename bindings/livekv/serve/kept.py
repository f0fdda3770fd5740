"""Sequences that nobody is writing any more, for prompts that begin as they do: the next turn of a conversation, or
another question about the same text. A prefix cache knows whole chunks alone; here all tokens are known that are not in
the middle of a sealed chunk.

A prompt that goes on from another's beginning gets the bits that it gets when it is read as a whole (passes.py). One
that goes on from text that was written here does not: that was computed token by token."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from livekv._livekv import Error
from livekv.serve.job import common
from livekv.serve.passes import Passes
from livekv.session import Session

Ids = npt.NDArray[np.int32]
WORTH = 32
"""Tokens that are not read again must be as many."""


@dataclass
class _Sequence:
    session: Session
    tokens: Ids
    n_prompt: int
    """Of the tokens, those that were a prompt; what is behind them was written."""
    n_same: int
    """Of these, those that are what a longer prompt makes of them (passes.py)."""
    is_beginning: bool
    """Of several prompts: who goes on from it takes a copy."""

    def usable(self, prompt: Ids, passes: Passes) -> int:
        """Tokens that a prompt need not compute; its last ones are computed for its logits."""
        n = min(common(self.tokens, prompt), len(prompt) - 1)
        # A few tokens that were written may agree by chance with a prompt that is no answer's continuation.
        if n <= self.n_prompt or n < min(len(self.tokens), self.n_prompt + WORTH):
            n = passes.cut(min(n, self.n_prompt, self.n_same), len(prompt))
        return n if n == len(self.tokens) else self.session.exact_trim(n)


class Kept:
    """The sequence that was used last is the last to go."""

    def __init__(self, passes: Passes) -> None:
        self._passes = passes
        self._all: list[_Sequence] = []

    def __len__(self) -> int:
        return len(self._all)

    @property
    def n_bytes(self) -> int:
        """Of their caches; what several share is counted for each."""
        return sum(one.session.kv_bytes for one in self._all)

    def add(self, session: Session, n_prompt: int, n_same: int, is_beginning: bool = False) -> None:
        """Takes the session over. n_prompt of its tokens were a prompt, n_same of which are as in a longer one."""
        tokens = np.asarray(session.tokens, np.int32)
        for one in self._all:
            if np.array_equal(one.tokens, tokens):
                is_beginning = is_beginning or one.is_beginning
                self._forget(one)
                break
        self._all.append(_Sequence(session, tokens, n_prompt, n_same, is_beginning))

    def sessions(self) -> list[Session]:
        """The one that was used last is the last."""
        return [one.session for one in self._all]

    def tokens(self) -> list[Ids]:
        """Of each sequence, int32 [n]."""
        return [one.tokens for one in self._all]

    def touch(self, prompt: Ids) -> None:
        """What the prompt can use is used now."""
        best = self._best(prompt)
        if best is not None:
            self._all.remove(best)
            self._all.append(best)

    def take(self, prompt: Ids, more_than: int) -> Session | None:
        """A session that holds a beginning of the prompt, worth more than one of so many tokens."""
        self.touch(prompt)
        best = self._best(prompt)
        n, size = best.usable(prompt, self._passes) if best else 0, self._passes.chunk_size
        if best is None or n < more_than + WORTH or (n % size > 0 and not ends_soon(len(prompt) - n, size)):
            return None
        if n == len(best.tokens) and not best.is_beginning:
            self._all.remove(best)
            return best.session
        session = None
        try:
            session = best.session.fork()
            session.trim(n)
        except Error:  # no memory: the prompt is read as if nothing were known
            if session is not None:
                session.close()
            return None
        return session

    def shrink(self, n_bytes: int) -> None:
        """Forgets until no more are left."""
        total = self.n_bytes
        while self._all and total > max(0, n_bytes):
            total -= self._all[0].session.kv_bytes
            self._forget(self._all[0])

    def _best(self, prompt: Ids) -> _Sequence | None:
        found = [(one.usable(prompt, self._passes), i) for i, one in enumerate(self._all)]
        n, i = max(found, default=(0, 0))
        return self._all[i] if n > 0 else None

    def _forget(self, one: _Sequence) -> None:
        self._all.remove(one)
        one.session.close()


def ends_soon(n_left: int, chunk_size: int) -> bool:
    """Whether so little of a prompt is left behind written text that it may be read on from there. Such a chunk, and
    all behind it, are of no use to the prefix cache and the store, which have chunks that were read in one pass: a
    longer rest is read from a chunk's beginning."""
    return n_left < 2 * chunk_size


def branch(prompt: Ids, other: Ids, passes: Passes) -> int:
    """Where another prompt parts from this one, or goes on behind it, when that is so far into the last chunk of both
    that a copy of the sequence there is worth its bytes; else 0."""
    n = passes.cut(min(common(prompt, other), len(other) - 1), len(other))
    n = passes.cut(n, len(prompt)) if n < len(prompt) else n
    return n if n % passes.chunk_size >= max(WORTH, passes.least(n)) else 0
