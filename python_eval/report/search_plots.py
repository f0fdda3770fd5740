"""What a search found, and how fast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..tune.front import pareto
from .style import GREY, Picture, canvas, colour, label_points, line, log_values, marker, picture


def search_front(name: str, trials: Sequence[Mapping[str, Any]]) -> Picture:
    """Every measured trial in the plane of bits and KLD, the presets named, the front joined."""
    with canvas() as (figure, axes):
        log_values(axes)
        methods = list(dict.fromkeys(str(row["study"]).rpartition("-")[0] for row in trials))
        points = [(float(row["bits_per_value"]), float(row["kl_mean"])) for row in trials]
        for n, method in enumerate(methods):
            some = [p for p, row in zip(points, trials, strict=True) if _method(row) == method and not row["preset"]]
            if some:
                axes.scatter(
                    *zip(*some, strict=True), s=16, marker=marker(n), color=colour(n), alpha=0.65, lw=0, label=method
                )
        presets = {row["preset"]: p for p, row in zip(points, trials, strict=True) if row["preset"]}
        if presets:
            axes.scatter(
                *zip(*presets.values(), strict=True), s=60, marker="*", color="black", zorder=5, label="presets"
            )
        front = [points[i] for i in pareto(points)]
        axes.step([x for x, _ in front], [y for _, y in front], where="post", color=GREY, lw=1.2, zorder=0)
        axes.set_xlabel("bits a value, all of the cache counted")
        axes.set_ylabel("mean KL divergence, nats (log scale)")
        axes.legend(ncols=4, loc="lower left", bbox_to_anchor=(0, 1.0))
        label_points(axes, [(x, y, preset) for preset, (x, y) in presets.items()])
        return picture(
            figure,
            name,
            "Trials of the search",
            "Every cache that was tried, on the windows of the search; lower and further left is better. The line "
            "joins those that no other beats in both.",
        )


def hypervolume_over_trials(name: str, curves: Sequence[Mapping[str, Any]], corner: Sequence[float]) -> Picture:
    """Hypervolume after each trial: mean over seeds of each method, with its standard error."""
    with canvas(6.4, 3.8) as (figure, axes):
        methods = list(dict.fromkeys(curve["method"] for curve in curves))
        for n, method in enumerate(methods):
            some = [curve["hypervolume"] for curve in curves if curve["method"] == method]
            length = min(map(len, some))
            values = np.array([curve[:length] for curve in some])
            at, mean = np.arange(1, length + 1), values.mean(axis=0)
            axes.plot(
                at,
                mean,
                color=colour(n),
                ls=line(n),
                label=f"{method} ({len(some)} seeds)" if len(some) > 1 else method,
            )
            if len(some) > 1:
                se = values.std(axis=0, ddof=1) / np.sqrt(len(some))
                axes.fill_between(at, mean - se, mean + se, color=colour(n), alpha=0.18, lw=0)
        axes.set_xlabel("trials")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylabel("hypervolume, bits x decades of KLD")
        axes.legend(loc="lower right")
        return picture(
            figure,
            name,
            "Hypervolume over trials",
            f"Area beaten in the plane of bits and log10 KLD, from the corner of {corner[0]:g} bits and {corner[1]:g} "
            "nats; higher is better. The first trials are the presets. Bands: one standard error over seeds.",
        )


def _method(row: Mapping[str, Any]) -> str:
    return str(row["study"]).rpartition("-")[0]
