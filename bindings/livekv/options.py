"""Cache options, as the engine declares them (engine/policy/kv_option_fields.h): names, defaults, ranges and help are
said there and nowhere else. options.pyi tells type checkers the fields."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from livekv import _livekv
from livekv._livekv import Error
from livekv.arguments import shown, text_of


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


_TABLE = [KVOption(**row) for row in _livekv.kv_option_rows()]


def kv_options_table() -> list[KVOption]:
    """Every cache option, in the order of the command line's help."""
    return list(_TABLE)


def _text_of(value: Any) -> str:
    """A value as a spec has it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value)


class _KVOptionsBase:
    def __post_init__(self) -> None:
        for field, value in self._core().values().items():  # checked, and in one form
            object.__setattr__(self, field, value)

    def _core(self) -> _livekv.CacheOptions:
        """The engine's form of these options."""
        return _livekv.CacheOptions(vars(self))

    @classmethod
    def _of(cls, core: _livekv.CacheOptions) -> Any:
        return cls(**core.values())

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Any:
        return cls._of(_livekv.CacheOptions(changes, name))

    @classmethod
    def parse(cls, spec: str) -> Any:
        return cls._of(_livekv.CacheOptions.parse(spec))

    @property
    def spec(self) -> str:
        parts = [self.policy]  # type: ignore[attr-defined]
        for row in _TABLE:
            value = getattr(self, row.field)
            if row.field != "policy" and value != row.default:
                parts.append(f"{row.flag.removeprefix('--')}={_text_of(value)}")
        return ":".join(parts)

    @property
    def compresses(self) -> bool:
        """Whether chunks are sealed, not kept as rows of one type."""
        return self._core().compresses()

    @property
    def can_be_stored(self) -> bool:
        """Whether a livekv.ChunkStore keeps such caches."""
        return self._core().can_be_stored()

    @property
    def chunk_tokens(self) -> int:
        """Tokens of a full chunk, and the most of a prompt that are processed together."""
        return self._core().chunk_tokens()

    def replace(self, **changes: Any) -> Any:
        return self._of(_livekv.CacheOptions(vars(self) | changes))


def _doc() -> str:
    lines = ["How keys and values are stored. Raises livekv.Error for what the command line refuses.", ""]
    for row in _TABLE:
        facts = "; ".join(filter(None, [row.range, f"default {row.default}"]))
        lines.append(f"{row.field}: {row.help} ({facts})")
    return "\n".join(lines)


KVOptions = dataclasses.make_dataclass(
    "KVOptions",
    [(row.field, Any, dataclasses.field(default=row.default)) for row in _TABLE],
    bases=(_KVOptionsBase,),
    frozen=True,
)
KVOptions.__module__ = __name__
KVOptions.__doc__ = _doc()


def kv_options_of(kv: Any, name: str = "kv") -> Any:
    """KVOptions as they are given: as such, as a spec, or None for the defaults. Raises Error for anything else."""
    if isinstance(kv, KVOptions):
        return kv
    if kv is not None and not isinstance(kv, str):
        raise Error(f"{name} is {shown(kv)}; it must be livekv.KVOptions, or a spec such as 'livekv:kv-bits=3'")
    return KVOptions() if kv is None else KVOptions.parse(kv)  # type: ignore[attr-defined]


def parse_kv_list(text: str) -> list[tuple[str, Any]]:
    """The caches of a comma-separated list of specs, each with the text it was given by. A piece that begins with a
    number continues the value before it: `f16,livekv:kv-bits=4,3,q8_0` are three. Raises Error for an unknown or
    doubled one."""
    specs: list[str] = []
    for piece in map(str.strip, text_of("a list of caches", text).split(",")):
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
