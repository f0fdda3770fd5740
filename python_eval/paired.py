"""Means and paired differences with their standard errors."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .errors import EvalError


@dataclass(frozen=True)
class Paired:
    """A mean with its standard error, in the unit of what was averaged."""

    mean: float
    se: float | None  # None with fewer than two independent samples
    n: int  # independent samples: clusters where there are any

    def __str__(self) -> str:
        return f"{self.mean:+.4g}" if self.se is None else f"{self.mean:+.4g} ± {self.se:.2g}"


def paired(a: ArrayLike, b: ArrayLike, clusters: Sequence[Hashable] | None = None) -> Paired:
    """Mean of b - a with its standard error; `a` and `b` hold the same samples in the same order.

    Shapes are equal, any; arrays are read flat. See `mean_se` for `clusters` (one label an entry).
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape:
        raise EvalError(f"cannot pair {first.shape} with {second.shape}: not the same samples")
    return mean_se(second - first, clusters)


def mean_se(values: ArrayLike, clusters: Sequence[Hashable] | None = None) -> Paired:
    """Mean with its standard error, s / sqrt(n).

    With `clusters`, entries of one label are not independent of each other (the tokens of one window): the error is
    that of the mean as a ratio of cluster sums to cluster sizes (Cochran, Sampling Techniques, 3rd edition, chapter 9A,
    without its finite-population term), which for clusters of one is the plain one.
    """
    flat = np.asarray(values, np.float64).ravel()
    if flat.size == 0:
        raise EvalError("no samples to average")
    if not np.isfinite(flat).all():
        raise EvalError("cannot average samples that are not finite")
    groups = np.arange(flat.size) if clusters is None else _labels(clusters, flat.size)
    mean = float(flat.mean())
    n = int(groups.max()) + 1
    if n < 2:
        return Paired(mean, None, n)
    sums = np.bincount(groups, weights=flat - mean)
    return Paired(mean, float(np.sqrt(n / (n - 1) * np.square(sums).sum()) / flat.size), n)


def _labels(clusters: Sequence[Hashable], size: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    if len(clusters) != size:
        raise EvalError(f"{len(clusters)} cluster labels for {size} samples")
    index: dict[Hashable, int] = {}
    return np.fromiter((index.setdefault(label, len(index)) for label in clusters), np.intp, size)
