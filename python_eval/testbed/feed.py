"""Batches for training, drawn by worker processes ahead of time where one process is too slow for a GPU.

The batch of a step depends on the seed, the step and the stage alone, so it is the same whoever draws it and whenever.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import Future, ProcessPoolExecutor

import numpy as np
from tokenizers import Tokenizer

from .mix import Mixer
from .recipes import Stage

Batch = tuple[np.ndarray, np.ndarray]  # ids int64 and weights float32, both [n_seq, seq_len]

_mixer: Mixer | None = None


def draw(mixer: Mixer, seed: int, step: int, stage: Stage) -> Batch:
    n_seq = max(1, stage.batch_tokens // stage.seq_len)
    return mixer.batch(stage.shares, stage.seq_len, n_seq, np.random.default_rng([seed, step]))


def _begin(tokenizer: str, stream: np.ndarray) -> None:
    global _mixer
    _mixer = Mixer(Tokenizer.from_str(tokenizer), stream)


def _draw(seed: int, step: int, stage: Stage) -> Batch:
    assert _mixer is not None
    return draw(_mixer, seed, step, stage)


class Feed:
    """`batch(step, stage)`, drawn here without workers, else by `n_workers` processes up to two batches each ahead."""

    def __init__(self, mixer: Mixer, seed: int, n_workers: int = 0) -> None:
        self._mixer, self._seed, self._ahead = mixer, seed, 2 * n_workers
        self._drawn: dict[tuple[int, Stage], Future[Batch]] = {}
        self._pool = None
        if n_workers:
            begin = (mixer.tokenizer.to_str(), mixer.stream)
            self._pool = ProcessPoolExecutor(n_workers, multiprocessing.get_context("spawn"), _begin, begin)

    def batch(self, step: int, stage: Stage) -> Batch:
        if self._pool is None:
            return draw(self._mixer, self._seed, step, stage)
        for next_step in range(step, step + self._ahead + 1):
            if (next_step, stage) not in self._drawn:
                self._drawn[next_step, stage] = self._pool.submit(_draw, self._seed, next_step, stage)
        batch = self._drawn.pop((step, stage)).result()
        for stale in [key for key in self._drawn if key[0] <= step or key[1] != stage]:
            self._drawn.pop(stale).cancel()
        return batch

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
