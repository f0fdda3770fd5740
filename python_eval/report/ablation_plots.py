"""A study's settings against its baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .style import GREY, PALETTE, Picture, canvas, picture


def differences(name: str, study: str, notes: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Picture:
    """KLD of every setting minus the baseline's, one line a setting, with bits a value at the side."""
    settings = [row for row in rows if row.get("kl_diff")]
    baseline = rows[0]
    at = np.arange(len(settings))[::-1]
    mean = np.array([row["kl_diff"]["mean"] for row in settings])
    se = np.array([np.nan if row["kl_diff"]["se"] is None else row["kl_diff"]["se"] for row in settings])
    with canvas(7.2, 1.3 + 0.33 * len(settings)) as (figure, axes):
        axes.axvline(0, color=GREY, lw=1.2)
        axes.errorbar(mean, at, xerr=se, fmt="o", color=PALETTE[0], ms=6, capsize=3, lw=1.2)
        axes.set_yticks(at, [row["setting"] for row in settings])
        axes.set_ylim(-0.7, len(settings) - 0.3)
        # One exceptional setting would squeeze the others into a line.
        spread = np.abs(mean) + np.nan_to_num(se)
        middle = np.median(spread[spread > 0]) if np.any(spread > 0) else 0.0
        if middle > 0 and spread.max() > 30 * middle:
            axes.set_xscale("symlog", linthresh=3 * middle)
        own = "" if baseline["kl_mean"] is None else f" ({baseline['kl_mean']:.3g})"
        axes.set_xlabel(f"KLD minus the baseline's{own}, nats; left is better")
        axes.grid(axis="y", visible=False)
        for y, row in zip(at, settings, strict=True):
            axes.annotate(
                f"{row['bits_per_value']:.2f}", (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=9
            )
        axes.annotate(
            f"bits (baseline {baseline['bits_per_value']:.2f})",
            (1.01, len(settings) - 0.3), xycoords=("axes fraction", "data"), va="bottom", ha="center", fontsize=8.5,
        )  # fmt: skip
        return picture(
            figure,
            name,
            f"Study: {study}",
            f"{notes[0].partition('. ')[2]} Difference of the mean KL divergence from the baseline's, paired on the "
            "same tokens. Bars: one standard error over windows. Right: bits a value.",
        )
