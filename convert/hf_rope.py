"""Rotary positions in config.json -> what a GGUF says of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from convert_error import ConvertError
from families import Family
from json_fields import Fields

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
    "original_max_position_embeddings",
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
    path: str  # of the object it was read from, "" where there is none
    theta: float
    theta_window: float | None = None  # of layers that see a window, where they have one of their own
    linear_factor: float | None = None
    yarn: Yarn | None = None
    freqs: np.ndarray | None = None  # float32 [n_rot / 2], divisors of the rotation frequencies
    n_rot: int = 0  # channels of a head that are turned
    long: LongRope | None = None


def read_rope(fields: Fields, head_dim: int, n_ctx: int, family: Family) -> Rope:
    by_kind = family.pattern > 0  # layers that see a window have a RoPE of their own, which is never scaled
    rope, local = _rope_fields(fields, by_kind)
    theta = 1e6 if by_kind else 10000.0
    out = Rope(rope.path, positive(rope if "rope_theta" in rope else fields, "rope_theta", theta))
    if by_kind:
        where, key = (local, "rope_theta") if "rope_theta" in local else (fields, "rope_local_base_freq")
        out.theta_window = positive(where, key, 10000.0)
        if _kind(local) != "default":
            raise local.wrong("rope_type", "default in layers that see a window")
    part = (rope if "partial_rotary_factor" in rope else fields).number("partial_rotary_factor", 1.0)
    out.n_rot = int(head_dim * part) if 0 < part <= 1 else 0
    if part != 1.0 and (not family.partial_rope or out.n_rot < 2 or out.n_rot % 2):
        raise ConvertError(f"partial_rotary_factor {part} is not supported")
    if family.partial_rope and _kind(rope) in ("longrope", "su"):
        out.long = _long(rope, fields, out.n_rot, n_ctx)
    else:
        _set_scaling(out, rope, out.n_rot, n_ctx)
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


def _rope_fields(fields: Fields, by_kind: bool) -> tuple[Fields, Fields]:
    """transformers takes rope_scaling, and rope_parameters where that is absent or empty; of all layers that see all,
    and of those that see a window."""
    none = Fields({}, fields.file)
    for key in ("rope_scaling", "rope_parameters"):
        rope = fields.object(key)
        if rope is None or not rope.data:
            continue
        if by_kind and any(kind in rope.data for kind in KINDS):
            full, local = (rope.object(kind) or none for kind in KINDS)
            for name in rope.data.keys() - set(KINDS):
                raise rope.wrong(name, "nothing but " + " and ".join(KINDS))
        else:
            full, local = rope, none
        for part in (full, local):
            _refuse_unknown(part)
        return full, local
    return none, none


def _refuse_unknown(rope: Fields) -> None:
    for name, value in rope.data.items():
        if value is not None and name not in USED + HARMLESS + YARN_ONLY:
            raise rope.wrong(name, "none: it is not known, and may change the predictions")


def _kind(rope: Fields) -> str:
    return rope.text("rope_type", rope.text("type", "default"))


def _set_scaling(out: Rope, rope: Fields, head_dim: int, n_ctx: int) -> None:
    kind = _kind(rope)
    if kind == "default":
        return
    if kind == "linear":
        out.linear_factor = positive(rope, "factor")
    elif kind == "yarn":
        out.yarn = _yarn(rope, n_ctx)
        if out.theta <= 1:
            raise rope.wrong("rope_theta", "more than 1 with YaRN")
    elif kind == "llama3":
        out.freqs = llama3_rope_freqs(
            head_dim,
            out.theta,
            positive(rope, "factor"),
            positive(rope, "low_freq_factor"),
            positive(rope, "high_freq_factor"),
            positive(rope, "original_max_position_embeddings", n_ctx),
        )
    else:
        raise ConvertError(f"RoPE scaling '{kind}' is not supported (linear, yarn and llama3 are)")


def _long(rope: Fields, fields: Fields, n_rot: int, n_ctx: int) -> LongRope:
    where = fields if "original_max_position_embeddings" in fields else rope
    n_ctx_orig = where.integer("original_max_position_embeddings", n_ctx)
    if not 2 <= n_ctx_orig < 1 << 32:
        raise where.wrong("original_max_position_embeddings", "a number of tokens")
    factor = positive(rope, "factor", n_ctx / n_ctx_orig)
    usual = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(n_ctx_orig))
    divisors = []
    for key in ("short_factor", "long_factor"):
        values = rope.list(key) or []
        if len(values) != n_rot // 2:
            raise rope.wrong(key, f"{n_rot // 2} numbers")
        divisors.append(np.array([positive(Fields({key: x}, rope.file, rope.path), key) for x in values], np.float32))
    return LongRope(n_ctx_orig, positive(rope, "attention_factor", usual), *divisors)


def _yarn(rope: Fields, n_ctx: int) -> Yarn:
    n_ctx_orig = rope.integer("original_max_position_embeddings", n_ctx)
    if not 1 <= n_ctx_orig < 1 << 32:
        raise rope.wrong("original_max_position_embeddings", "a number of tokens")
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
