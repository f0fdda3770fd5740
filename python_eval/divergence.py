"""From measured windows to numbers: perplexity, divergence, and the paired differences of two caches."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np

from .errors import EvalError
from .paired import Paired, mean_se, paired
from .tables import Row
from .windows import Measured


def summary(label: str, measured: Measured) -> dict[str, str | int | float | None]:
    """What livekv-perplexity prints, by its names, and the error of the mean divergence over windows.

    `ppl_stderr` and `kl_mean_stderr` take tokens as independent, as livekv-perplexity does; `kl_se` takes windows as
    independent and is None for a single one. The base is compared with nothing: all of its divergence is None.
    """
    nll = measured.nll.ravel()
    mean_nll = mean_se(nll)
    ppl = float(np.exp(mean_nll.mean))
    return {
        "cache": label,
        "bits_per_value": measured.bits_per_value,
        "n_windows": len(measured.keys),
        "n_tokens": int(nll.size),
        "ppl": ppl,
        "ppl_stderr": None if mean_nll.se is None else ppl * mean_nll.se,
        **_divergence(measured),
        "spec": measured.spec,
    }


def _divergence(measured: Measured) -> dict[str, float | None]:
    names = ("kl_mean", "kl_mean_stderr", "kl_se", "kl_median", "kl_p999", "kl_max", "same_top")
    if measured.same_top is None:
        return dict.fromkeys(names)
    kl = measured.kl.ravel()
    mean = mean_se(kl)
    median, p999 = float(np.median(kl)), float(np.quantile(kl, 0.999))
    of_windows = mean_se(kl, measured.clusters).se
    values = (mean.mean, mean.se, of_windows, median, p999, float(kl.max()), float(measured.same_top.mean()))
    return dict(zip(names, values, strict=True))


def by_position(label: str, measured: Measured, n_ctx: int, n_parts: int = 8) -> list[Row]:
    """Mean KLD in nats by the number of tokens read, in `n_parts` runs of the scored half; errors over windows."""
    n_scored = measured.kl.shape[1]
    bounds = [n_scored * part // n_parts for part in range(n_parts + 1)]
    rows: list[Row] = []
    for start, end in zip(bounds[:-1], bounds[1:], strict=True):
        if start < end:
            of_windows = [key for key in measured.keys for _ in range(start, end)]
            part = mean_se(measured.kl[:, start:end], of_windows)
            read = n_ctx // 2 + 1  # before the first prediction
            row: Row = {"cache": label, "tokens read": f"{read + start} to {read + end - 1}"}
            rows.append({**row, "KLD": part.mean, "± SE": part.se})
    return rows


def difference(measured: Measured, against: Measured) -> dict[str, Paired]:
    """`measured` minus `against` on the same tokens: mean KLD and mean negative log-likelihood in nats, errors over
    windows.

    The difference of mean negative log-likelihoods is the logarithm of the ratio of the two perplexities.
    """
    if measured.keys != against.keys:
        raise EvalError(f"{measured.spec} and {against.spec} were not measured on the same windows")
    return {
        "kl_diff": paired(against.kl, measured.kl, measured.clusters),
        "nll_diff": paired(against.nll, measured.nll, measured.clusters),
    }


def all_differences(caches: Mapping[str, Measured]) -> list[Row]:
    """A row for every two of the caches, {label: windows}: the second minus the first."""
    return [
        {"cache": second, "against": first, **difference(caches[second], caches[first])}
        for first, second in combinations(caches, 2)
    ]
