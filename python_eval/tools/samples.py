"""The benchmark's contexts: functions, notes of a wanted length with facts at wanted depths, and requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from ..errors import EvalError
from ..testbed.haystack import made_up_sentence
from ..testbed.words import person
from .functions import FUNCTIONS, Value

# (system, user) -> the conversation's tokens up to where the answer begins
Render = Callable[[str, str], list[int]]

SHORTEST = 1024  # tokens: functions, facts and some text around them
MAX_ANSWER = 96  # tokens; the longest right answer takes about 60
OPENING = '{"name": "'  # given: what is measured is which call is made, not whether the model knows the form
ENDING = "}}"

_SYSTEM = """You answer a request with one call of a function, written as JSON, and nothing else. The values are in \
the notes about the person whom the request names. A boolean is true where the notes say yes, false where they say no. \
Numbers and booleans have no quotes. These are the functions:
{functions}

An example: for the function paint_door(door: integer, color: string, gloss: boolean) and the note "The door of Jim \
Sulak: door 7, color red, gloss yes." the answer to "Paint the door of Jim Sulak." is
{{"name": "paint_door", "arguments": {{"door": 7, "color": "red", "gloss": true}}}}"""
_SEED = 9_000_011


@dataclass(frozen=True)
class Request:
    prompt: list[int]  # what comes after the context, up to the answer's opening
    function: str
    arguments: dict[str, Value]
    depth: float


@dataclass(frozen=True)
class Context:
    """Functions and notes, and the requests made of them, each of the bare context."""

    length: int
    index: int
    tokens: list[int]
    requests: list[Request]


def make_contexts(
    render: Render,
    lengths: Sequence[int],
    depths: Sequence[float],
    n_contexts: int,
    n_functions: int,
    n_others: int,
    seed: int,
) -> Iterator[Context]:
    """Contexts of at most `length` tokens with request and answer; a function of the arguments alone.

    In each there is a fact for every depth (0: at the beginning), about a person of its own. `n_functions` are on
    offer. `n_others` more facts, of the same functions but other people, are asked for by nobody.
    """
    for length in lengths:
        for index in range(n_contexts):
            rng = np.random.default_rng([_SEED, seed, length, index])
            yield _context(render, length, index, depths, n_functions, n_others, rng)


def _context(
    render: Render,
    length: int,
    index: int,
    depths: Sequence[float],
    n_functions: int,
    n_others: int,
    rng: np.random.Generator,
) -> Context:
    offered = [FUNCTIONS[i] for i in rng.permutation(len(FUNCTIONS))[:n_functions]]
    system = _SYSTEM.format(functions="\n".join(function.signature() for function in offered))
    people: list[str] = []
    while len(people) < len(depths) + n_others:
        if (name := person(rng)) not in people:
            people.append(name)
    asked = [offered[i % len(offered)] for i in range(len(depths))]
    asked = [asked[i] for i in rng.permutation(len(asked))]
    values = [function.arguments(rng) for function in asked]
    facts = [function.told(who, given) for function, who, given in zip(asked, people, values, strict=False)]
    others = [asked[i % len(asked)] for i in range(n_others)]
    strangers = people[len(depths) :]
    decoys = [function.told(who, function.arguments(rng)) for function, who in zip(others, strangers, strict=True)]
    places = rng.random(n_others).tolist()
    # About a sentence for every eight tokens; half of them are never needed.
    filler = [made_up_sentence(rng).strip() for _ in range(length // 8)]

    def prompts(n_filler: int) -> list[list[int]]:
        notes = _laid(filler[:n_filler], [*zip(depths, facts, strict=True), *zip(places, decoys, strict=True)])
        requests = [function.request.format(person=who) for function, who in zip(asked, people, strict=False)]
        return [render(system, f"These are the notes.\n\n{notes}\n\nThe request: {request}") for request in requests]

    def fits(n_filler: int) -> bool:
        return max(map(len, prompts(n_filler))) + MAX_ANSWER <= length

    low, high = 0, len(filler)
    if not fits(low):
        raise EvalError(f"{len(facts) + n_others} facts and {n_functions} functions do not fit into {length} tokens")
    while low < high:  # the most sentences that fit
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    whole = prompts(low)
    shared = min(
        sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(whole[0], one, strict=False))) for one in whole
    )
    shared = min(shared, min(map(len, whole)) - 1)
    requests = [Request(one[shared:], function.name, given, depth)
                for one, function, given, depth in zip(whole, asked, values, depths, strict=True)]  # fmt: skip
    return Context(length, index, whole[0][:shared], requests)


def _laid(filler: Sequence[str], facts: Sequence[tuple[float, str]]) -> str:
    """The sentences with each fact after its share of the filler."""
    before: dict[int, list[str]] = {}
    for depth, fact in facts:
        before.setdefault(round(depth * len(filler)), []).append(fact)
    laid = [*before.get(0, [])]
    for number, sentence in enumerate(filler, 1):
        laid += [sentence, *before.get(number, [])]
    return " ".join(laid)
