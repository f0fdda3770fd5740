"""What is searched: options of a policy with their values, as data.

Combinations that contradict each other are left in; the engine refuses them, and the search prunes what it refuses. An
option without effect next to another's value (the key group of a scale over the whole chunk) stays in too: a space of
one shape lets every method learn across all trials. Left out on purpose: `chunk-size`, since a chunk's own attention is
exact and a window of a few chunks would reward long ones; `seal-decode`, which a prefill does not see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import livekv

from ..errors import EvalError
from ..specs import canonical

Value = str | int | float


class Suggester(Protocol):
    """What a space asks of an Optuna trial."""

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> str: ...

    def suggest_int(self, name: str, low: int, high: int) -> int: ...

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    option: str
    values: tuple[str, ...]

    def suggest(self, trial: Suggester) -> Value:
        return trial.suggest_categorical(self.option, self.values)

    def holds(self, value: str) -> bool:
        return value in self.values

    def read(self, value: str) -> Value:
        return value


@dataclass(frozen=True)
class Whole:
    """A whole number, both ends included."""

    option: str
    low: int
    high: int

    def suggest(self, trial: Suggester) -> Value:
        return trial.suggest_int(self.option, self.low, self.high)

    def holds(self, value: str) -> bool:
        return self.low <= int(value) <= self.high

    def read(self, value: str) -> Value:
        return int(value)


@dataclass(frozen=True)
class Real:
    """A real number in steps, or evenly in its logarithm."""

    option: str
    low: float
    high: float
    step: float | None = None
    log: bool = False

    def suggest(self, trial: Suggester) -> Value:
        return trial.suggest_float(self.option, self.low, self.high, step=self.step, log=self.log)

    def holds(self, value: str) -> bool:
        return self.low <= float(value) <= self.high

    def read(self, value: str) -> Value:
        return float(value)


Parameter = Choice | Whole | Real
BITS = ("2", "3", "4", "5", "8")
KEY_BITS, VALUE_BITS = "k-bits", "v-bits"  # the two values of kv-bits
KEY_QUARTERS = "key-quarters"

SPACE: tuple[Parameter, ...] = (
    Choice(KEY_BITS, BITS),
    Choice(VALUE_BITS, BITS),
    Choice("scale-method", ("ema_clipped", "range", "ema_absmax", "ema_minmax")),
    Choice("key-group", ("32", "64", "128", "256", "chunk")),
    Choice("zero-point", ("on", "off")),
    Choice("rotate", ("none", "k", "v", "kv")),
    # Widths of key channels, where nothing else excludes them.
    Choice("key-alloc", ("auto", "off")),
    Choice(KEY_QUARTERS, ("0", "1", "2", "3")),
    # Outliers are whole entries of a column: finer steps would mostly be the same cache.
    Real("outlier-ratio", 0.0, 0.03, step=0.0025),
    Real("v-outlier-ratio", 0.0, 0.03, step=0.0025),
    Real("ema-alpha", 0.01, 1.0, log=True),
    Real("clip-factor", 1.0, 16.0, log=True),
    Choice("sink-tokens", ("0", "1", "4", "16", "64")),
    # Exact keys of a longer warm-up would be read for most of a window, and sealed, so not counted, at its end.
    Whole("warmup-chunks", 0, 2),
    Choice("warmup-keep", ("off", "on")),
    Choice("bypass-layers", ("0", "1", "2", "auto")),
    Choice("bypass-type", ("q8_0", "f16")),
)


STREAM_BITS = ("2", "3", "4", "5", "8")
STREAM_SPACE: tuple[Parameter, ...] = (
    Choice("key-bits-normal", STREAM_BITS),
    Choice("value-bits-normal", STREAM_BITS),
    Real("ema-decay", 0.85, 0.99, step=0.01),
    Whole("sink-tokens", 2, 8),
    Real("outlier-threshold-relative", 2.0, 4.0, step=0.25),
    Choice("outlier-detection", ("on", "off")),
    Choice("stream-range", ("cover", "ema", "own")),
    Choice("pre-rope", ("on", "off")),
)

GUIDED_SPACE: tuple[Parameter, ...] = (
    Real("alpha", 0.2, 0.6, step=0.05),
    Real("beta", 0.1, 0.5, step=0.05),
    Real("gamma", 0.1, 0.5, step=0.05),
    Real("theta-h", 0.6, 0.8, step=0.05),
    Real("theta-m", 0.2, 0.4, step=0.025),
    Choice("level-bits", ("8,4,2", "8,4,3", "8,5,2", "8,5,3", "5,4,2", "8,4,0")),
    Choice("propagate", ("off", "cache", "layers")),
    Real("early-ratio", 0.6, 1.0, step=0.1),
    Real("middle-ratio", 0.4, 0.8, step=0.1),
    Real("later-ratio", 0.2, 0.6, step=0.1),
    Choice("budget", ("tokens", "bits")),
    Choice("guide-norm", ("minmax", "zscore")),
    Choice("key-axis", ("channel", "token")),
    Choice("protect", ("on", "off")),
    Choice("min-class", ("0", "32")),
)

SPACES: dict[str, tuple[Parameter, ...]] = {"livekv": SPACE, "kvstream": STREAM_SPACE, "guided": GUIDED_SPACE}


def space_of(policy: str) -> tuple[Parameter, ...]:
    """What is searched of a policy; EvalError names the ones that are."""
    if policy not in SPACES:
        raise EvalError(f"--policy '{policy}' is not one of {', '.join(SPACES)}")
    return SPACES[policy]


def fixed(space: Sequence[Parameter], values: Sequence[str], policy: str = "livekv") -> tuple[Parameter, ...]:
    """The space with options held at one value each, option=value: its own, or any other of the policy's."""
    held = {one.option: one for one in space}
    for text in values:
        option, equals, value = text.partition("=")
        if not option or not equals or not value:
            raise EvalError(f"--fix '{text}' is not OPTION=VALUE")
        if policy != "livekv" or option not in (KEY_BITS, VALUE_BITS):
            canonical(f"{policy}:{option}={value}")
        elif value not in BITS:
            raise EvalError(f"--fix '{text}': {option} is one of {', '.join(BITS)}")
        held[option] = Choice(option, (value,))
    return tuple(held.values())


def cache_spec(params: Mapping[str, Value], policy: str = "livekv") -> str:
    """The cache of a trial's parameters."""
    if policy != "livekv":
        return _spec(params, policy)
    rest = {option: value for option, value in params.items() if option not in (KEY_BITS, VALUE_BITS)}
    keys, values = params[KEY_BITS], params[VALUE_BITS]
    options = {"kv-bits": keys if keys == values else f"{keys},{values}", **rest}
    if not _has_widths(options):
        options.pop(KEY_QUARTERS, None)  # which are quarters of widths that there are not
    return _spec(options)


def _has_widths(options: Mapping[str, Value]) -> bool:
    """Whether key channels have widths of their own, which the engine alone decides."""
    try:
        canonical(_spec({**options, KEY_QUARTERS: "1"}))
    except livekv.Error:
        return False
    return True


def _spec(options: Mapping[str, Value], policy: str = "livekv") -> str:
    return ":".join([policy, *(f"{option}={_text(value)}" for option, value in options.items())])


def params_of(options: Mapping[str, str], space: Sequence[Parameter]) -> dict[str, Value] | None:
    """The parameters of a cache by its option values as text; None where the space does not reach one of them. Options
    that the space holds at one value have that."""
    values = dict(options)
    if values["kv"] == "livekv":
        keys, _, of_values = values["kv-bits"].partition(",")
        values |= {KEY_BITS: keys, VALUE_BITS: of_values or keys}
        if values["v-outlier-ratio"] == "same":
            values["v-outlier-ratio"] = values["outlier-ratio"]
    # What is held at one value is so for presets too.
    values |= {one.option: one.values[0] for one in space if isinstance(one, Choice) and len(one.values) == 1}
    if not all(one.holds(values[one.option]) for one in space):
        return None
    return {one.option: one.read(values[one.option]) for one in space}


def _text(value: Value) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
