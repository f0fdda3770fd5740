"""The method itself on plain arrays: the scalar reference that the engine's blocks and kernels are tested against.

A stream seals one layer's keys, or values, of one sequence, chunk by chunk:

    keys = livekv.kv.KeyStream(livekv.KVOptions(kv_bits=3))
    sealed = keys.seal(chunk)                      # float32 [n_head_kv, n, head_dim]
    error = chunk - sealed.reconstruction

Widths of key channels are chosen by the mean squares of the queries that read them (docs/fidelity.md), which a session
keeps itself; a stream is told: `keys.seal(chunk, query_squares)`. Without them channels have one width.

The method's equations 3-2 to 3-7 are written out in engine/kv/kv_stats.h and kv_quant.h. Rotation is not part of
it: rotate a chunk before it is sealed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from livekv import _livekv
from livekv.kinds import DENSE, EXACT, SEALED, SINK, TAIL
from livekv.options import KVOptions

__all__ = ["DENSE", "EXACT", "SEALED", "SINK", "TAIL", "KeyStream", "Sealed", "ValueStream"]

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
    """float32 [H, G, D], of keys whose channels have widths of their own: what code 0 stands for, in the place of zero."""
    order: npt.NDArray[np.uint16] | None = None
    """uint16 [H, D], with minimum: the channels in the block's order, four of a width side by side, the widest first."""
    width: npt.NDArray[np.uint8] | None = None
    """uint8 [H, D], with minimum: bits of each channel's codes."""
    absmax: F32 | None = None
    """float32: keys [H, 1, D], the clipped running maximum mu (3-4); values [H, n, 1], the token's own. None with
    ema_minmax, which has max and min."""
    max: F32 | None = None
    min: F32 | None = None
    n_saturated: int = 0
    """Dense entries beyond the range their codes cover."""


class _Stream:
    def __init__(self, keys: bool, options: KVOptions | None) -> None:
        self.options = KVOptions() if options is None else options
        self._core = _livekv.Stream(keys, self.options._core())

    def seal(self, chunk: F32, query_squares: F32 | None = None) -> Sealed:
        """Seals the sequence's next tokens. chunk: float32 [n_head_kv, n, head_dim], contiguous, finite. Raises Error
        when it is anything else, or of other heads than the chunks before. query_squares: [n_head_kv, head_dim], the
        mean square of each channel of the queries so far, over the heads that share the kv head; keys alone."""
        raw: dict[str, Any] = self._core.seal(chunk, query_squares)
        return Sealed(**raw)


class KeyStream(_Stream):
    """Keys, after RoPE: outliers per channel, scales per channel and group of tokens, from running statistics. options:
    None: the defaults. Raises Error when their policy is not livekv."""

    def __init__(self, options: KVOptions | None = None) -> None:
        super().__init__(True, options)


class ValueStream(_Stream):
    """Values: outliers and scale per token. options: None: the defaults. Raises Error when their policy is not
    livekv."""

    def __init__(self, options: KVOptions | None = None) -> None:
        super().__init__(False, options)
