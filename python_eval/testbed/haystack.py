"""What facts are hidden in: consecutive sentences of a text, or made-up prose where no text is at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from . import words

_LONGEST = 96  # tokens of a sentence; longer ones are left out

_PLAIN = [
    "The {adj} {animal} ran over the {place}.",
    "A {garment} lay on the {place} near the {plant}.",
    "In the morning there was {weather} over the {place}.",
    "Nobody spoke of the {adj} {building} any more.",
    "She put the {tool} beside the {food} and went home.",
    "The {animal} and the {animal2} slept under the {plant}.",
    "He wore a {colour} {garment} and carried a {tool}.",
    "They ate {food} in the {building} until the evening.",
    "It was a {adj} day, and the {weather} did not stop.",
    "The old {building} stood between the {plant} and the {place}.",
]
_ADJECTIVES = ["old", "small", "quiet", "dark", "bright", "cold", "warm", "long", "strange", "heavy"]
_PLACES = ["hill", "river", "road", "field", "garden", "wood", "bridge", "shore", "valley", "market"]
_GRASS = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n"


class Haystack:
    """Sentences as token lists; `take` gives about as many tokens as asked for, never more."""

    def __init__(self, sentences: Callable[[np.random.Generator], Sequence[list[int]]]) -> None:
        self._sentences = sentences

    def take(self, n_tokens: int, rng: np.random.Generator) -> list[list[int]]:
        taken: list[list[int]] = []
        used = 0
        while True:
            for sentence in self._sentences(rng):
                if used + len(sentence) > n_tokens:
                    return taken
                taken.append(sentence)
                used += len(sentence)


def sentence_ends(pieces: Sequence[bytes]) -> np.ndarray:
    """For each piece of a vocabulary, whether a sentence ends with it; bool [n_vocab]."""
    marks = tuple(mark + quote for mark in (b".", b"?", b"!") for quote in (b"", b'"'))
    return np.array([piece.rstrip(b"\n") in marks for piece in pieces])


def from_tokens(stream: np.ndarray, ends_sentence: np.ndarray) -> Haystack:
    """Consecutive sentences of a token stream from a random place on; `ends_sentence` marks ids that close one."""
    ends = np.flatnonzero(ends_sentence[stream]) + 1
    starts = np.concatenate(([0], ends[:-1]))
    short = ends - starts <= _LONGEST

    def sentences(rng: np.random.Generator) -> list[list[int]]:
        at = int(rng.integers(len(starts)))
        return [stream[starts[i] : ends[i]].tolist() for i in range(at, min(at + 400, len(starts))) if short[i]]

    return Haystack(sentences)


def made_up_sentence(rng: np.random.Generator) -> str:
    """A simple sentence, with a space in front."""
    values = {kind: words.pick(rng, some) for kind, some in words.KINDS.items()}
    values |= {"adj": words.pick(rng, _ADJECTIVES), "place": words.pick(rng, _PLACES)}
    values["animal2"] = words.pick(rng, words.KINDS["animal"])
    return " " + words.pick(rng, _PLAIN).format(**values)


def made_up(encode: Callable[[str], list[int]]) -> Haystack:
    """Simple sentences from templates."""
    return Haystack(lambda rng: [encode(made_up_sentence(rng)) for _ in range(16)])


def grass(encode: Callable[[str], list[int]]) -> Haystack:
    """The five sentences of the pass key test, again and again."""
    line = encode(_GRASS)
    return Haystack(lambda rng: [line] * 64)
