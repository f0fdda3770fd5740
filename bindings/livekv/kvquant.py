"""The scalar reference of KVQuant on plain arrays: thresholds, codebooks, and what becomes of keys and values.
engine/kv/kv_kvquant.h has the formulas.

    lower, upper = livekv.kv.kvquant_key_ranges(k)          # k: float32 [H, n, D], before RoPE, of a calibration
    within = livekv.kv.kvquant_normalized(k, lower, upper)
    codebook = livekv.kv.kvquant_codebook(within, bits=4)
    keys = livekv.kv.kvquant_keys(other_k, lower, upper, codebook)
    error = other_k - keys.reconstruction
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from livekv import _livekv
from livekv._livekv import Error
from livekv.arguments import core_of, instances
from livekv.paths import path_bytes

if TYPE_CHECKING:
    from livekv.model import Model

__all__ = [
    "KVQuantCalibration",
    "KVQuantLayer",
    "KVQuantized",
    "kvquant_codebook",
    "kvquant_key_ranges",
    "kvquant_keys",
    "kvquant_normalized",
    "kvquant_value_ranges",
    "kvquant_values",
    "read_kvquant_calibration",
    "write_kvquant_calibration",
]

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class KVQuantized:
    """n tokens quantized. H: n_head_kv, D: head_dim."""

    outlier: npt.NDArray[np.bool_]
    """bool [H, n, D]: kept exactly, beyond the thresholds or of one of the first tokens."""
    codes: npt.NDArray[np.uint8]
    """uint8 [H, n, D]: places in the codebook; 0 of outliers."""
    middle: F32
    """float32, keys [H, D], values [n]: (lower + upper) / 2."""
    half_range: F32
    """float32, the same: (upper - lower) / 2."""
    reconstruction: F32
    """float32 [H, n, D]: middle + half_range * codebook[code]; an outlier itself."""


@dataclass(frozen=True)
class KVQuantLayer:
    """What a calibration says of a layer. L: 2 ** bits."""

    lower: F32
    """float32 [H, D]: below it a key is kept exactly."""
    upper: F32
    """float32 [H, D]: above it."""
    k_codebook: F32
    """float32 [L], ascending."""
    v_codebook: F32


@dataclass(frozen=True)
class KVQuantCalibration:
    """A calibration as its file has it."""

    bits: int
    model: dict[str, str]
    """What tells the model from others: names and values."""
    layers: tuple[KVQuantLayer, ...]


def kvquant_key_ranges(k: F32) -> tuple[F32, F32]:
    """(lower, upper), float32 [H, D] each: the 0.5 % and 99.5 % quantiles of each channel of k (numpy's method
    nearest). k: float32 [H, n, D], contiguous and finite. Raises Error for anything else."""
    return _livekv.kvquant_key_ranges(k)


def kvquant_value_ranges(v: F32) -> tuple[F32, F32]:
    """The same of each token of v over all heads and channels: float32 [n] each."""
    return _livekv.kvquant_value_ranges(v)


def kvquant_normalized(x: F32, lower: F32, upper: F32) -> F32:
    """What of x [H, n, D] lies within its thresholds, keys' [H, D] or values' [n], normalized: float32, in one
    dimension. That is (x - middle) / half_range, or 0 where that is 0. Raises Error for other shapes."""
    try:
        x, low, high = (np.asarray(one, np.float32) for one in (x, lower, upper))
    except (TypeError, ValueError):
        raise Error("x, lower and upper must be numbers") from None
    if x.ndim != 3 or low.shape != high.shape or low.shape not in ((x.shape[0], x.shape[2]), (x.shape[1],)):
        raise Error(f"x is {x.shape}, lower {low.shape}, upper {high.shape}; they must be [H, n, D], and [H, D] or [n]")
    each = (slice(None), None, slice(None)) if low.ndim == 2 else (None, slice(None), None)
    low, high = low[each], high[each]
    half = np.float32(0.5) * (high - low)
    shifted = x - np.float32(0.5) * (low + high)
    scaled = np.divide(shifted, half, out=np.zeros_like(shifted), where=half > 0)
    within: F32 = scaled[(x >= low) & (x <= high)]
    return within


def kvquant_codebook(normalized: F32, bits: int) -> F32:
    """What k-means makes of numbers in one dimension: float32 [2 ** bits], ascending. bits: 2, 3 or 4. Raises Error
    for other bits, no numbers, and such that are not finite."""
    return _livekv.kvquant_codebook(normalized, bits)


def kvquant_keys(k: F32, lower: F32, upper: F32, codebook: F32, *, n_exact: int = 1) -> KVQuantized:
    """Keys before RoPE, float32 [H, n, D], contiguous and finite, by thresholds [H, D]. n_exact: the first tokens that
    are kept exactly, 1 of a sequence's beginning. Raises Error for other shapes."""
    made = _livekv.kvquant_quantize(k, lower=lower, upper=upper, codebook=codebook, by_channel=True, n_exact=n_exact)
    return KVQuantized(**made)


def kvquant_values(v: F32, codebook: F32, *, n_exact: int = 1) -> KVQuantized:
    """Values likewise, by thresholds of their own tokens over all heads."""
    lower, upper = kvquant_value_ranges(v)
    made = _livekv.kvquant_quantize(v, lower=lower, upper=upper, codebook=codebook, by_channel=False, n_exact=n_exact)
    return KVQuantized(**made)


def write_kvquant_calibration(
    path: str | os.PathLike[str], model: Model, layers: Sequence[KVQuantLayer], *, bits: int
) -> None:
    """A calibration for this model as a file (engine/store/kv_calibration.h), which is whole or untouched. Raises Error
    when layers are not those of the model, and when the file cannot be written."""
    given = instances("layers", layers, KVQuantLayer)
    fields = [(one.lower, one.upper, one.k_codebook, one.v_codebook) for one in given]
    _livekv.write_kvquant_calibration(path_bytes(path), core_of("model", model, _livekv.Model), bits, fields)


def read_kvquant_calibration(path: str | os.PathLike[str]) -> KVQuantCalibration:
    """Raises Error when there is no such file, or it is no calibration, torn, or damaged."""
    raw = _livekv.read_kvquant_calibration(path_bytes(path))
    return KVQuantCalibration(raw["bits"], raw["model"], tuple(KVQuantLayer(*one) for one in raw["layers"]))
