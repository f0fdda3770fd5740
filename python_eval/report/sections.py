"""A section of the page for every results folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import EvalError
from ..record_fields import LIST, NULL, OBJECT, TEXT, WHOLE, Fields
from ..windows import FIELDS, RECORDS, Measured, load, read_arrays
from .ablation_plots import differences
from .cache_plots import distributions, growth, layer_noise
from .fidelity_plots import divergence_by_position
from .front_plots import Point, divergence_against_bits, score_against_bits
from .read import Results, text_rows
from .search_plots import hypervolume_over_trials, search_front
from .style import Picture
from .task_plots import task_bars

# What is drawn of cache_profile's records.
DRAWN_GROWTH: Fields = {
    "label": TEXT, "n_tokens": LIST, "bytes": OBJECT, "snr_k": LIST + NULL, "snr_v": LIST + NULL,
}  # fmt: skip
DRAWN_LAYERS: Fields = {"label": TEXT, "layer": WHOLE, "rotation": OBJECT, "arrays": TEXT}


@dataclass(frozen=True)
class Table:
    """A table of text."""

    title: str
    header: list[str]
    rows: list[list[str]]


@dataclass
class Section:
    """What the page says about one folder."""

    title: str
    about: str
    notes: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)

    def add_table(self, title: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
        """Adds rows as text, of all columns or some."""
        self.tables.append(Table(title, *text_rows(rows, columns)))


def section_of(results: Results, stem: str) -> Section:
    """The section of a folder; pictures are named after `stem`. EvalError where its files are not what they should
    be.
    """
    section = Section(results.title, results.about)
    try:
        _BUILDERS[results.command](results, stem, section)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as problem:
        raise EvalError(f"{results.path}: damaged results of {results.command}: {problem!r}") from None
    return section


def _perplexity(results: Results, stem: str, section: Section) -> None:
    table = results.json("perplexity.json")
    section.notes += table["notes"]
    labels: dict[str, str] = results.json("caches.json")
    measured = load(results.path, results.records(RECORDS, FIELDS))
    for text in results.config["texts"]:
        where = f"{text}, windows of {results.config['n_ctx']} tokens"
        caches = {
            label: measured[spec].of_text(text)
            for label, spec in labels.items()
            if spec != results.config["base"] and spec in measured
        }
        points = [_point(label, one) for label, one in caches.items()]
        section.pictures.append(divergence_against_bits(f"{stem}-pareto-{text}", points, where))
        kl = {label: one.kl for label, one in caches.items()}
        chunk = _one_of({one.chunk_size for one in caches.values()})
        section.pictures.append(
            divergence_by_position(f"{stem}-position-{text}", kl, results.config["n_ctx"], where, chunk)
        )
    section.add_table("Perplexity and divergence", table["rows"], _without(table["rows"], "spec"))
    section.add_table("Paired differences (cache minus the one it is against)", results.rows("differences.json"))


def _ablation(results: Results, stem: str, section: Section) -> None:
    files = sorted(results.path.glob("ablation-*.json"))
    if not files:
        raise EvalError(f"{results.path}: no finished study")
    points: list[Point] = []
    for file in files:
        content = results.json(file.name)
        section.notes += [note for note in content["notes"] if note not in section.notes and note.startswith("NOTE")]
        name = file.stem.removeprefix("ablation-")
        rows = content["rows"]
        section.pictures.append(differences(f"{stem}-{name}", name, content["notes"], rows))
        section.add_table(f"{name}: {content['notes'][0]} {content['notes'][1]}.", rows, _without(rows, "spec"))
        for row in rows:
            if row["kl_mean"] is None:  # the base, compared with nothing
                continue
            named = row["setting"] == "baseline"
            label = f"{name} baseline" if named else f"{name}: {row['setting']}"
            points.append(Point(label, row["bits_per_value"], row["kl_mean"], row["kl_se"], name, named=False))
    where = f"windows of {results.config['n_ctx']} tokens"
    section.pictures.insert(0, divergence_against_bits(f"{stem}-pareto", points, where))


def _tune(results: Results, stem: str, section: Section) -> None:
    trials = [row for row in results.rows("trials.json") if row["kl_mean"] is not None]
    front = results.json("front.json")
    section.notes += front["notes"]
    section.pictures.append(search_front(f"{stem}-front", trials))
    curves = results.json("hypervolume.json")
    section.pictures.append(hypervolume_over_trials(f"{stem}-hypervolume", curves["curves"], curves["corner"]))
    section.add_table("Not beaten by any other", front["rows"])
    section.add_table("The best within the bits of each preset", results.rows("best.json"))
    if (results.path / "comparison.json").exists():
        section.add_table("Methods, equal budgets", results.rows("comparison.json"))


def _cache_profile(results: Results, stem: str, section: Section) -> None:
    records = {record["label"]: record for record in results.records("growth", DRAWN_GROWTH)}
    section.pictures.append(growth(f"{stem}-growth", records, results.config["f16_bytes_per_token"]))
    noise = {label: one for label, one in records.items() if one["snr_k"] is not None}
    if noise:
        section.pictures.append(layer_noise(f"{stem}-snr", noise))
    for record in results.records("distributions", DRAWN_LAYERS):
        arrays = read_arrays(results.path / record["arrays"])
        section.pictures.append(distributions(f"{stem}-layer{record['layer']}", record, arrays))


def _longbench(results: Results, stem: str, section: Section) -> None:
    scores, costs = results.json("scores.json"), results.json("caches.json")
    section.notes += list(dict.fromkeys([*scores["notes"], *costs["notes"]]))
    caches = [row["cache"] for row in costs["rows"]]
    rows = scores["rows"]
    averages = [row for row in rows if str(row["task"]).startswith("average")]
    section.pictures.append(task_bars(f"{stem}-tasks", [row for row in rows if row not in averages], caches))
    if averages or len(rows) == 1 or results.command == "longbench-v2":  # where there is one number a cache
        section.pictures.insert(0, _scores_against_bits(f"{stem}-pareto", (averages or rows)[0], costs["rows"]))
    section.add_table("Scores, percent", rows)
    section.add_table("Speed and memory", costs["rows"], _without(costs["rows"], "options"))


def _scores_against_bits(name: str, scores: Mapping[str, Any], costs: Sequence[Mapping[str, Any]]) -> Picture:
    points = []
    for row in costs:
        difference = scores.get(f"{row['cache']} - {costs[0]['cache']}")
        se = difference["se"] if difference else None
        points.append(Point(row["cache"], row["bits a value"], scores[row["cache"]], se))
    return score_against_bits(name, points, str(scores["task"]))


def _point(label: str, one: Measured) -> Point:
    by_window = one.kl.mean(axis=1)
    se = float(by_window.std(ddof=1) / np.sqrt(len(by_window))) if len(by_window) > 1 else None
    return Point(label, one.bits_per_value, float(one.kl.mean()), se)


def _one_of(sizes: set[int]) -> int | None:
    return next(iter(sizes)) if len(sizes) == 1 else None


def _without(rows: Sequence[Mapping[str, Any]], column: str) -> list[str]:
    return [name for name in dict.fromkeys(key for row in rows for key in row) if name != column]


_BUILDERS: dict[str, Callable[[Results, str, Section], None]] = {
    "perplexity": _perplexity,
    "ablation": _ablation,
    "tune": _tune,
    "cache_profile": _cache_profile,
    "longbench": _longbench,
    "longbench-e": _longbench,
    "longbench-v2": _longbench,
}
