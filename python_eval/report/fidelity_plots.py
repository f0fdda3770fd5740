"""Divergence over the positions of a window."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from ..windows import Array
from .style import Picture, canvas, colour, line, log_values, picture

N_BINS = 16


def binned(kl: Array, n_bins: int = N_BINS) -> tuple[Array, Array, Array | None]:
    """Positions [n], mean [n] and its standard error over windows [n] of kl [n_windows, n_scored]; None for one
    window.
    """
    edges = np.linspace(0, kl.shape[1], min(n_bins, kl.shape[1]) + 1).astype(int)
    means = np.stack([kl[:, a:b].mean(axis=1) for a, b in pairwise(edges)], axis=1)
    n_windows = len(kl)
    se = means.std(axis=0, ddof=1) / np.sqrt(n_windows) if n_windows > 1 else None
    return (edges[:-1] + edges[1:]) / 2, means.mean(axis=0), se


def divergence_by_position(
    name: str, caches: Mapping[str, Array], n_ctx: int, where: str, chunk_size: int | None
) -> Picture:
    """Mean KLD of every sixteenth of the scored half, {cache: kl [n_windows, n_scored]}."""
    with canvas(7.2, 4.0) as (figure, axes):
        log_values(axes)
        first = n_ctx // 2
        for n, (label, kl) in enumerate(caches.items()):
            at, mean, se = binned(kl)
            axes.plot(first + at, mean, color=colour(n), ls=line(n), label=label)
            if se is not None:
                low = np.maximum(mean - se, mean * 0.05)
                axes.fill_between(first + at, low, mean + se, color=colour(n), alpha=0.18, lw=0)
        if chunk_size:
            for end in range(chunk_size * (first // chunk_size + 1), n_ctx, chunk_size):
                axes.axvline(end, color="#bbbbbb", lw=0.8, ls=":", zorder=0)
        axes.set_xlabel("position in the window, tokens")
        axes.set_ylabel("mean KL divergence, nats (log scale)")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2)
        return picture(
            figure,
            name,
            "Divergence by position",
            f"Mean KL divergence from the base cache's by position, {where}. Bands: one standard error over windows."
            + (f" Dotted: ends of chunks of {chunk_size} tokens." if chunk_size else ""),
        )
