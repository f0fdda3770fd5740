"""The scalar reference of Finch on plain arrays: what a layer keeps of a context that is read in chunks, each followed
by the question. engine/kv/kv_finch.h has the formulas.

    layer = livekv.kv.FinchLayer(n_context=k.shape[1], n_question=q.shape[1], target_tokens=512)
    for start in range(0, k.shape[1], 256):        # float32 [heads, n, head_dim], before RoPE
        chosen = layer.add(q, k_question, k[:, start : start + 256], v[:, start : start + 256])
    kept_keys = layer.keys()
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from livekv import _livekv

__all__ = ["FinchChoice", "FinchLayer"]

F32 = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True)
class FinchChoice:
    """What a layer made of a chunk. Its columns are what it had kept, then the chunk's tokens."""

    columns: Ints
    """int32: which of the context's tokens they are."""
    score: F32
    """float32, of each column."""
    kept_columns: Ints
    """int32, ascending."""
    kept_tokens: Ints
    """int32, ascending: the tokens behind these."""


class FinchLayer:
    """One layer over the chunks of a context."""

    def __init__(self, n_context: int, n_question: int, *, target_tokens: int = 1024, normalize: bool = True,
                 rope_base: float = 10000.0, rope_order: str = "normal") -> None:  # fmt: skip
        """n_context: tokens of all chunks; rope_order: normal (channels 2j and 2j + 1 turn together) or neox (j and
        j + D/2). Raises Error when target_tokens leave no room beside the question, and for what is none of these."""
        self._core = _livekv.FinchLayer(n_context, n_question, target_tokens=target_tokens, normalize=normalize,
                                        rope_base=rope_base, rope_order=rope_order)  # fmt: skip

    @property
    def factor(self) -> int:
        """Of so many tokens one is kept."""
        return self._core.factor()

    def add(self, q: F32, k_question: F32, k: F32, v: F32) -> FinchChoice:
        """The next chunk, k and v [kv heads, n, D], and the question as it was computed behind it, q [query heads,
        n_question, D] and k_question [kv heads, n_question, D]; float32, contiguous, finite, queries and keys before
        RoPE. Raises Error for other shapes, and beyond the context."""
        return FinchChoice(**self._core.add(q, k_question, k, v))

    def keys(self) -> F32:
        """What is kept, [kv heads, kept, D], turned to positions 0, 1, ..."""
        return self._core.keys()

    def values(self) -> F32:
        """[kv heads, kept, D]."""
        return self._core.values()
