"""Rotary positions in config.json -> what a GGUF says of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from convert_error import ConvertError
from families import Family
from json_fields import Fields

ORIGINAL = "original_max_position_embeddings"
# Keys of RoPE scaling that transformers reads for other kinds of it only.
HARMLESS = ("extrapolation_factor", "finetuned")
YARN_ONLY = ("beta_fast", "beta_slow", "mscale", "mscale_all_dim", "attention_factor", "truncate")
USED = (
    "rope_type",
    "type",
    "rope_theta",
    "partial_rotary_factor",
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    ORIGINAL,
    "short_factor",
    "long_factor",
)
KINDS = ("full_attention", "sliding_attention")  # of layers, which may have RoPE of their own


@dataclass
class Yarn:
    factor: float
    n_ctx_orig: int
    attn_factor: float  # of cos and sin, beside 1 + 0.1 ln(factor), which the engine multiplies with itself
    beta_fast: float
    beta_slow: float


@dataclass
class LongRope:
    n_ctx_orig: int  # contexts up to this take the short divisors, others the long ones
    attn_factor: float  # of cos and sin
    short: np.ndarray  # float32 [n_rot / 2]
    long: np.ndarray


@dataclass
class Rope:
    theta: float
    theta_window: float | None = None  # of layers that see a window, where they have one of their own
    linear_factor: float | None = None
    yarn: Yarn | None = None
    freqs: np.ndarray | None = None  # float32 [n_rot / 2], divisors of the rotation frequencies
    n_rot: int = 0  # channels of a head that are turned
    long: LongRope | None = None
    notes: list[str] = field(default_factory=list)  # on what is said and not read


def read_rope(fields: Fields, head_dim: int, n_ctx: int, family: Family) -> Rope:
    by_kind = family.pattern > 0  # layers that see a window have a RoPE of their own, which is never scaled
    notes: list[str] = []
    rope, local = _by_kind_of_layer(fields) if by_kind else (_of_all_layers(fields, notes), Fields({}, fields.file))
    for part in (rope, local):
        _refuse_unknown(part)
    theta = 1e6 if by_kind else 10000.0
    out = Rope(positive(rope if "rope_theta" in rope else fields, "rope_theta", theta), notes=notes)
    if by_kind:
        where, key = (local, "rope_theta") if "rope_theta" in local else (fields, "rope_local_base_freq")
        out.theta_window = positive(where, key, 10000.0)
        if _kind(local) != "default":
            raise local.wrong(_kind_key(local), "default in layers that see a window")
    part = (rope if "partial_rotary_factor" in rope else fields).number("partial_rotary_factor", 1.0)
    out.n_rot = int(head_dim * part) if 0 < part <= 1 else 0
    if part != 1.0 and (not family.partial_rope or out.n_rot < 2 or out.n_rot % 2):
        raise ConvertError(f"partial_rotary_factor {part} is not supported")
    _set_scaling(out, rope, fields, n_ctx, family)
    return out


def positive(fields: Fields, key: str, default: float | None = None) -> float:
    """A number whose float32, which is what the file holds, is finite and so far above 0 that its inverse is too."""
    value = fields.number(key, default)
    if value is None:
        raise ConvertError(f"RoPE scaling lacks {key}")
    with np.errstate(over="ignore"):
        stored = np.float32(value)
    if not (stored >= np.finfo(np.float32).tiny and np.isfinite(stored)):
        raise fields.wrong(key, "a positive number")
    return value


def _of_all_layers(fields: Fields, notes: list[str]) -> Fields:
    """rope_scaling, as transformers has it, or rope_parameters where that is absent or empty."""
    scaling, parameters = (fields.object(key) for key in ("rope_scaling", "rope_parameters"))
    if scaling is None or not scaling.data:
        return parameters or Fields({}, fields.file)
    if parameters is not None:
        notes.append("rope_scaling hides rope_parameters, as in transformers")
    return scaling


def _by_kind_of_layer(fields: Fields) -> tuple[Fields, Fields]:
    """Of the layers that see all, and of those that see a window: rope_parameters has an object for each, and what
    rope_scaling says goes over the former. transformers reads nothing else of the two, and it is refused here."""
    none = Fields({}, fields.file)
    scaling, parameters = fields.object("rope_scaling") or none, fields.object("rope_parameters") or none
    for name, value in parameters.data.items():
        if value is not None and name not in KINDS:
            raise parameters.wrong(name, "nothing but " + " and ".join(KINDS))
    for kind in KINDS:
        if kind in scaling:
            raise scaling.wrong(kind, "none: such objects are read in rope_parameters alone")
    full, local = (parameters.object(kind) or none for kind in KINDS)
    # Where there are no rope_parameters, transformers puts in those of no scaling before it looks for an older type.
    told = full.data.get("rope_type") if "rope_parameters" in fields else "default"
    if "type" in scaling and "rope_type" not in scaling and told not in (None, scaling.data["type"]):
        raise scaling.wrong("type", f"{told}: transformers goes by rope_type, which is that")
    if scaling.data:
        path = f"({full.path} and {scaling.path})" if full.data else scaling.path
        full = Fields(full.data | scaling.data, fields.file, path)
    return full, local


def _refuse_unknown(rope: Fields) -> None:
    for name, value in rope.data.items():
        if value is not None and name not in USED + HARMLESS + YARN_ONLY:
            raise rope.wrong(name, "none: it is not known, and may change the predictions")


def _kind(rope: Fields) -> str:
    return rope.text("rope_type", rope.text("type", "default"))


def _kind_key(rope: Fields) -> str:
    return "rope_type" if "rope_type" in rope else "type"


def _set_scaling(out: Rope, rope: Fields, fields: Fields, n_ctx: int, family: Family) -> None:
    kind = _kind(rope)
    if kind == "default":
        return
    if kind == "linear" and not family.only_longrope:
        out.linear_factor = positive(rope, "factor")
        return
    where, absent = _original(rope, fields, n_ctx, family, out.notes)
    if family.only_longrope:
        if kind not in ("longrope", "su", "yarn"):  # the latter two are older names of the former
            raise rope.wrong(_kind_key(rope), "default or longrope")
        out.long = _long(rope, where, out.n_rot, n_ctx, absent)
    elif kind == "yarn":
        out.yarn = _yarn(rope, where, n_ctx, absent)
        if out.theta <= 1:
            raise rope.wrong("rope_theta", "more than 1 with YaRN")
    elif kind == "llama3":
        out.freqs = llama3_rope_freqs(
            out.n_rot,
            out.theta,
            positive(rope, "factor"),
            positive(rope, "low_freq_factor"),
            positive(rope, "high_freq_factor"),
            positive(where, ORIGINAL, absent),
        )
    else:
        raise ConvertError(f"RoPE scaling '{kind}' is not supported (linear, yarn and llama3 are)")


def _original(rope: Fields, fields: Fields, n_ctx: int, family: Family, notes: list[str]) -> tuple[Fields, int]:
    """The object that says the original context, and what it is where that says none.

    transformers prefers the top of config.json, but does not look there where kinds of layers have RoPE of their own.
    """
    if family.pattern or (ORIGINAL not in fields and family.n_ctx_orig is None):
        return rope, n_ctx
    absent = family.n_ctx_orig or n_ctx
    value = fields.data[ORIGINAL] if ORIGINAL in fields else absent
    if ORIGINAL in rope and rope.data[ORIGINAL] != value:
        found = "the top of config.json has" if ORIGINAL in fields else "it is read at the top of config.json, else"
        notes.append(f"{rope.name(ORIGINAL)} is not read, as in transformers: {found} {value}")
    return fields, absent


def _long(rope: Fields, where: Fields, n_rot: int, n_ctx: int, absent: int) -> LongRope:
    n_ctx_orig = where.integer(ORIGINAL, absent)
    if not 2 <= n_ctx_orig < 1 << 32:
        raise where.wrong(ORIGINAL, "a number of tokens")
    factor = positive(rope, "factor", n_ctx / n_ctx_orig)
    usual = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(n_ctx_orig))
    divisors = []
    for key in ("short_factor", "long_factor"):
        values = rope.list(key) or []
        if len(values) != n_rot // 2:
            raise rope.wrong(key, f"{n_rot // 2} numbers")
        divisors.append(np.array([positive(Fields({key: x}, rope.file, rope.path), key) for x in values], np.float32))
    return LongRope(n_ctx_orig, positive(rope, "attention_factor", usual), *divisors)


def _yarn(rope: Fields, where: Fields, n_ctx: int, absent: int) -> Yarn:
    n_ctx_orig = where.integer(ORIGINAL, absent)
    if not 1 <= n_ctx_orig < 1 << 32:
        raise where.wrong(ORIGINAL, "a number of tokens")
    factor = positive(rope, "factor", n_ctx / n_ctx_orig)
    if factor < 1:
        raise rope.wrong("factor", "1 or more")
    if rope.flag("truncate", True) is not True:
        raise rope.wrong("truncate", "true")
    beta_fast = positive(rope, "beta_fast", 32.0) if rope.number("beta_fast") != 0 else 32.0
    beta_slow = positive(rope, "beta_slow", 1.0) if rope.number("beta_slow") != 0 else 1.0
    if np.float32(beta_fast) <= np.float32(beta_slow):
        raise rope.wrong("beta_fast", f"more than beta_slow, {beta_slow}")
    usual = _magnitude(factor, 1.0)
    wanted = rope.number("attention_factor")
    mscale, mscale_all_dim = rope.number("mscale"), rope.number("mscale_all_dim")
    if wanted is None:
        both = bool(mscale and mscale_all_dim)
        wanted = _magnitude(factor, mscale) / _magnitude(factor, mscale_all_dim) if both else usual
    if not wanted > 0:
        raise rope.wrong("attention_factor", "a positive number")
    return Yarn(factor, n_ctx_orig, wanted / usual, beta_fast, beta_slow)


def _magnitude(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def llama3_rope_freqs(
    head_dim: int, theta: float, factor: float, low_freq_factor: float, high_freq_factor: float, n_ctx_orig: float
) -> np.ndarray:
    """Divisors of the rotation frequencies, float32 [head_dim / 2], as published with Llama 3.1.

    Waves longer than the original context over low_freq_factor are stretched by `factor`, waves shorter than it over
    high_freq_factor are kept, and those between are blended by how many times they fit into the original context.
    """
    if not low_freq_factor < high_freq_factor:
        raise ConvertError(
            f"RoPE scaling: low_freq_factor {low_freq_factor} is not below high_freq_factor {high_freq_factor}"
        )
    wavelength = 2 * math.pi * theta ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    blend = (n_ctx_orig / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor)
    blend = np.clip(blend, 0.0, 1.0)  # 0: stretched, 1: kept
    return (1.0 / ((1.0 - blend) / factor + blend)).astype(np.float32)
