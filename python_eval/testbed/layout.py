"""A task as token ids: its facts at given depths of a haystack, or one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .haystack import Haystack
from .task import Maker, Question, Rng, Task


@dataclass
class Laid:
    """A task as token ids: the context, then each question's prompt and answer."""

    form: str
    context: list[int]
    spans: list[tuple[int, int]]  # where each fact lies in the context
    questions: list[tuple[list[int], list[int], Question]]
    is_fact: list[bool] = field(default_factory=list)  # for each token of the context

    @property
    def n_tokens(self) -> int:
        return len(self.context) + max((len(prompt) + len(answer) for prompt, answer, _ in self.questions), default=0)

    def depth(self, question: int) -> float:
        """Where the first fact the answer needs begins, as a share of the context."""
        needs = self.questions[question][2].needs
        return self.spans[min(needs)][0] / max(1, len(self.context)) if needs else 0.0


def layout(task: Task, maker: Maker, haystack: Haystack, rng: Rng, all_questions: bool = True) -> Laid:
    """At most `maker.n_tokens` tokens where the facts alone leave room for it.

    Facts of a haystack task stand between sentences, in their order: the first one that question i needs at
    `maker.depths[i]`, the others anywhere.
    """
    encode = maker.encode
    questions = [(encode(q.prompt), encode(q.answer), q) for q in task.questions]
    lengths = [len(prompt) + len(answer) for prompt, answer, _ in questions]
    reserve = sum(lengths) if all_questions else max(lengths, default=0)
    head = encode(task.head) if task.head else []
    if task.packed:
        pieces = [encode(fact) for fact in task.facts]
        return _join(task.form, head, [(p, i) for i, p in enumerate(pieces)], questions)

    facts = [encode((" " if i or not task.head else "") + fact) for i, fact in enumerate(task.facts)]
    room = maker.n_tokens - reserve - len(head) - sum(map(len, facts))
    sentences = haystack.take(room, rng)
    places = _places(task, maker, len(sentences), rng)
    pieces_out: list[tuple[list[int], int]] = []
    for at in range(len(sentences) + 1):
        pieces_out += [(facts[i], i) for i, place in enumerate(places) if place == at]
        if at < len(sentences):
            pieces_out.append((sentences[at], -1))
    return _join(task.form, head, pieces_out, questions)


def _places(task: Task, maker: Maker, n_sentences: int, rng: Rng) -> list[int]:
    """For each fact, the sentence it stands before, rising."""
    n = len(task.facts)
    if not maker.depths:
        return [int(p) for p in np.sort(rng.integers(0, n_sentences + 1, n))]
    fixed = {min(q.needs): round(depth * n_sentences) for q, depth in zip(task.questions, maker.depths, strict=False)}
    places: list[int] = []
    for i in range(n):
        if i in fixed:
            places.append(fixed[i])
            continue
        low = max((at for fact, at in fixed.items() if fact < i), default=0)
        high = min((at for fact, at in fixed.items() if fact > i), default=n_sentences)
        places.append(int(rng.integers(low, high + 1)))
    between = sorted(fixed)
    for first, last in zip(
        [-1, *between], [*between, n], strict=True
    ):  # the free facts between two fixed ones keep their order
        places[first + 1 : last] = sorted(places[first + 1 : last])
    return places


def _join(form: str, head: list[int], pieces: Sequence[tuple[list[int], int]], questions: list) -> Laid:  # type: ignore[type-arg]
    context, is_fact = list(head), [False] * len(head)
    spans: dict[int, tuple[int, int]] = {}
    for tokens, fact in pieces:
        if fact >= 0:
            spans[fact] = (len(context), len(context) + len(tokens))
        context += tokens
        is_fact += [fact >= 0] * len(tokens)
    return Laid(form, context, [spans[i] for i in range(len(spans))], questions, is_fact)
