"""LongBench scores by task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .style import Picture, canvas, colour, picture


def task_bars(name: str, rows: Sequence[Mapping[str, Any]], caches: Sequence[str]) -> Picture:
    """Scores of every task with every cache; whiskers on all but the first: the paired difference's standard error."""
    labels = [" ".join(str(row[key]) for key in ("task", "length", "subset") if row.get(key)) for row in rows]
    width = 0.8 / len(caches)
    at = np.arange(len(rows))
    with canvas(max(6.0, 1.6 + 0.16 * len(rows) * (len(caches) + 1.5)), 4.2) as (figure, axes):
        for n, cache in enumerate(caches):
            scores = [row[cache] for row in rows]
            pairs = [row.get(f"{cache} - {caches[0]}") for row in rows]
            se = [np.nan if pair is None or pair["se"] is None else pair["se"] for pair in pairs]
            axes.bar(
                at + (n - (len(caches) - 1) / 2) * width, scores, width, color=colour(n), label=cache,
                yerr=None if n == 0 else se, error_kw={"lw": 1, "capsize": 2},
            )  # fmt: skip
        axes.set_xticks(at, labels, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_ylabel("score, percent")
        axes.set_ylim(bottom=0)
        axes.grid(axis="x", visible=False)
        axes.legend(ncols=min(4, len(caches)), loc="lower left", bbox_to_anchor=(0, 1.0))
        return picture(
            figure,
            name,
            "Scores by task",
            f"Official metric of each task, percent. Whiskers: one standard error of the paired difference from "
            f"{caches[0]} on the same samples, so {caches[0]} itself has none.",
        )
