"""How figures look: one palette that colour-blind readers can tell apart, labelled axes, small PNGs."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

# Okabe and Ito, "Color Universal Design" (2008), without its yellow, which is lost on white.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")
GREY = "#8c8c8c"
DPI = 110

# Any: matplotlib's stubs name every key.
_SETTINGS: Any = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True)
class Picture:
    """A finished figure."""

    name: str  # file name without .png
    title: str
    caption: str  # what is shown, what its error bars are
    png: bytes


@contextmanager
def canvas(width: float = 7.2, height: float = 4.2, **subplots: Any) -> Iterator[tuple[Figure, Any]]:
    """A figure and its axes, inches; closed when the block ends."""
    with matplotlib.rc_context(_SETTINGS):
        figure, axes = plt.subplots(figsize=(width, height), **subplots)
        try:
            yield figure, axes
        finally:
            plt.close(figure)


def picture(figure: Figure, name: str, title: str, caption: str) -> Picture:
    """The figure as PNG."""
    out = io.BytesIO()
    with warnings.catch_warnings():
        # A glyph the font lacks shows as a box; labels are file and task names, which may hold any.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(out, format="png", dpi=DPI, metadata={"Software": None})
    return Picture(name, title, caption, out.getvalue())


def colour(index: int) -> str:
    """The colour of the index-th thing; after seven they come again, with another marker and line."""
    return PALETTE[index % len(PALETTE)]


def marker(index: int) -> str:
    """Its marker."""
    return MARKERS[(index + index // len(PALETTE)) % len(MARKERS)]


def line(index: int) -> str:
    """Its line style: lines that lie on each other stay visible."""
    return LINES[index % len(LINES)]


def log_values(axes: Axes) -> None:
    """A logarithmic vertical axis with plain numbers at 1, 2 and 5 times the powers of ten."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def label_points(axes: Axes, points: list[tuple[float, float, str]]) -> None:
    """Names beside points, moved up or down by a line where two would lie over each other."""
    figure = axes.figure
    figure.canvas.draw()
    taken: list[tuple[float, float, float, float]] = []
    for x, y, text in sorted(points, key=lambda point: -point[1]):
        for dx, dy, side in _PLACES:
            note = axes.annotate(
                text, (x, y), xytext=(dx, dy), textcoords="offset points", ha=side, va="center", fontsize=8.5,
                path_effects=[withStroke(linewidth=2.5, foreground="white")],
            )  # fmt: skip
            box = note.get_window_extent()
            mine = (box.x0 - 1, box.y0, box.x1 + 1, box.y1)
            inside = axes.get_window_extent()
            free = not any(mine[0] < b[2] and b[0] < mine[2] and mine[1] < b[3] and b[1] < mine[3] for b in taken)
            if (free and mine[0] >= inside.x0 and mine[2] <= figure.bbox.x1 - 2) or (dx, dy, side) == _PLACES[-1]:
                taken.append(mine)
                break
            note.remove()


_PLACES = tuple(
    (dx * sign, dy, "left" if sign > 0 else "right")
    for dy in (8, -8, 18, -18, 28, -28)
    for dx, sign in ((6, 1), (6, -1))
)
