"""Cache options, as the engine declares them (engine/cache/kv_option_table.cpp): names, defaults, ranges and help are
said there and nowhere else. options.pyi tells type checkers the fields."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from livekv import _livekv
from livekv._livekv import Error

# Fields that are not called as their flag without dashes.
_FIELD_OF_FLAG = {"--kv": "policy", "--kv-error": "measure_error"}


@dataclass(frozen=True)
class KVOption:
    """One row of the table of cache options."""

    flag: str
    """As on the command line: `--chunk-size`."""
    field: str
    """In KVOptions: `chunk_size`."""
    default: Any
    """What the field holds unless told otherwise."""
    range: str
    """What it may be, in words: `32..4096`."""
    help: str


def _field_of(flag: str) -> str:
    return _FIELD_OF_FLAG.get(flag, flag.removeprefix("--").replace("-", "_"))


def _value_of(kind: str, text: str) -> Any:
    """The field's value for an option's text; kind: what help calls the option's value, empty for a switch."""
    if kind == "":
        return text == "on"
    if kind == "on|off":
        return text == "on"
    if kind in ("N", "X"):  # or the word that stands for a number
        try:
            return int(text) if kind == "N" else float(text)
        except ValueError:
            return text
    return text


def _text_of(value: Any) -> str:
    """An option's text as it would be typed."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return repr(float(value))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(str, value))
    return str(value)


_ROWS = [row for row in _livekv.kv_option_rows() if not row["is_preset"]]
_KIND = {row["flag"]: row["value"] for row in _ROWS}
_FLAG_OF_FIELD = {_field_of(flag): flag for flag in _KIND}


def kv_options_table() -> list[KVOption]:
    """Every cache option, in the order of the command line's help."""
    return [
        KVOption(
            row["flag"], _field_of(row["flag"]), _value_of(row["value"], row["default"]), row["range"], row["help"]
        )
        for row in _ROWS
    ]


def _arguments(values: Mapping[str, Any]) -> list[str]:
    """The command line's arguments for fields and their values."""
    arguments = []
    for field, value in values.items():
        if field not in _FLAG_OF_FIELD:
            raise Error(f"there is no cache option '{field}'; livekv.kv_options_table() lists them")
        flag = _FLAG_OF_FIELD[field]
        if _KIND[flag] == "":
            if not isinstance(value, bool):
                raise Error(f"{flag}: {value!r} is not one of True, False")
            arguments += [flag] if value else []
        else:
            arguments += [flag, _text_of(value)]
    return arguments


def _fields_from(arguments: list[str]) -> dict[str, Any]:
    """All fields as the engine has them after these arguments. Raises Error as the command line does."""
    values = _values_in(_livekv.kv_option_rows(arguments))
    return values | {_field_of(flag): flag in arguments for flag, kind in _KIND.items() if kind == ""}


def _values_in(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Fields and values of the engine's rows; of switches, which have no text, always False."""
    return {_field_of(row["flag"]): _value_of(row["value"], row["default"]) for row in rows if not row["is_preset"]}


class _KVOptionsBase:
    def __post_init__(self) -> None:
        for field, value in _fields_from(self._arguments()).items():  # checked, and in one form
            object.__setattr__(self, field, value)

    def _arguments(self) -> list[str]:
        return _arguments(dataclasses.asdict(self))  # type: ignore[call-overload]

    @classmethod
    def _from_rows(cls, rows: list[dict[str, Any]], **switches: bool) -> Any:
        return cls(**_values_in(rows) | switches)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Any:
        return cls(**_fields_from(["--preset", name, *_arguments(changes)]))

    @classmethod
    def parse(cls, spec: str) -> Any:
        name, *settings = spec.split(":")
        arguments = []
        if name in _livekv.kv_preset_names():
            arguments += ["--preset", name]
        elif name in _livekv.kv_policy_names():
            arguments += ["--kv", name]
        else:
            known = ", ".join([*_livekv.kv_policy_names(), *_livekv.kv_preset_names()])
            raise Error(f"cache '{spec}': '{name}' is neither a policy nor a preset; there are {known}")
        given = set()
        for setting in settings:
            option, equals, value = setting.partition("=")
            flag = f"--{option}"
            if flag not in _KIND or flag == "--kv":
                raise Error(f"cache '{spec}': there is no option '{option}'; the command line's help lists them")
            if flag in given:
                raise Error(f"cache '{spec}': {option} is given twice")
            given.add(flag)
            if _KIND[flag] == "":
                if value not in ("on", "off") and equals:
                    raise Error(f"cache '{spec}': {flag}: '{value}' is not one of on, off")
                arguments += [flag] if value != "off" else []
            elif not equals:
                raise Error(f"cache '{spec}': {option} needs a value")
            else:
                arguments += [flag, value]
        try:
            return cls(**_fields_from(arguments))
        except Error as problem:
            raise Error(f"cache '{spec}': {problem}") from None

    @property
    def spec(self) -> str:
        parts = [self.policy]  # type: ignore[attr-defined]
        for row in kv_options_table():
            value = getattr(self, row.field)
            if row.field != "policy" and value != row.default:
                parts.append(f"{row.flag.removeprefix('--')}={_text_of(value)}")
        return ":".join(parts)

    def replace(self, **changes: Any) -> Any:
        unknown = set(changes) - set(_FLAG_OF_FIELD)
        if unknown:
            raise Error(f"there is no cache option '{unknown.pop()}'; livekv.kv_options_table() lists them")
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]


def _doc() -> str:
    lines = ["How keys and values are stored. Raises livekv.Error for what the command line refuses.", ""]
    for row in kv_options_table():
        facts = "; ".join(filter(None, [row.range, f"default {row.default}"]))
        lines.append(f"{row.field}: {row.help} ({facts})")
    return "\n".join(lines)


KVOptions = dataclasses.make_dataclass(
    "KVOptions",
    [(row.field, Any, dataclasses.field(default=row.default)) for row in kv_options_table()],
    bases=(_KVOptionsBase,),
    frozen=True,
)
KVOptions.__module__ = __name__
KVOptions.__doc__ = _doc()


def parse_kv_list(text: str) -> list[tuple[str, Any]]:
    """The caches of a comma-separated list of specs, each with the text it was given by. A piece that begins with a
    number continues the value before it: `f16,livekv:kv-bits=4,3,q8_0` are three. Raises Error for an unknown or
    doubled one."""
    specs: list[str] = []
    for piece in map(str.strip, text.split(",")):
        if piece == "":
            raise Error(f"'{text}' has an empty place where a cache should be")
        if specs and "=" in specs[-1] and piece.partition(":")[0].isdigit():
            specs[-1] += f",{piece}"
        else:
            specs.append(piece)
    doubled = {spec for spec in specs if specs.count(spec) > 1}
    if doubled:
        raise Error(f"cache '{doubled.pop()}' is listed twice")
    return [(spec, KVOptions.parse(spec)) for spec in specs]  # type: ignore[attr-defined]
