"""Which passes give the same bits. Attention takes few rows one way and many another, and cuts a long context into
spans by their number (engine/kernels/attention_job.cpp, cpu/attention_step.h); a row's result does not depend on the
other rows beyond that. So the last chunk of a prompt may be read in parts, if none is too short. One that is sealed may
not: of parts that came before, queries are kept in fewer bits, and sealing reads them."""

from __future__ import annotations

from dataclasses import dataclass

from livekv.model import Model

_ROW_TILE = 32
"""Rows, which are query heads of a key/value head, that are taken at once; up to as many go the other way. Half of it
where there is no AVX-512, which asks for less."""
_TILE_TOKENS = 32
_SPAN_TILES = 32
"""Two spans need twice as many tiles of a context."""


@dataclass(frozen=True)
class Passes:
    group: int
    """Query heads of a key/value head."""
    n_head_kv: int
    chunk_size: int

    @classmethod
    def of(cls, model: Model, chunk_size: int) -> Passes:
        return cls(model.n_head // model.n_head_kv, model.n_head_kv, chunk_size)

    def least(self, n: int) -> int:
        """Tokens of a part, at least, of the chunk that token n is in."""
        end = self._end(n)
        n_tiles = end // _TILE_TOKENS + end // self.chunk_size + 2  # chunks may end within a tile
        rows = _ROW_TILE + 1
        if n_tiles >= 2 * _SPAN_TILES:  # so many tiles of rows that they are not cut
            pieces = min(max(n_tiles // 128, 16), 256)
            rows = max(rows, (-(-pieces // self.n_head_kv) - 1) * _ROW_TILE + 1)
        return -(-rows // self.group)

    def same(self, first: int, end: int) -> bool:
        """Whether a pass over these tokens makes of each what a longer one of its chunk does."""
        is_chunk = first % self.chunk_size == 0 and end % self.chunk_size == 0
        return is_chunk or end - first >= self.least(first)

    def cut(self, n: int, n_prompt: int) -> int:
        """Where, up to n tokens, a prompt of n_prompt may be cut, so that what is behind it is read as it would be as a
        whole: before the end of its last chunk, or where a chunk begins. n is less than n_prompt."""
        begin = n - n % self.chunk_size
        return begin if self._end(n) <= n_prompt else max(begin, min(n, n_prompt - self.least(n)))

    def _end(self, n: int) -> int:
        return n - n % self.chunk_size + self.chunk_size
