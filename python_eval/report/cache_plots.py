"""What a cache holds: growth over the prompt, signal to noise of layers, distributions of keys and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .style import GREY, PALETTE, Picture, canvas, colour, line, marker, picture

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
_PART_COLOURS = dict(zip(PARTS, (*PALETTE[:6], "#bdbdbd", PALETTE[6], "#555555"), strict=True))
MIB = 2.0**20


def growth(name: str, caches: Mapping[str, Mapping[str, Any]], f16_bytes_per_token: float) -> Picture:
    """Bytes over the tokens of a prompt, a panel a cache: {cache: {"n_tokens": [...], "bytes": {part: [...]}}}."""
    n_columns = min(3, len(caches))
    n_rows = -(-len(caches) // n_columns)
    with canvas(3.1 * n_columns + 1.6, 2.7 * n_rows + 0.3, nrows=n_rows, ncols=n_columns, sharex=True, sharey=True, squeeze=False) as (figure, axes):
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
        figure.legend(used.values(), used.keys(), loc="outside right upper")
        return picture(
            figure,
            name,
            "Cache growth over the prompt",
            "Bytes of the cache by part while a prompt is read. The tail is raw until its chunk is full and sealed. "
            "Dashed: the same tokens in 16-bit floats.",
        )


def layer_noise(name: str, caches: Mapping[str, Mapping[str, Sequence[float | None]]]) -> Picture:
    """Signal to noise by layer, {cache: {"snr_k": [...], "snr_v": [...]}} in dB; keys and values in two panels."""
    with canvas(7.6, 3.4, ncols=2, sharey=True) as (figure, axes):
        for panel, field, title in zip(axes, ("snr_k", "snr_v"), ("keys", "values"), strict=True):
            for n, (label, one) in enumerate(caches.items()):
                values = np.array([np.nan if x is None else x for x in one[field]], dtype=float)
                panel.plot(np.arange(len(values)), values, color=colour(n), ls=line(n), marker=marker(n), ms=4, label=label)
            panel.set_title(title)
            panel.set_xlabel("layer")
            panel.xaxis.get_major_locator().set_params(integer=True)
        axes[0].set_ylabel("signal to noise, dB")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(4, len(caches)))
        return picture(
            figure,
            name,
            "Signal to noise by layer",
            "Of sealed keys and values against what they were: 10 log10 of the ratio of their sums of squares. Higher is "
            "better; 6 dB are one bit.",
        )
