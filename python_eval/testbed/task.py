"""A long-context task: facts, questions that only they answer, and what a form needs to know to make one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Encode = Callable[[str], list[int]]
Rng = np.random.Generator


@dataclass(frozen=True)
class Question:
    """`prompt` ends where the answer begins; `needs` are the indices of the facts that hold the answer."""

    prompt: str
    answer: str  # with its leading space
    needs: tuple[int, ...]


@dataclass(frozen=True)
class Task:
    form: str
    facts: list[str]
    questions: list[Question]
    packed: bool = False  # the facts follow each other, without a haystack
    head: str = ""


@dataclass(frozen=True)
class Maker:
    """What a form needs to know: how much room there is, and at which depths the answers shall lie."""

    encode: Encode
    n_tokens: int  # for facts, haystack and questions together
    n_questions: int = 1
    depths: tuple[float, ...] = ()  # of the questions, rising from 0 (beginning) to 1 (end); empty: anywhere
    full: bool = False  # packed facts take all the room, as the benchmark wants it; else a share drawn at random

    def fill(self, rng: Rng, make: Callable[[], str], share: float = 1.0, minimum: int = 2) -> list[str]:
        """Packed facts until `share` of the room (less some for the questions) is used."""
        room = int((self.n_tokens - 24 - 30 * self.n_questions) * share)
        facts: list[str] = []
        used = 0
        while True:
            fact = make()
            used += len(self.encode(fact))
            if used > room and len(facts) >= minimum:
                return facts
            facts.append(fact)

    def share(self, rng: Rng, least: float) -> float:
        return 1.0 if self.full else float(rng.uniform(least, 1.0))

    def targets(self, rng: Rng, n: int) -> list[int]:
        """Indices of the facts to ask about; with `depths`, packed facts there."""
        if self.depths:
            return [round(depth * (n - 1)) for depth in self.depths]
        return [int(i) for i in rng.permutation(n)][: self.n_questions]

    def n_facts(self, trained: int) -> int:
        """Facts of a haystack task: `trained` in training, where many questions come cheap; else few."""
        return max(4, len(self.depths)) if self.depths else trained

    def n_needles(self, rng: Rng) -> int:
        """How many facts a haystack of this length gets in training: one for 48 to 128 tokens."""
        return int(np.clip(self.n_tokens // int(rng.integers(48, 128)), 1, 48))
