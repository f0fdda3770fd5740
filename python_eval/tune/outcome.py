"""What searches found: trials, fronts, the best caches, hypervolume over trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import TrialState

from ..divergence import difference
from ..paired import mean_se, paired
from ..tables import Row
from ..windows import Measured
from .front import Point, hypervolume_over_trials, pareto
from .search import ENDED


@dataclass(frozen=True)
class Trial:
    """An ended trial of a study."""

    study: str
    number: int
    spec: str
    preset: str | None
    refused: str | None  # why the engine would not have it; then nothing was measured
    point: Point | None
    kl_windows: tuple[float, ...]  # mean KLD of every window, nats

    @property
    def label(self) -> str:
        """What to call its cache."""
        return self.preset or f"{self.study} {self.number}"


def trials_of(study: optuna.Study) -> list[Trial]:
    """The ended trials of a study, in the order they were begun."""
    trials = []
    for one in study.get_trials(deepcopy=False, states=ENDED):
        attributes: Mapping[str, Any] = one.user_attrs
        complete = one.state == TrialState.COMPLETE
        trials.append(
            Trial(
                study.study_name,
                one.number,
                attributes.get("spec", ""),
                attributes.get("preset"),
                None if complete else attributes.get("refused", "pruned"),
                (one.values[0], one.values[1]) if complete else None,
                tuple(attributes.get("kl_windows", ())),
            )
        )
    return trials


def trial_rows(trials: Sequence[Trial]) -> list[Row]:
    """A row a trial."""
    return [
        {
            "study": one.study,
            "trial": one.number,
            "preset": one.preset,
            "bits_per_value": one.point and one.point[0],
            "kl_mean": one.point and one.point[1],
            "refused": one.refused,
            "spec": one.spec,
        }
        for one in trials
    ]


def measured(trials: Sequence[Trial]) -> list[Trial]:
    """Those with a measurement, one a cache: presets first, then as they came."""
    first: dict[str, Trial] = {}
    for one in sorted((one for one in trials if one.point), key=lambda one: one.preset is None):
        first.setdefault(one.spec, one)
    return list(first.values())


def front_of(trials: Sequence[Trial]) -> list[Trial]:
    """The trials nobody beats, by bits a value."""
    some = measured(trials)
    return [some[i] for i in pareto([one.point for one in some if one.point])]


def front_rows(front: Sequence[Trial], held_out: Mapping[str, Measured]) -> list[Row]:
    """A row a trial of the front; KLD on the windows of the search and, where measured, on held-out ones with its
    error.
    """
    rows: list[Row] = []
    for one in front:
        row: dict[str, Any] = {"cache": one.label, "bits_per_value": one.point and one.point[0]}
        row |= {"kl_mean": mean_se(one.kl_windows).mean, "kl_se": mean_se(one.kl_windows).se}
        if one.spec in held_out:
            apart = mean_se(held_out[one.spec].kl, held_out[one.spec].clusters)
            row |= {"kl_mean_held_out": apart.mean, "kl_se_held_out": apart.se}
        rows.append({**row, "spec": one.spec})
    return rows


def best_for(preset: Trial, trials: Sequence[Trial]) -> Trial:
    """The trial of least KLD among those with no more bits than the preset; the preset itself if nothing beats it."""
    assert preset.point is not None
    within = [(one.point[1], n) for n, one in enumerate(trials) if one.point and one.point[0] <= preset.point[0]]
    return trials[min(within)[1]]


def best_rows(trials: Sequence[Trial], held_out: Mapping[str, Measured]) -> list[Row]:
    """For every preset the best trial within its bits, and the paired difference of their KLDs."""
    some = measured(trials)
    rows: list[Row] = []
    for preset in (one for one in some if one.preset):
        best = best_for(preset, some)
        assert preset.point is not None and best.point is not None
        row: dict[str, Any] = {"within the bits of": preset.preset, "bits_per_value": preset.point[0]}
        row |= {"kl_mean": preset.point[1], "best": best.label, "best_bits_per_value": best.point[0]}
        row |= {"best_kl_mean": best.point[1], "kl_diff": paired(preset.kl_windows, best.kl_windows)}
        if preset.spec in held_out and best.spec in held_out:
            row |= {"kl_diff_held_out": difference(held_out[best.spec], held_out[preset.spec])["kl_diff"]}
        rows.append({**row, "spec": best.spec})
    return rows


def hypervolumes(studies: Mapping[tuple[str, int], Sequence[Trial]]) -> list[dict[str, Any]]:
    """{method, seed, hypervolume after each ended trial} for every search by (method, seed); refused trials add
    nothing.
    """
    curves = []
    for (method, seed), trials in studies.items():
        # A refused trial costs a turn: its place repeats the value before it.
        points = [[one.point] if one.point else [] for one in trials]
        curves.append({"method": method, "seed": seed, "hypervolume": hypervolume_over_trials(points)})
    return curves


def comparison_rows(curves: Sequence[Mapping[str, Any]], n_trials: int) -> list[Row]:
    """A row a method: mean hypervolume over its seeds after the budget and after half of it, and the difference from
    the first method, paired by seed."""
    methods: dict[str, dict[int, list[float]]] = {}
    for curve in curves:
        methods.setdefault(curve["method"], {})[curve["seed"]] = curve["hypervolume"][:n_trials]
    first = next(iter(methods.values()))
    rows: list[Row] = []
    for name, by_seed in methods.items():
        seeds = sorted(by_seed.keys() & first.keys())
        row: dict[str, Any] = {"method": name, "seeds": len(by_seed), "trials": min(map(len, by_seed.values()))}
        for title, share in (("after half", 0.5), ("after all", 1.0)):
            at = [max(0, int(len(by_seed[seed]) * share) - 1) for seed in seeds]
            ours = [by_seed[seed][n] for seed, n in zip(seeds, at, strict=True)]
            theirs = [first[seed][min(n, len(first[seed]) - 1)] for seed, n in zip(seeds, at, strict=True)]
            row[f"hypervolume {title}"] = mean_se(ours)
            row[f"difference {title}"] = None if by_seed is first else paired(theirs, ours)
        rows.append(row)
    return rows
