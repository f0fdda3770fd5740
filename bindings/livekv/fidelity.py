"""How well a cache predicts a text, and how far its predictions are from another cache's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from livekv import _livekv
from livekv.arguments import checked_threads, core_of, whole
from livekv.options import KVOptions, kv_options_of

if TYPE_CHECKING:
    from livekv.model import Model, Tokens

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Fidelity:
    """A measurement over windows of a text, each fed through live compression, its second half scored. Standard errors
    take tokens as independent; those of windows can be had from the arrays."""

    perplexity: float
    perplexity_se: float
    n_windows: int
    n_scored: int
    """Tokens scored: n_windows * n_scored_per_window."""
    bits_per_value: float
    """Of a full window."""
    nll: F64
    """float64 [n_windows, n_scored_per_window], nats: each scored token's negative log-likelihood."""
    kl: F64 | None = None
    """The same shape, nats: Kullback-Leibler divergence of each token's next-token distribution from the base cache's.
    This and what follows: None without a base."""
    kl_mean: float | None = None
    kl_se: float | None = None
    kl_median: float | None = None
    kl_p999: float | None = None
    """99.9 % of the tokens are below."""
    kl_max: float | None = None
    same_top: float | None = None
    """Share of tokens whose most likely successor is the same."""
    base_nll: F64 | None = None
    base_perplexity: float | None = None


def fidelity(
    model: Model,
    text: str | Tokens,
    n_ctx: int = 2048,
    windows: int | None = None,
    kv: KVOptions | str | None = None,
    base: KVOptions | str | None = None,
    n_threads: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Fidelity:
    """Perplexity of a text under a cache, and its divergence from the base cache: the numbers of livekv-perplexity.

    text: text, or its tokens as Model.tokenize gives them. n_ctx: tokens a window, 8 or more; a rest of the text is
    left out. windows: how many at most; None: all. kv: None: the defaults. progress: called after each window with how
    many are done and how many there are. Raises Error when the text is shorter than one window.
    """
    core = core_of("model", model, _livekv.Model)
    tokens = model.tokenize(text) if isinstance(text, str) else text
    raw = _livekv.fidelity(
        core,
        tokens,
        n_ctx=n_ctx,
        windows=0 if windows is None else whole("windows", windows, 1, 2**31 - 1),
        n_threads=model.n_threads if n_threads is None else checked_threads(n_threads),
        kv=kv_options_of(kv)._core(),
        base=None if base is None else kv_options_of(base, "base")._core(),
        progress=progress,
    )
    return Fidelity(**raw)
