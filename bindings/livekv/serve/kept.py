"""Sequences that nobody is writing any more, for prompts that begin as they do: the next turn of a conversation, or
another question about the same text. A prefix cache knows whole chunks alone; here all tokens are known that are not in
the middle of a sealed chunk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from livekv._livekv import Error
from livekv.serve.job import common
from livekv.session import Session

Ids = npt.NDArray[np.int32]
WORTH = 32
"""Tokens that are not read again must be as many: passes of other lengths round otherwise in their last digits. For a
long prompt that is no matter; short ones are computed as they always are."""


@dataclass
class _Sequence:
    session: Session
    tokens: Ids
    is_beginning: bool
    """Of several prompts: who goes on from it takes a copy."""

    def usable(self, prompt: Ids) -> int:
        """Tokens that a prompt need not compute; its last one is computed for its logits."""
        n = min(common(self.tokens, prompt), len(prompt) - 1)
        return n if n == len(self.tokens) else self.session.exact_trim(n)


class Kept:
    """The sequence that was used last is the last to go."""

    def __init__(self) -> None:
        self._all: list[_Sequence] = []

    def __len__(self) -> int:
        return len(self._all)

    @property
    def n_bytes(self) -> int:
        """Of their caches; what several share is counted for each."""
        return sum(one.session.kv_bytes for one in self._all)

    def add(self, session: Session, is_beginning: bool = False) -> None:
        """Takes the session over."""
        tokens = np.asarray(session.tokens, np.int32)
        for one in self._all:
            if np.array_equal(one.tokens, tokens):
                is_beginning = is_beginning or one.is_beginning
                self._forget(one)
                break
        self._all.append(_Sequence(session, tokens, is_beginning))

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

    def take(self, prompt: Ids, more_than: int, chunk_size: int) -> Session | None:
        """A session that holds a beginning of the prompt, worth more than one of so many tokens."""
        self.touch(prompt)
        best = self._best(prompt)
        n = best.usable(prompt) if best else 0
        if best is None or n < more_than + WORTH or (n % chunk_size > 0 and not ends_soon(len(prompt) - n, chunk_size)):
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
        found = [(one.usable(prompt), i) for i, one in enumerate(self._all)]
        n, i = max(found, default=(0, 0))
        return self._all[i] if n > 0 else None

    def _forget(self, one: _Sequence) -> None:
        self._all.remove(one)
        one.session.close()


def ends_soon(n_left: int, chunk_size: int) -> bool:
    """Whether so little of a prompt is left that it may be read from the middle of a chunk on. Such a chunk, and all
    behind it, are of no use to the prefix cache and the store, which have chunks that were read in one pass: a longer
    rest is read from a chunk's beginning."""
    return n_left < 2 * chunk_size


def branch(prompt: Ids, other: Ids, chunk_size: int) -> int:
    """Where another prompt parts from this one, or goes on behind it, when that is so far into a chunk, and so near to
    the end of this one, that a copy of the sequence there is worth its bytes; else 0."""
    n = min(common(prompt, other), len(other) - 1)
    return n if n % chunk_size >= WORTH and ends_soon(len(prompt) - n, chunk_size) else 0
