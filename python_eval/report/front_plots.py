"""Loss or score against bits a value, with the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from ..tune.front import pareto
from .style import GREY, Picture, canvas, colour, label_points, log_values, marker, picture


@dataclass(frozen=True)
class Point:
    """A cache in the plane."""

    name: str
    bits: float  # a value
    value: float
    se: float | None = None
    group: str = ""  # points of one group share a colour and a legend entry
    named: bool = True  # whether its name is written beside it


def divergence_against_bits(name: str, points: Sequence[Point], where: str) -> Picture:
    """Mean KLD (log scale, down is better) against bits a value."""
    shown = [point for point in points if point.value > 0]
    with canvas() as (figure, axes):
        log_values(axes)
        _scatter(axes, shown)
        front = [shown[i] for i in pareto([(point.bits, point.value) for point in shown])]
        _front_line(axes, [(point.bits, point.value) for point in front])
        axes.set_xlabel("bits a value, all of the cache counted")
        axes.set_ylabel("mean KL divergence, nats (log scale)")
        on_front = {point.name for point in front}
        label_points(axes, [(p.bits, p.value, p.name) for p in shown if p.named or p.name in on_front])
        return picture(
            figure,
            name,
            "Divergence against bits",
            f"Mean KL divergence of next-token distributions from the base cache's, {where}. Lower and further left is "
            "better; the line joins the caches that no other beats in both. Bars: one standard error over windows.",
        )


def score_against_bits(name: str, points: Sequence[Point], where: str) -> Picture:
    """Mean task score (up is better) against bits a value."""
    with canvas() as (figure, axes):
        _scatter(axes, points)
        front = [points[i] for i in pareto([(point.bits, -point.value) for point in points])]
        _front_line(axes, [(point.bits, point.value) for point in front])
        axes.set_xlabel("bits a value, all of the cache counted")
        axes.set_ylabel("mean score, percent")
        label_points(axes, [(point.bits, point.value, point.name) for point in points])
        return picture(
            figure,
            name,
            "Score against bits",
            f"Mean score over tasks, {where}. Higher and further left is better; the line joins the caches that no "
            "other beats in both. Bars: one standard error of the paired difference from the first cache, none on that "
            "one.",
        )


def _scatter(axes: Axes, points: Sequence[Point]) -> None:
    groups = list(dict.fromkeys(point.group for point in points))
    for n, group in enumerate(groups):
        some = [point for point in points if point.group == group]
        axes.errorbar(
            [point.bits for point in some],
            [point.value for point in some],
            yerr=[np.nan if point.se is None else point.se for point in some],
            fmt=marker(n), color=colour(n), ms=6, mec="white", mew=0.6, capsize=3, lw=1, ls="", label=group or None,
        )  # fmt: skip
    if len(groups) > 1:
        axes.legend(loc="best")
    axes.margins(x=0.12, y=0.08)


def _front_line(axes: Axes, front: Sequence[tuple[float, float]]) -> None:
    # Steps: until the next cache's bits are paid, the one before is the best there is.
    axes.step([x for x, _ in front], [y for _, y in front], where="post", color=GREY, lw=1.2, zorder=0)
