"""Which passes give the same bits. Attention takes few rows one way and many another, and cuts a long context into
spans by their number; a row's result does not depend on the other rows beyond that (docs/architecture.md). So the last
chunk of a prompt may be read in parts, if none is too short. One that is sealed may not: of parts that came before,
queries are kept in fewer bits, and sealing reads them."""

from __future__ import annotations

from dataclasses import dataclass

from livekv import _livekv
from livekv.model import Model


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
        n_segments = end // self.chunk_size + 1  # and the first tokens
        return -(-_livekv.least_rows_alike(self.n_head_kv, end, n_segments) // self.group)

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
