"""The methods themselves on plain arrays: the scalar references that the engine's kernels are tested against.

A stream seals one layer's keys, or values, of one sequence, chunk by chunk:

    keys = livekv.kv.KeyStream(livekv.KVOptions(kv_bits=3))
    sealed = keys.seal(chunk)                      # float32 [n_head_kv, n, head_dim]
    error = chunk - sealed.reconstruction

Widths of key channels are chosen by the mean squares of the queries that read them (docs/fidelity.md), which a session
keeps itself; a stream is told: `keys.seal(chunk, query_squares)`. Without them channels have one width.

The livekv method's equations 3-2 to 3-7 are written out in engine/kv/kv_stats.h and kv_quant.h. Rotation is not part of
it: rotate a chunk before it is sealed. Of options whose policy is kvstream (engine/kv/kv_stream.h) a stream gives
Streamed; whether its keys have been turned by RoPE is its caller's choice. Of options whose policy is kivi
(engine/kv/kv_kivi.h) it gives Grouped: of the tokens it was given so far, those that have left the window meanwhile.
A GuidedLayer decides from the queries of a prompt what one layer keeps of its tokens, and at how many bits
(engine/kv/kv_guided.h), as the policy guided does. fastkv_choose says which tokens FastKV's layers keep, and which
later layers see (engine/kv/kv_fastkv.h), and a FinchLayer what a layer keeps of a context for a question
(engine/kv/kv_finch.h). kvquant_keys and kvquant_values are KVQuant's, by thresholds and codebooks that
kvquant_key_ranges and kvquant_codebook make of a calibration's keys and values (engine/kv/kv_kvquant.h).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from livekv import _livekv
from livekv._livekv import Error
from livekv.arguments import instances
from livekv.fastkv import FastKVChoice, fastkv_choose
from livekv.finch import FinchChoice, FinchLayer
from livekv.guided import GuidedChunk, GuidedLayer, GuidedMethod, guided_statistics
from livekv.kinds import DENSE, DROPPED, EXACT, SEALED, SINK, TAIL
from livekv.kvquant import (
    KVQuantCalibration,
    KVQuantized,
    KVQuantLayer,
    kvquant_codebook,
    kvquant_key_ranges,
    kvquant_keys,
    kvquant_normalized,
    kvquant_value_ranges,
    kvquant_values,
    read_kvquant_calibration,
    write_kvquant_calibration,
)
from livekv.options import KVOptions, kv_options_of

__all__ = ["DENSE", "DROPPED", "EXACT", "SEALED", "SINK", "TAIL", "FastKVChoice", "FinchChoice", "FinchLayer",
           "Grouped", "GuidedChunk", "GuidedLayer", "GuidedMethod", "KVQuantCalibration", "KVQuantLayer", "KVQuantized",
           "KeyStream", "Sealed", "Streamed", "ValueStream", "fastkv_choose", "guided_statistics", "kvquant_codebook",
           "kvquant_key_ranges", "kvquant_keys", "kvquant_normalized", "kvquant_value_ranges", "kvquant_values",
           "read_kvquant_calibration", "stream_statistics", "write_kvquant_calibration"]  # fmt: skip

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Sealed:
    """A sealed chunk of n tokens. H: n_head_kv, D: head_dim, G: groups of tokens that share a key scale."""

    warmup: bool
    """Keys while the statistics settle: they stay exact, and what is None below does not exist."""
    reconstruction: F32
    """float32 [H, n, D]: (code - zero) * scale, or minimum + code * scale, then outliers and sinks written over it
    (3-7)."""
    outlier_index: npt.NDArray[np.int64]
    """int64 [m], ascending: places in the flat [H * n * D] chunk of what is kept exact, outliers and sinks."""
    outlier_value: F32
    """float32 [m]."""
    codes: npt.NDArray[np.int16] | None = None
    """int16 [H, n, D] (3-6); of outliers and sinks: the code nearest to 0."""
    scale: F32 | None = None
    """float32, keys [H, G, D], values [H, n, 1] (3-5)."""
    zero: npt.NDArray[np.int16] | None = None
    """int16, shaped as scale: the code of 0. None: codes are symmetric about 0."""
    minimum: F32 | None = None
    """float32 [H, G, D], of keys whose channels have widths of their own: what code 0 stands for."""
    order: npt.NDArray[np.uint16] | None = None
    """uint16 [H, D], with minimum: the channels in the block's order, four of a width together, the widest first."""
    width: npt.NDArray[np.uint8] | None = None
    """uint8 [H, D], with minimum: bits of each channel's codes."""
    absmax: F32 | None = None
    """float32: keys [H, 1, D], the clipped running maximum mu (3-4); values [H, n, 1], the token's own. None with
    ema_minmax, which has max and min."""
    max: F32 | None = None
    min: F32 | None = None
    n_saturated: int = 0
    """Dense entries beyond the range their codes cover."""


@dataclass(frozen=True)
class Streamed:
    """A chunk of n tokens sealed by kvstream. H: n_head_kv, D: head_dim, U: D, or the groups of value channels."""

    chunk_absmax: F32
    """float32 [H, U]: m, the largest magnitude over the chunk's tokens."""
    absmax: F32
    """float32 [H, U]: the running maximum mu, this chunk in it."""
    outlier: npt.NDArray[np.bool_]
    """bool [H, U]: flagged."""
    codes: npt.NDArray[np.int16]
    """int16 [H, n, D]; 0 where an entry has 16 bits."""
    bits: npt.NDArray[np.uint8]
    """uint8 [H, n, D]."""
    reconstruction: F32
    """float32 [H, n, D]: code * scale; of 16 bits, the entry itself."""
    scale_normal: F32 | None = None
    """float32 [H, U]; None where entries of these bits are kept as they are, as in scale_high."""
    scale_high: F32 | None = None

    @property
    def avg_bits(self) -> float:
        return float(self.bits.mean())


@dataclass(frozen=True)
class Grouped:
    """n tokens quantized by kivi, those that follow the ones before. H: n_head_kv, D: head_dim."""

    codes: npt.NDArray[np.uint8]
    """uint8 [H, n, D]."""
    scale: F32
    """float32, keys [H, n / 32, D], values [H, n, D / 32], rounded up."""
    low: F32
    """float32, shaped as scale: what code 0 stands for."""
    reconstruction: F32
    """float32 [H, n, D]: low + code * scale."""


def stream_statistics(keys: Iterable[Streamed], values: Iterable[Streamed]) -> dict[str, float]:
    """What the published system reports of a sequence's chunks, which a policy kvstream's streams gave, by its names.
    Raises Error when there are none, or others."""
    of_keys, of_values = instances("keys", keys, Streamed), instances("values", values, Streamed)
    if not of_keys or not of_values:
        raise Error("there are no chunks to make statistics of")

    def average(chunks: Sequence[Streamed]) -> float:
        return sum(int(c.bits.sum(dtype=np.int64)) for c in chunks) / sum(c.bits.size for c in chunks)

    k, v = average(of_keys), average(of_values)
    flags = [c.outlier for c in (*of_keys, *of_values)]
    total_outliers, total_channels = sum(int(f.sum()) for f in flags), sum(f.size for f in flags)
    return {
        "avg_key_bits": k,
        "avg_value_bits": v,
        "compression_ratio_key": 16 / k,
        "compression_ratio_value": 16 / v,
        "total_outliers": total_outliers,
        "total_channels": total_channels,
        "outlier_ratio": total_outliers / total_channels,
        "overall_memory_savings": 1 - (k + v) / 32,
    }


class _Stream:
    def __init__(self, keys: bool, options: KVOptions | None) -> None:
        self.options = kv_options_of(options, "options")
        core, self._made = {
            "kvstream": (_livekv.StreamByChannel, Streamed),
            "kivi": (_livekv.StreamOfGroups, Grouped),
        }.get(self.options.policy, (_livekv.Stream, Sealed))
        self._core: Any = core(keys, self.options._core())

    def seal(self, chunk: F32, query_squares: F32 | None = None) -> Any:
        """Seals the sequence's next tokens: Sealed, with kvstream Streamed, with kivi Grouped. chunk: float32
        [n_head_kv, n, head_dim], contiguous, finite. Raises Error when it is anything else, or of other heads than the
        chunks before. query_squares: [n_head_kv, head_dim], the mean square of each channel of the queries so far, over
        the heads that share the kv head; livekv's keys alone, which are rounded without error feedback here: that takes
        mean queries."""
        if self._made is Sealed:
            return Sealed(**self._core.seal(chunk, query_squares))
        if query_squares is not None:
            raise Error("query_squares is for keys whose channels have widths of their own (key_alloc)")
        return self._made(**self._core.seal(chunk))


class KeyStream(_Stream):
    """Keys. livekv: outliers per channel, scales per channel and group of tokens, from running statistics. options:
    None: the defaults. Raises Error when their policy seals nothing."""

    def __init__(self, options: KVOptions | None = None) -> None:
        super().__init__(True, options)


class ValueStream(_Stream):
    """Values. livekv: outliers and scale per token. options: None: the defaults. Raises Error when their policy seals
    nothing."""

    def __init__(self, options: KVOptions | None = None) -> None:
        super().__init__(False, options)
