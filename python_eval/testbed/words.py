"""The words that generated tasks are made of: common English ones by kind, and invented names of people and places."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def _list(text: str) -> list[str]:
    return text.split()


FIRST_NAMES = _list(
    "Ada Albert Alice Anna Arthur Ben Bella Carl Clara Daniel Dora Edith Edward Ella Emma Eric Esther Felix Flora "
    "Frank George Grace Hannah Harold Helen Henry Hugo Ida Irene Isaac Ivan Jack James Jane John Julia Karl Kate "
    "Laura Leo Louis Lucy Maria Mark Martha Max Nina Nora Olga Oscar Otto Paul Peter Rosa Ruth Sam Sarah Simon Sofia "
    "Thomas Victor Vera Walter William"
)

KINDS = {
    "animal": _list(
        "dog cat horse cow sheep goat wolf fox bear lion mouse rabbit deer pig duck goose hen eagle owl fish"
    ),
    "plant": _list(
        "oak pine rose lily grass fern ivy elm ash birch willow moss tulip daisy reed thistle heather clover"
    ),
    "food": _list("bread cheese butter meat soup cake honey milk egg apple pear plum grape lemon onion bean rice pie"),
    "colour": _list("red blue green white black brown yellow grey pink purple golden silver scarlet crimson violet"),
    "tool": _list("hammer saw axe knife spade rope nail needle hook ladder wheel broom brush chain lock key pump"),
    "garment": _list("coat hat shirt shoe boot glove cloak gown belt scarf cap apron veil sleeve collar jacket"),
    "body": _list("hand foot head eye ear nose mouth arm leg knee finger shoulder neck heart chin elbow"),
    "metal": _list("gold iron copper steel tin lead brass bronze zinc nickel"),
    "weather": _list("rain snow wind storm fog frost hail thunder cloud mist"),
    "building": _list("house church castle barn tower bridge mill prison palace cottage school inn"),
}
ALL_WORDS = [word for kind in KINDS.values() for word in kind]
JOBS = _list(
    "baker farmer doctor lawyer sailor soldier teacher miller hunter painter tailor clerk priest judge nurse cook "
    "driver singer writer banker"
)
ATTRIBUTES = [
    "secret number", "pass code", "lucky number", "door code", "magic number", "badge number", "room number",
    "safe number", "house number", "ticket number",
]  # fmt: skip

_ONSETS = _list("b br d dr f fl g gr h j k kr l m n p pr r s st t tr v w z th sh")
_VOWELS = _list("a e i o u a e o ai ea")
_CODAS = _list("n r l s m k th nd rn st") + [""] * 8


def invented(rng: np.random.Generator, n_syllables: int | None = None) -> str:
    """A pronounceable word that (almost surely) no text holds, such as `Travoth`."""
    count = n_syllables or int(rng.integers(2, 4))
    parts = [pick(rng, _ONSETS) + pick(rng, _VOWELS) for _ in range(count)]
    return ("".join(parts) + pick(rng, _CODAS)).capitalize()


def person(rng: np.random.Generator) -> str:
    return f"{pick(rng, FIRST_NAMES)} {invented(rng)}"


def distinct(rng: np.random.Generator, make: Callable[[np.random.Generator], str], n: int) -> list[str]:
    """n different words from `make(rng)`."""
    found: dict[str, None] = {}
    while len(found) < n:
        found[make(rng)] = None
    return list(found)


def pick(rng: np.random.Generator, items: list[str]) -> str:
    return items[int(rng.integers(len(items)))]


def number(rng: np.random.Generator) -> str:
    """A number of four to six digits."""
    n_digits = int(rng.integers(4, 7))
    return str(int(rng.integers(10 ** (n_digits - 1), 10**n_digits)))
