"""What the scheduler keeps of a request under way, and of a step."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from livekv._livekv import Error
from livekv.engine import Engine
from livekv.serve.request import Request
from livekv.serve.text import Text, chance_of
from livekv.session import Session

F32 = npt.NDArray[np.float32]


class Job:
    """A request that has begun: its prompt being read, then its texts."""

    def __init__(self, request: Request, session: Session, number: int = 0, n_given_before: int = 0) -> None:
        self.request = request
        self.number = number
        """In the order that requests begin, from 1."""
        self.n_given_before = n_given_before
        """Tokens of prompts that were given to steps before it."""
        self.since = time.monotonic()
        """When its prompt, and then its texts, began."""
        self.reused: dict[str, int] = {}
        """Tokens that were not computed, by where they came from."""
        self.session = session
        self.prompt = request.ids
        self.n_same = len(self.prompt)
        """Its first tokens, which are what a longer prompt makes of them (passes.py)."""
        self.branches: set[int] = set()
        """Tokens after which a copy of the session is worth keeping."""
        self.texts: list[Text] = []
        self.closed = False

    @property
    def n_read(self) -> int:
        return self.session.n_tokens

    def score(self, rows: F32) -> None:
        """float32 [n, n_vocab], of the last n tokens that were read: what comes behind each."""
        first = self.n_read - len(rows) + 1
        for row, token in zip(rows, self.prompt[first : self.n_read + 1], strict=False):
            self.request.prompt_chances.append(chance_of(row, int(token), self.request.n_chances or 0))

    def sessions(self) -> list[Session]:
        return [text.session for text in self.texts if not text.ended] or [self.session]

    def give_up(self) -> set[Session]:
        """Its sessions, which are the caller's now."""
        self.closed = True
        return {self.session, *(text.session for text in self.texts)}


@dataclass
class Work:
    """A session's share of a step: what goes in, and the logits that come out, or why none do."""

    session: Session
    tokens: list[int] | npt.NDArray[np.int32]
    generated: bool
    wants_all: bool = False
    """The logits of every token."""
    to_come: int = 0
    """Tokens of the prompt that later steps bring."""
    rows: F32 | None = None
    """float32 [len(tokens), n_vocab], where they are wanted."""
    logits: F32 | None = None
    """float32 [n_vocab], of the last token."""
    problem: str = ""

    def __post_init__(self) -> None:
        self._n_after = self.session.n_tokens + len(self.tokens)

    def take(self, logits: F32) -> None:
        self.rows = logits if self.wants_all else None
        self.logits = logits[-1] if self.wants_all else logits

    def compute_alone(self, engine: Engine) -> None:
        advanced = self.session.n_tokens == self._n_after  # in a pass before the one that failed
        if advanced and not self.wants_all:
            self.logits = self.session.last_logits
            return
        try:
            if advanced:
                self.session.trim(self._n_after - len(self.tokens))
            (logits,) = engine.step([(self.session, self.tokens)], self.wants_all, self.generated, self.to_come)
            self.take(logits)
        except Error as problem:
            self.problem = str(problem)


def common(one: npt.NDArray[np.int32], other: npt.NDArray[np.int32]) -> int:
    """How many tokens both begin with."""
    n = min(len(one), len(other))
    different = np.flatnonzero(one[:n] != other[:n])
    return int(different[0]) if len(different) else n
