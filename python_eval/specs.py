"""Cache specs, NAME[:option=value]..., taken apart and put together."""

from __future__ import annotations

from collections.abc import Mapping

import livekv

from .errors import EvalError


def canonical(spec: str) -> str:
    """The one form of a cache that any spec of it has; livekv.Error for what the engine refuses."""
    return spec_of(livekv.KVOptions.parse(spec))


def spec_of(kv: livekv.KVOptions) -> str:
    """The canonical spec of options."""
    return str(kv.spec)


def changed(spec: str, changes: Mapping[str, str]) -> str:
    """`spec` with options set to other values, by their names without the leading dashes."""
    name, *parts = spec.split(":")
    options = dict(_split(part) for part in parts)
    return ":".join([name, *(f"{option}={value}" for option, value in {**options, **changes}.items())])


def parse_changes(text: str) -> dict[str, str]:
    """{option: value} of option=value[:option=value]..."""
    return dict(_split(part) for part in text.split(":"))


def _split(part: str) -> tuple[str, str]:
    option, equals, value = part.partition("=")
    if not option or not equals or not value:
        raise EvalError(f"'{part}' is not option=value")
    return option, value
