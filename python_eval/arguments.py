"""Kinds of command-line arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from .errors import EvalError

import convert_error  # isort: skip  (errors finds its folder)


def positive(text: str) -> int:
    """An integer of 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def named(flag: str) -> Callable[[str], Path]:
    """What reads a file's or a folder's name; EvalError for an empty one."""
    return convert_error.named(flag, EvalError)


def output(flag: str) -> Callable[[str], str]:
    """A file that is written in the end, or - for stdout. EvalError where that cannot be."""

    def target(text: str) -> str:
        path = named(flag)(text)
        if text != "-" and path.is_dir():
            raise EvalError(f"{flag}: cannot write {text}: it is a folder")
        if not path.parent.is_dir():
            raise EvalError(f"{flag}: cannot write {text}: its folder does not exist")
        return text

    return target


def numbers(text: str, flag: str, kind: type, low: float, high: float) -> list[float]:
    """A comma-separated list without duplicates, rising; EvalError for anything else or out of range."""
    try:
        values = sorted({kind(part) for part in text.split(",")})
    except ValueError:
        raise EvalError(f"{flag} is '{text}', expected numbers, comma separated") from None
    if wrong := [value for value in values if not low <= value <= high]:
        raise EvalError(f"{flag}: {wrong[0]:g} is out of range, {low:g} to {high:g} is allowed")
    return values
