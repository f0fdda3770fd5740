"""A search: an Optuna study in a storage that several processes share, and the trials that measure caches for it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

import livekv

from ..errors import EvalError
from ..specs import canonical
from ..windows import base_for, reads_sealed_keys
from .space import Parameter, cache_spec, params_of

# Trials that have ended; those that a killed process left running are not counted and not waited for.
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
PRESETS = ("default", "small", "tiny", "quality", "reference")


def presets_of(policy: str) -> tuple[str, ...]:
    """The presets that the policy has."""
    return PRESETS if policy == "livekv" else ("default", "reference")


def _random(seed: int) -> BaseSampler:
    return RandomSampler(seed=seed)


def _bayesian(seed: int) -> BaseSampler:
    """Tree-structured Parzen estimator; its multi-objective form is Ozaki et al. 2022 (MOTPE)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(seed=seed, multivariate=True)


def _evolutionary(seed: int) -> BaseSampler:
    """NSGA-II (Deb et al. 2002). Budgets here are a few hundred trials: generations of 16 leave it some."""
    return NSGAIISampler(seed=seed, population_size=16)


METHODS: dict[str, Callable[[int], BaseSampler]] = {
    "random": _random,
    "bayesian": _bayesian,
    "evolutionary": _evolutionary,
}


class SeededByTrial(BaseSampler):
    """A sampler whose random numbers depend on the seed and the trial's number alone, so that a search that is gone on
    with, or shared by several processes, does not draw what has been drawn."""

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self._make, self._seed = make, seed
        self._inner = make(seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._inner = self._make(int(np.random.SeedSequence([self._seed, trial.number]).generate_state(1)[0]))
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._inner.after_trial(study, trial, state, values)


def method(name: str) -> Callable[[int], BaseSampler]:
    """The sampler of a method; EvalError names the known ones."""
    if name not in METHODS:
        raise EvalError(f"unknown method '{name}'; known: {', '.join(METHODS)}, compare")
    return METHODS[name]


def storage_files(url: str) -> list[Path]:
    """The file that a storage is kept in; none of a database that is a server."""
    found = re.fullmatch(r"(?:journal:|sqlite:///)([^?]+).*", url, re.DOTALL)
    return [Path(found[1])] if found else []


def open_storage(url: str) -> BaseStorage:
    """`journal:FILE`, or a database as SQLAlchemy names it (`sqlite:///FILE`, `postgresql://...`)."""
    try:
        if url.startswith("journal:"):
            return JournalStorage(JournalFileBackend(url.removeprefix("journal:")))
        if not url.startswith("sqlite:"):
            return RDBStorage(url)
        storage = RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}})
        _lock_before_reading(storage)
        return storage
    except Exception as problem:  # SQLAlchemy, its drivers and the file system each have their own
        raise EvalError(f"storage {url}: {str(problem).splitlines()[0]}") from None


def _lock_before_reading(storage: RDBStorage) -> None:
    """SQLite has no SELECT ... FOR UPDATE: two processes could both read that a queued trial waits, and both run it. So
    every transaction takes the lock at its start; others wait for their turn."""

    def leave_transactions_to_us(connection: Any, _: object) -> None:
        connection.isolation_level = None

    def begin(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    storage.engine.dispose()  # connections made so far would not know
    sqlalchemy.event.listen(storage.engine, "connect", leave_transactions_to_us)
    sqlalchemy.event.listen(storage.engine, "begin", begin)


@dataclass(frozen=True)
class Task:
    """What a trial measures; the same for every process of a search."""

    model_path: str
    windows: tuple[tuple[int, ...], ...]  # [n_windows][n_ctx] tokens
    base: str
    n_gpu_layers: int
    n_threads: int | None
    space: tuple[Parameter, ...]
    policy: str = "livekv"


@dataclass
class Evaluation:
    """Measures a cache; keeps the model between trials."""

    task: Task
    _model: livekv.Model | None = field(default=None, repr=False)

    def __call__(self, spec: str) -> dict[str, Any]:
        """Bits a value, mean KLD of every window, mean negative log-likelihood; livekv.Error for what is refused."""
        task = self.task
        if self._model is None:
            self._model = livekv.Model(task.model_path, n_gpu_layers=task.n_gpu_layers, n_threads=task.n_threads)
        kv, n_ctx = livekv.KVOptions.parse(spec), len(task.windows[0])
        self._model.session(n_ctx=n_ctx, kv=kv)
        measured = livekv.fidelity(
            self._model,
            [token for window in task.windows for token in window],
            n_ctx=n_ctx,
            kv=kv,
            base=base_for(task.base, kv),
            n_threads=task.n_threads,
        )
        return {
            "bits_per_value": float(measured.bits_per_value),
            "kl_windows": [float(one) for one in np.asarray(measured.kl).mean(axis=1)],
            "nll_mean": float(np.asarray(measured.nll).mean()),
        }


@dataclass(frozen=True)
class Search:
    """One method with one seed and its budget."""

    storage: str
    study: str
    method: str
    seed: int
    n_trials: int  # ended ones, over all processes
    policy: str = "livekv"


def create(search: Search, config: dict[str, Any], space: Sequence[Parameter]) -> optuna.Study:
    """The study, new or gone on with; EvalError where it was begun for something else. The presets are queued first."""
    storage = open_storage(search.storage)
    study = optuna.create_study(
        storage=storage, study_name=search.study, directions=["minimize", "minimize"], load_if_exists=True
    )
    known = study.user_attrs.get("config")
    if known is None:
        study.set_user_attr("config", config)
        for name in presets_of(search.policy):
            params = params_of(preset_options(name, search.policy), space)
            if params is not None:
                study.enqueue_trial(params, user_attrs={"preset": name})
    elif known != config:
        field_name = next(key for key in {**known, **config} if known.get(key) != config.get(key))
        raise EvalError(
            f"study {search.study} in {search.storage} was begun with another {field_name}: "
            f"{known.get(field_name)}, now {config.get(field_name)}; name another storage"
        )
    return study


def preset_options(name: str, policy: str = "livekv") -> dict[str, str]:
    """A preset's option values as text, by their names."""
    kv = livekv.KVOptions.preset(name, policy=policy)
    return {row.flag.removeprefix("--"): _text(getattr(kv, row.field)) for row in livekv.kv_options_table()}


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return ("off", "on")[value] if isinstance(value, bool) else str(value)


def open_study(search: Search) -> optuna.Study:
    """The study of a search that `create` made."""
    return optuna.load_study(storage=open_storage(search.storage), study_name=search.study)


@dataclass(frozen=True)
class Share:
    """What one process does for a search: trials until the study has its budget. Several may share one search."""

    search: Search
    task: Task

    def run(self, on_trial: Callable[[int], None] = lambda ended: None) -> None:
        """Runs to the end of the budget; `on_trial` is called after each trial with how many have ended."""
        # Each process tells its own; what ends a search is said once, by the tool.
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        search, study = self.search, open_study(self.search)
        study.sampler = SeededByTrial(method(search.method), search.seed)
        try:
            study.optimize(
                Objective(Evaluation(self.task)),
                n_trials=max(0, search.n_trials - n_ended(study)),
                callbacks=[
                    optuna.study.MaxTrialsCallback(search.n_trials, states=ENDED),
                    lambda study, _: on_trial(n_ended(study)),
                ],
            )
        except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as problem:
            what = str(problem).splitlines()[0]
            raise EvalError(f"storage {search.storage}: {what}; ended trials are kept") from None


def n_ended(study: optuna.Study) -> int:
    """Trials that count against the budget."""
    return len(study.get_trials(deepcopy=False, states=ENDED))


@dataclass
class Objective:
    """A trial: its cache measured, or pruned where the engine refuses it or the windows would read no sealed key."""

    evaluate: Evaluation

    def __call__(self, trial: optuna.Trial) -> tuple[float, float]:
        task = self.evaluate.task
        spec = cache_spec({one.option: one.suggest(trial) for one in task.space}, task.policy)
        n_ctx = len(self.evaluate.task.windows[0])
        try:
            if not reads_sealed_keys(livekv.KVOptions.parse(spec), n_ctx):
                raise livekv.Error(f"no sealed key is read in windows of {n_ctx} tokens")
            spec = canonical(spec)
            trial.set_user_attr("spec", spec)
            result = _earlier(trial.study, spec) or self.evaluate(spec)
        except livekv.Error as problem:
            refused = str(problem).removeprefix(f"cache '{spec}': ")
            trial.set_user_attr("refused", refused)
            raise optuna.TrialPruned(refused) from None
        for key, value in result.items():
            trial.set_user_attr(key, value)
        return result["bits_per_value"], float(np.mean(result["kl_windows"]))


def _earlier(study: optuna.Study, spec: str) -> dict[str, Any] | None:
    """What this study measured for the same cache: the measurement is deterministic, and evolution repeats itself."""
    same: Sequence[FrozenTrial] = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    attributes = next((one.user_attrs for one in same if one.user_attrs.get("spec") == spec), None)
    return attributes and {key: attributes[key] for key in ("bits_per_value", "kl_windows", "nll_mean")}
