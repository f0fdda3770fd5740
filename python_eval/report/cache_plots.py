"""What a cache holds: growth over the prompt, signal to noise of layers, distributions of keys and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .style import PALETTE, Picture, canvas, colour, line, marker, picture

# The parts of a cache in the order they are stacked, with what they are called.
PARTS = {
    "codes": "codes",
    "scales": "scales",
    "outliers": "outliers",
    "sinks": "sinks",
    "warm_up": "warm-up keys",
    "bypass": "bypass layers",
    "tail": "tail (raw)",
    "statistics": "statistics",
    "padding": "padding",
}
_PART_COLOURS = dict(zip(PARTS, (*PALETTE[:6], "#bdbdbd", "#7f6000", "#555555"), strict=True))
MIB = 2.0**20


def growth(name: str, caches: Mapping[str, Mapping[str, Any]], f16_bytes_per_token: float) -> Picture:
    """Bytes over the tokens of a prompt, a panel a cache: {cache: {"n_tokens": [...], "bytes": {part: [...]}}}."""
    n_columns = min(3, len(caches))
    n_rows = -(-len(caches) // n_columns)
    with canvas(
        3.1 * n_columns + 1.6,
        2.7 * n_rows + 0.3,
        nrows=n_rows,
        ncols=n_columns,
        sharex=True,
        sharey=True,
        squeeze=False,
    ) as (figure, axes):
        used: dict[str, Any] = {}
        for panel, (label, one) in zip(axes.flat, caches.items(), strict=False):
            tokens = np.asarray(one["n_tokens"])
            shown = {part: np.asarray(one["bytes"][part]) / MIB for part in PARTS if np.any(one["bytes"].get(part, 0))}
            areas = panel.stackplot(tokens, shown.values(), colors=[_PART_COLOURS[part] for part in shown], lw=0)
            used |= {PARTS[part]: area for part, area in zip(shown, areas, strict=True)}
            (used["f16"],) = panel.plot(tokens, tokens * f16_bytes_per_token / MIB, color="black", ls="--", lw=1.2)
            panel.set_title(label, fontsize=9.5)
            panel.margins(x=0)
        for panel in list(axes.flat)[len(caches) :]:
            panel.set_visible(False)
        figure.supxlabel("tokens read", fontsize=10)
        figure.supylabel("cache, MiB", fontsize=10)
        shown_parts = [title for title in (*PARTS.values(), "f16") if title in used]
        figure.legend([used[title] for title in shown_parts], shown_parts, loc="outside right upper")
        return picture(
            figure,
            name,
            "Cache growth over the prompt",
            "Bytes of the cache by part while a prompt is read. The tail is raw until its chunk is full and sealed. "
            "Caches of ggml's types are allocated for the whole context at once. Dashed: the same tokens in 16-bit "
            "floats.",
        )


def layer_noise(name: str, caches: Mapping[str, Mapping[str, Sequence[float | None]]]) -> Picture:
    """Signal to noise by layer, {cache: {"snr_k": [...], "snr_v": [...]}} in dB; keys and values in two panels."""
    with canvas(7.6, 3.4, ncols=2, sharey=True) as (figure, axes):
        for panel, field, title in zip(axes, ("snr_k", "snr_v"), ("keys", "values"), strict=True):
            for n, (label, one) in enumerate(caches.items()):
                values = np.array([np.nan if x is None else x for x in one[field]], dtype=float)
                panel.plot(
                    np.arange(len(values)), values, color=colour(n), ls=line(n), marker=marker(n), ms=4, label=label
                )
            panel.set_title(title)
            panel.set_xlabel("layer")
            panel.xaxis.get_major_locator().set_params(integer=True)
        axes[0].set_ylabel("signal to noise, dB")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(4, len(caches)))
        return picture(
            figure,
            name,
            "Signal to noise by layer",
            "Of sealed keys and values against what they were: 10 log10 of the ratio of their sums of squares. Higher "
            "is better; 6 dB are one bit.",
        )


def distributions(name: str, record: Mapping[str, Any], arrays: Mapping[str, Any]) -> Picture:
    """Keys and values of a layer: the range of every channel with outliers as dots, and histograms of both kinds."""
    sides = {"k": "keys", "v": "values"}
    with canvas(8.6, 6.0, nrows=2, ncols=2, height_ratios=(1.35, 1)) as (figure, axes):
        for column, (side, title) in enumerate(sides.items()):
            rotation = record["rotation"][side]
            _channels(axes[0, column], arrays, side)
            axes[0, column].set_title(f"{title}, rotated" if rotation else title)
            _histogram(axes[1, column], arrays, side)
        axes[0, 0].set_ylabel("entry")
        axes[1, 0].set_ylabel("number of entries (log scale)")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
        rotated = [title for side, title in sides.items() if record["rotation"][side]]
        return picture(
            figure,
            name,
            f"Keys and values of layer {record['layer']}",
            f"Over the sealed tokens of one window, as the base cache has them, {record['label']} deciding which are "
            "stored apart as outliers. Channels of all key/value heads side by side."
            + (
                f" {' and '.join(rotated).capitalize()} are shown after the rotation they are stored in."
                if rotated
                else ""
            ),
        )


def _channels(axes: Any, arrays: Mapping[str, Any], side: str) -> None:
    low, first, middle, last, high = np.asarray(arrays[f"{side}_quantiles"]).T
    at = np.arange(len(middle))
    axes.fill_between(at, low, high, step="mid", color=PALETTE[5], alpha=0.35, lw=0, label="smallest to largest")
    axes.fill_between(at, first, last, step="mid", color=PALETTE[0], alpha=0.55, lw=0, label="middle 98 %")
    axes.step(at, middle, where="mid", color="black", lw=0.9, label="median")
    dots = np.asarray(arrays[f"{side}_dots"]).reshape(-1, 2)
    axes.scatter(dots[:, 0], dots[:, 1], s=5, color=PALETTE[3], lw=0, label="outliers (some of them)", zorder=3)
    axes.set_xlabel("channel")
    axes.margins(x=0)


def _histogram(axes: Any, arrays: Mapping[str, Any], side: str) -> None:
    edges = arrays[f"{side}_edges"]
    axes.stairs(arrays[f"{side}_dense"], edges, fill=True, color=PALETTE[0], alpha=0.55)
    if arrays[f"{side}_n_apart"]:
        axes.stairs(arrays[f"{side}_apart"], edges, fill=True, color=PALETTE[3], alpha=0.85)
    axes.set_yscale("log")
    axes.set_xlabel("entry")
    share = arrays[f"{side}_n_apart"] / (arrays[f"{side}_n_apart"] + arrays[f"{side}_dense"].sum())
    axes.set_title(f"{100 * share:.2f} % stored apart", fontsize=9.5)
