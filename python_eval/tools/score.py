"""An answer against the call that was asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from .functions import Value


@dataclass(frozen=True)
class Score:
    call: bool  # function and arguments, nothing missing, nothing more
    function: bool
    arguments: float  # share of the right ones, with value and type; 0 where the function is another


def score(answer: str, function: str, arguments: Mapping[str, Value]) -> Score:
    """Of the first JSON object in the answer; what is no JSON is wrong."""
    try:
        given, _ = json.JSONDecoder().raw_decode(answer, answer.index("{"))
    except (ValueError, RecursionError):
        return Score(False, False, 0.0)
    found = given.get("arguments")
    if given.get("name") != function:
        return Score(False, False, 0.0)
    if not isinstance(found, dict):
        return Score(False, True, 0.0)
    right = [name in found and same(found[name], value) for name, value in arguments.items()]
    whole = all(right) and given.keys() == {"name", "arguments"} and found.keys() == arguments.keys()
    return Score(whole, True, sum(right) / len(right))


def same(given: object, value: Value) -> bool:
    """Equal in value and type: "3" is not 3, true is not 1."""
    return type(given) is type(value) and given == value
