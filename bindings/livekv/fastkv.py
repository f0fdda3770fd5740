"""The scalar reference of FastKV's choice on plain arrays: which of a prompt's tokens a layer keeps, and which of them
later layers see. engine/kv/kv_fastkv.h has the formulas.

    chosen = livekv.kv.fastkv_choose(q[:, -8:], k)     # float32 [heads, n, head_dim], after RoPE
    kept_keys = [keys[index] for keys, index in zip(k, chosen.kept)]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from livekv import _livekv

__all__ = ["FastKVChoice", "fastkv_choose"]

F32 = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True)
class FastKVChoice:
    """What a layer makes of the n tokens that came into it. The window is the last 8 of them."""

    score: F32
    """float32 [kv heads, n - window]: of the tokens before the window."""
    tsp_score: F32
    """float32 [n - window]: the sum over kv heads."""
    kept: Ints
    """int32 [kv heads, capacity], ascending: what each head keeps."""
    going_on: Ints
    """int32, ascending: what goes on to later layers, if this is the layer that chooses."""


def fastkv_choose(q: F32, k: F32, *, retain_rate: float = 0.1, tsp_rate: float = 0.2, pooling: str = "max",
                  is_later: bool = False) -> FastKVChoice:  # fmt: skip
    """q: queries of the last min(n, 8) tokens, [query heads, min(n, 8), D]; k: [kv heads, n, D]; float32, contiguous,
    finite. pooling: max or avg. is_later: the layer is behind the one that chose, and keeps retain_rate / tsp_rate of
    what came in. Raises Error for other shapes, and for rates outside (0, 1]."""
    made = _livekv.fastkv_choose(q, k, retain_rate=retain_rate, tsp_rate=tsp_rate, pooling=pooling, is_later=is_later)
    return FastKVChoice(**made)
