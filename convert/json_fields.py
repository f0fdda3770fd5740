"""Fields of the JSON files of a Hugging Face folder, each of the type it must have.

`null` counts as absent, as transformers takes it; anything else of another type is refused with the file's and the
field's name.
"""

from __future__ import annotations

import math

from convert_error import ConvertError

_SHOWN = 60  # characters of a wrong value in a message


def wrong(file: str, key: str, value: object, expected: str) -> ConvertError:
    shown = repr(value)
    shown = shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."
    return ConvertError(f"{file}: {key} is {shown}, expected {expected}")


class Fields:
    """A JSON object of `file`; `path` is its place in it, "" for the whole of it."""

    def __init__(self, data: dict, file: str, path: str = "") -> None:
        self.data, self.file, self.path = data, file, path

    def __contains__(self, key: str) -> bool:
        return self.data.get(key) is not None

    def name(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def wrong(self, key: str, expected: str) -> ConvertError:
        return wrong(self.file, self.name(key), self.data.get(key), expected)

    def text(self, key: str, default: str | None = None) -> str | None:
        value = self.data.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.wrong(key, "a string")
        return value

    def flag(self, key: str, default: bool | None = None) -> bool | None:
        value = self.data.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def integer(self, key: str, default: int | None = None) -> int | None:
        value = self.data.get(key)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.wrong(key, "a whole number")
        return value

    def required_integer(self, key: str) -> int:
        value = self.integer(key)
        if value is None:
            raise self.wrong(key, "a whole number")
        return value

    def required_text(self, key: str) -> str:
        value = self.text(key)
        if value is None:
            raise self.wrong(key, "a string")
        return value

    def number(self, key: str, default: float | None = None) -> float | None:
        """Finite."""
        value = self.data.get(key)
        if value is None:
            return default
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise self.wrong(key, "a number")
        try:
            number = float(value)
        except OverflowError:  # a whole number beyond 1.8e308
            number = math.inf
        if not math.isfinite(number):
            raise self.wrong(key, "a number")
        return number

    def object(self, key: str) -> Fields | None:
        value = self.data.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.wrong(key, "an object")
        return Fields(value, self.file, self.name(key))

    def list(self, key: str) -> list | None:
        value = self.data.get(key)
        if value is None:
            return None
        if not isinstance(value, list):
            raise self.wrong(key, "a list")
        return value

    def objects(self, key: str) -> list[Fields]:
        """A list of objects; empty when absent."""
        found = []
        for i, value in enumerate(self.list(key) or []):
            if not isinstance(value, dict):
                raise wrong(self.file, f"{self.name(key)}[{i}]", value, "an object")
            found.append(Fields(value, self.file, f"{self.name(key)}[{i}]"))
        return found
