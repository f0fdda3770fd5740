"""The benchmark's samples: contexts of a wanted length with questions at wanted depths, as token ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import EvalError
from ..testbed import haystack
from ..testbed.clean_text import load_texts
from ..testbed.layout import layout
from ..testbed.task import Maker
from ..testbed.tasks import FORMS

Encode = Callable[[str], list[int]]

# Several questions, one at each depth, are asked of one context: reading it is what takes the time.
ONE_CONTEXT = ("multi_key", "key_value", "people", "copy_span")
# The answer is everywhere in the context.
NO_DEPTH = ("count_word", "common_words", "few_shot")
SHORTEST = 192  # tokens: below, some tasks' facts and questions do not fit
_SEED = 1_000_003  # keeps the samples apart from those of training


@dataclass(frozen=True)
class Asked:
    prompt: list[int]
    answer: list[int]
    depth: float | None  # as asked for; None where the task has none


@dataclass(frozen=True)
class Sample:
    """A context (with <bos>) and the questions asked of it, each of the bare context."""

    task: str
    length: int
    index: int
    context: list[int]
    questions: list[Asked]


def make_samples(
    encode: Encode,
    bos: int | None,
    hay: haystack.Haystack,
    tasks: Sequence[str],
    lengths: Sequence[int],
    depths: Sequence[float],
    n_samples: int,
    seed: int,
) -> Iterator[Sample]:
    """Samples of at most `length` tokens with question and answer; a function of the arguments alone."""
    grass = haystack.grass(encode)
    for length in lengths:
        for task in tasks:
            if task in NO_DEPTH:
                groups: list[tuple[float, ...]] = [()]
            else:
                groups = [tuple(depths)] if task in ONE_CONTEXT else [(depth,) for depth in depths]
            for index in range(n_samples):
                for group, at in enumerate(groups):
                    rng = np.random.default_rng([_SEED, seed, list(FORMS).index(task), length, index, group])
                    plain = grass if task == "passkey" else hay
                    yield _sample(encode, bos, plain, task, length, index, at, rng)


def _sample(
    encode: Encode,
    bos: int | None,
    hay: haystack.Haystack,
    task: str,
    length: int,
    index: int,
    depths: tuple[float, ...],
    rng: np.random.Generator,
) -> Sample:
    start = [] if bos is None else [bos]
    room = length - len(start)
    while True:
        maker = Maker(encode, room, depths=depths, full=True)
        laid = layout(FORMS[task](maker, rng), maker, hay, rng, all_questions=False)
        if len(start) + laid.n_tokens <= length:
            break
        room -= 16  # a packed task's facts are counted before its question is known
        if room < SHORTEST // 2:
            raise EvalError(f"a {task} task does not fit into {length} tokens of this model's vocabulary")
    asked = [
        Asked(prompt, answer, depths[i] if depths else None) for i, (prompt, answer, _) in enumerate(laid.questions)
    ]
    return Sample(task, length, index, start + laid.context, asked)


def text_haystack(encode: Encode, pieces: Sequence[bytes], path: Path) -> haystack.Haystack:
    """Sentences of a text file; `pieces` are the bytes of each token of the vocabulary. EvalError for what is
    no such text."""
    text = load_texts([path])[0]
    stream = np.asarray(encode(text), np.int64)
    ends = haystack.sentence_ends(pieces)
    if np.count_nonzero(ends[stream]) < 50:
        raise EvalError(f"{path}: holds too few sentences to hide anything in")
    return haystack.from_tokens(stream, ends)
