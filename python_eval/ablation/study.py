"""What a study is: a baseline and what is changed about it, one setting at a time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """One change of the baseline, or another cache altogether."""

    name: str
    changes: str = ""  # option=value joined by `:`
    cache: str = ""  # a spec of its own, in place of changes
    published: float | None = None  # narrativeqa score, percent


@dataclass(frozen=True)
class Study:
    """A question, the cache it starts from, and the settings that answer it."""

    name: str
    question: str
    baseline: str
    settings: tuple[Setting, ...]


def sweep(option: str, *values: tuple[str, float | None]) -> tuple[Setting, ...]:
    """An option at several values, each with its published score or None."""
    return tuple(Setting(f"{option} {value}", f"{option}={value}", published=score) for value, score in values)


def free(option: str, *values: str) -> tuple[Setting, ...]:
    """An option at several values that nobody has published scores of."""
    return sweep(option, *((value, None) for value in values))
