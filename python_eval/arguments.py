"""Kinds of command-line arguments."""

from __future__ import annotations

import argparse

from .errors import EvalError


def positive(text: str) -> int:
    """An integer of 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def numbers(text: str, flag: str, kind: type, low: float, high: float) -> list[float]:
    """A comma-separated list without duplicates, rising; EvalError for anything else or out of range."""
    try:
        values = sorted({kind(part) for part in text.split(",")})
    except ValueError:
        raise EvalError(f"{flag} is '{text}', expected numbers, comma separated") from None
    if wrong := [value for value in values if not low <= value <= high]:
        raise EvalError(f"{flag}: {wrong[0]:g} is out of range, {low:g} to {high:g} is allowed")
    return values
