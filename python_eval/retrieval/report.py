"""Answers -> accuracies by length, task and depth, differences between caches, tables and the heat map."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..files import written_whole
from ..paired import paired
from ..run_folder import Record
from ..tables import Row

Accuracy = dict[str, dict[str, dict[str, float]]]


def accuracy(records: Sequence[Record]) -> Accuracy:
    """{kv: {length: {task: share of the answers that are right}}}"""
    groups: dict[tuple[str, str, str], list[bool]] = {}
    for record in records:
        groups.setdefault((record["kv"], str(record["length"]), record["task"]), []).append(record["correct"])
    result: Accuracy = {}
    for (kv, length, task), correct in groups.items():
        result.setdefault(kv, {}).setdefault(length, {})[task] = round(float(np.mean(correct)), 4)
    return result


def accuracy_rows(records: Sequence[Record]) -> list[Row]:
    """A row for each cache and task, a column for each length; the last row of a cache is the mean over the tasks."""
    rows: list[Row] = []
    lengths = sorted({record["length"] for record in records})
    for kv in dict.fromkeys(record["kv"] for record in records):
        mine = [record for record in records if record["kv"] == kv]
        table: dict[str, dict[str, float]] = {}
        for task in dict.fromkeys(record["task"] for record in mine):
            table[task] = {}
            for length in lengths:
                correct = [r["correct"] for r in mine if r["task"] == task and r["length"] == length]
                if correct:
                    table[task][str(length)] = float(np.mean(correct))
        rows += [{"cache": kv, "task": task, **row} for task, row in table.items()]
        if len(table) > 1:
            whole = [str(n) for n in lengths if all(str(n) in row for row in table.values())]
            means = {n: float(np.mean([row[n] for row in table.values()])) for n in whole}
            rows.append({"cache": kv, "task": "mean of the tasks", **means})
    return rows


def difference_rows(records: Sequence[Record]) -> list[Row]:
    """Accuracy of each cache less that of the first one, paired by question, errors clustered by context."""
    by_kv: dict[str, dict[tuple[object, ...], Record]] = {}
    for record in records:
        key = (record["task"], record["length"], record["sample"], record["depth"])
        by_kv.setdefault(record["kv"], {})[key] = record
    names = list(by_kv)
    rows: list[Row] = []
    lengths = sorted({record["length"] for record in records})
    for kv in names[1:]:
        for length in [*lengths, None] if len(lengths) > 1 else lengths:
            keys = [k for k in by_kv[names[0]] if k in by_kv[kv] and (length is None or k[1] == length)]
            if not keys:
                continue
            base = [by_kv[names[0]][k]["correct"] for k in keys]
            other = [by_kv[kv][k]["correct"] for k in keys]
            contexts = [by_kv[kv][k]["context"] for k in keys]
            rows.append({
                "cache": kv, "length": "all" if length is None else str(length),
                "accuracy": float(np.mean(other)),
                f"difference from {names[0]}": paired(base, other, contexts), "questions": len(keys),
            })  # fmt: skip
    return rows


def depth_rows(records: Sequence[Record]) -> list[Row]:
    """Accuracy by depth, over the tasks that have one."""
    rows: list[Row] = []
    deep = [record for record in records if record["depth"] is not None]
    for kv in dict.fromkeys(record["kv"] for record in deep):
        for length in sorted({record["length"] for record in deep}):
            mine = [r for r in deep if r["kv"] == kv and r["length"] == length]
            by_depth = {
                f"{depth:g}": float(np.mean([r["correct"] for r in mine if r["depth"] == depth]))
                for depth in sorted({record["depth"] for record in mine})
            }
            rows.append({"cache": kv, "length": str(length), **by_depth})
    return rows


def heat_map(records: Sequence[Record], path: Path) -> None:
    """A PNG: for each cache a map of length by depth (needle in a haystack), and one of length by task."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    caches = list(dict.fromkeys(record["kv"] for record in records))
    lengths = sorted({record["length"] for record in records})
    tasks = list(dict.fromkeys(record["task"] for record in records))
    depths = sorted({record["depth"] for record in records if record["depth"] is not None})
    figure, axes = pyplot.subplots(
        2, len(caches), squeeze=False, figsize=(1.2 + 3.0 * len(caches), 1.6 + 0.28 * (len(tasks) + len(depths))),
        height_ratios=(max(1, len(depths)), len(tasks)), layout="constrained",
    )  # fmt: skip
    for column, kv in enumerate(caches):
        mine = [record for record in records if record["kv"] == kv]
        for axis, field, rows in ((axes[0][column], "depth", depths), (axes[1][column], "task", tasks)):
            grid = np.array([[_share(mine, field, row, length) for length in lengths] for row in rows])
            if not grid.size:
                axis.set_axis_off()
                continue
            axis.imshow(grid, vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
            axis.set_xticks(range(len(lengths)), [str(length) for length in lengths])
            labels = [f"{100 * row:g} %" if field == "depth" else str(row) for row in rows] if column == 0 else []
            axis.set_yticks(range(len(labels)), labels)
            for (y, x), share in np.ndenumerate(grid):
                if np.isfinite(share):
                    axis.text(x, y, f"{100 * share:.0f}", ha="center", va="center", fontsize=7)
        axes[0][column].set_title(textwrap.fill(kv.replace(":", ": "), 30), fontsize=8)
        axes[1][column].set_xlabel("context, tokens")
    axes[0][0].set_ylabel("depth")
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    pyplot.close(figure)


def _share(records: Sequence[Record], field: str, value: object, length: int) -> float:
    correct = [r["correct"] for r in records if r[field] == value and r["length"] == length]
    return float(np.mean(correct)) if correct else float("nan")
