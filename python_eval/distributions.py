"""How the keys or values of a layer are distributed, and which of them a cache stores apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

QUANTILES = (0.0, 0.01, 0.5, 0.99, 1.0)
N_BINS = 80
MAX_DOTS = 600


def walsh_hadamard(rows: NDArray[Any], block: int) -> NDArray[np.float64]:
    """The orthonormal Walsh-Hadamard transform, natural order, of every `block` consecutive entries of the last
    axis.
    """
    shape = rows.shape
    x = np.asarray(rows, np.float64).reshape(-1, block)
    half = 1
    while half < block:
        pairs = x.reshape(len(x), block // (2 * half), 2, half)
        x = np.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], axis=2).reshape(len(x), block)
        half *= 2
    scaled: NDArray[np.float64] = (x / np.sqrt(block)).reshape(shape)
    return scaled


def layer_distributions(
    exact: Mapping[str, NDArray[Any]], sealed: Mapping[str, NDArray[Any]], side: str
) -> dict[str, NDArray[Any]]:
    """Of one side (`k` or `v`) of two `Session.kv_dump`s of the same tokens: entries as the exact cache has them, in
    the basis in which the other stores them, over the tokens that other has sealed. H: n_head_kv, D: head_dim.

        quantiles     float64 [H * D, 5]: of every channel, QUANTILES
        edges         float64 [N_BINS + 1]: of the histograms, symmetric about 0
        dense         int64 [N_BINS]: entries with codes
        apart         int64 [N_BINS]: outliers
        dots          float64 [n, 2]: channel and value of at most MAX_DOTS outliers, evenly chosen
        n_apart       int64 []: how many outliers there are
    """
    values = np.asarray(exact[f"{side}_reconstruction"], np.float64)  # [H, T, D]
    block = int(sealed[f"{side}_rotation"])
    if block:
        values = walsh_hadamard(values, block)
    n_head, _, head_dim = values.shape
    apart = np.zeros(values.shape, bool)
    head, token, channel = np.asarray(sealed[f"{side}_outlier_index"], np.int64).reshape(-1, 3).T
    apart[head, token, channel] = True
    is_sealed = np.asarray(sealed[f"{side}_group"]) >= 0
    values, apart = values[:, is_sealed], apart[:, is_sealed]
    by_channel = values.transpose(0, 2, 1).reshape(n_head * head_dim, -1)
    end = float(np.abs(values).max()) or 1.0
    edges = np.linspace(-end, end, N_BINS + 1)
    outlier_head, _, outlier_channel = np.nonzero(apart)
    dots = np.stack([outlier_head * head_dim + outlier_channel, values[apart]], axis=1)
    step = max(1, -(-len(dots) // MAX_DOTS))
    return {
        "quantiles": np.quantile(by_channel, QUANTILES, axis=1).T,
        "edges": edges,
        "dense": np.histogram(values[~apart], edges)[0],
        "apart": np.histogram(values[apart], edges)[0],
        "dots": dots[::step],
        "n_apart": np.array(len(dots)),
    }
