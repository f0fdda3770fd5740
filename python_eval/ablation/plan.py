"""A study with every spec made out and checked."""

from __future__ import annotations

from dataclasses import dataclass

import livekv

from ..errors import EvalError
from ..specs import canonical, changed, parse_changes
from .study import Setting, Study


@dataclass(frozen=True)
class PlannedSetting:
    """A setting and its canonical cache spec."""

    name: str
    spec: str
    published: float | None


@dataclass(frozen=True)
class Plan:
    """A study, its baseline's canonical spec and its settings'."""

    study: Study
    baseline: str
    settings: tuple[PlannedSetting, ...]

    @property
    def specs(self) -> list[str]:
        """Every spec, the baseline first."""
        return [self.baseline, *(setting.spec for setting in self.settings)]


def make_plan(study: Study, baseline: str | None = None) -> Plan:
    """The study from its own baseline or from `baseline`; EvalError names the setting that the engine refuses."""
    start = baseline or study.baseline
    settings = tuple(PlannedSetting(one.name, _spec(study, one, start), one.published) for one in study.settings)
    return Plan(study, _canonical(study, "baseline", start), settings)


def _spec(study: Study, setting: Setting, start: str) -> str:
    if setting.cache:
        return _canonical(study, setting.name, setting.cache)
    return _canonical(study, setting.name, changed(start, parse_changes(setting.changes)))


def _canonical(study: Study, name: str, spec: str) -> str:
    try:
        return canonical(spec)
    except livekv.Error as problem:
        raise EvalError(f"study {study.name}, {name}: {problem}") from None
