"""The loss curve of a training run as CSV and PNG."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

Entry = Mapping[str, object]


def write_csv(log: Sequence[Entry], path: Path) -> None:
    """One row an evaluation; retrieval becomes a column for each task."""
    rows = [_flat(entry) for entry in log]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def write_png(log: Sequence[Entry], path: Path) -> None:
    """Losses and mean retrieval over tokens; ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [_flat(entry) for entry in log]
    millions = [float(str(row["tokens"])) / 1e6 for row in rows]
    figure, (top, bottom) = pyplot.subplots(2, 1, sharex=True, figsize=(8, 6), layout="constrained")
    for name in rows[0] if rows else ():
        if name == "loss" or name.startswith("held_out"):
            top.plot(millions, [row[name] for row in rows], label=name.replace("held_out_", "held out: "))
    for name in ("single_key", "multi_key", "key_value", "copy_span"):
        bottom.plot(millions, [row.get(f"retrieval_{name}") for row in rows], label=name)
    changes = [i for i in range(1, len(rows)) if rows[i]["seq_len"] != rows[i - 1]["seq_len"]]
    for i in changes:
        for axis in (top, bottom):
            axis.axvline(millions[i - 1], color="grey", linewidth=0.5)
        top.annotate(f" {rows[i]['seq_len']}", (millions[i - 1], 0.95), xycoords=("data", "axes fraction"), fontsize=7)
    top.set_ylabel("loss, nats a token")
    bottom.set_ylabel("questions answered, at the stage's length")
    bottom.set_xlabel("million tokens")
    top.legend()
    bottom.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _flat(entry: Entry) -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in entry.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}_{inner}": number for inner, number in value.items()}
        else:
            flat[name] = value
    return flat
