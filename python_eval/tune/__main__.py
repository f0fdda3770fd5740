"""Tuning from the command line.

python -m python_eval.tune --method random|bayesian|evolutionary|compare --trials N --model M --data FILE ...

Searches the options of a policy (--policy, livekv by default) for few bits a value and little KL divergence from the
base cache. The presets are tried first. A killed search goes on in its storage; the same command in several shells, or
on several machines with one --storage, shares the trials among them. What is best on the windows of the search is
measured again on held-out ones.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import optuna

import livekv

from .. import measuring
from ..arguments import positive
from ..errors import EvalError, run_tool
from ..run_folder import RunFolder, one_at_a_time
from ..specs import canonical
from ..tables import markdown, write_tables
from ..texts import Window
from ..windows import FIELDS, RECORDS, Measured, load, measure
from ..workers import run_jobs
from .front import CORNER
from .outcome import (
    Trial,
    best_for,
    best_rows,
    comparison_rows,
    front_of,
    front_rows,
    hypervolumes,
    measured,
    trial_rows,
    trials_of,
)  # fmt: skip
from .search import METHODS, Search, Share, Task, create, method, open_study, storage_files
from .space import SPACES, fixed, space_of

COMMAND = "tune"
NOTES = (
    "KLD: mean Kullback-Leibler divergence in nats from the base cache. Standard errors are over windows, differences "
    "paired by window. A search picks what is lucky on its own windows: held-out columns are windows it never saw.",
)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m python_eval.tune", description="Search of the cache's options")
    measuring.add_options(parser, windows=4)
    search = parser.add_argument_group("search")
    search.add_argument("--policy", default="livekv", metavar="NAME", help=f"{', '.join(SPACES)} (%(default)s)")
    search.add_argument(
        "--method", default="bayesian", metavar="NAME", help=f"{', '.join(METHODS)} or compare (%(default)s)"
    )
    search.add_argument(
        "--trials", type=positive, default=100, metavar="N", help="of each search (%(default)s)"
    )
    search.add_argument(
        "--storage", metavar="URL", help="journal:FILE, sqlite:///FILE, postgresql://... (a journal in --out)"
    )
    search.add_argument("--seed", type=int, default=1, metavar="N")
    search.add_argument(
        "--seeds", type=positive, default=3, metavar="N", help="of each method that is compared"
    )
    search.add_argument(
        "--fix",
        nargs="+",
        default=[],
        metavar="OPTION=VALUE",
        help="hold options at a value; k-bits and v-bits are those of kv-bits",
    )
    search.add_argument(
        "--held-out", type=int, default=4, metavar="N", help="windows of each text kept from the search"
    )
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> int:
    """Searches what is missing of the budget, measures the best again, writes and prints the tables."""
    names = list(METHODS) if options.method == "compare" else [options.method]
    for name in names:
        method(name)
    space = fixed(space_of(options.policy), options.fix, options.policy)
    base = canonical(options.base)
    measuring.require_outputs(options, (), *storage_files(options.storage or ""))
    model = measuring.open_model(options)
    windows, held_out = _windows(model, options)
    config = measuring.config_of(COMMAND, options, windows, base)
    config |= {"held_out": options.held_out, "space": [repr(one) for one in space]}
    path = measuring.folder_of(COMMAND, options, config)
    with RunFolder(path, config, exclusive=False) as folder:
        storage = options.storage or f"journal:{path / 'tune.log'}"
        seeds = range(options.seed, options.seed + (options.seeds if options.method == "compare" else 1))
        searches = [
            Search(storage, f"{name}-{seed}", name, seed, options.trials, options.policy)
            for seed in seeds
            for name in names
        ]
        with one_at_a_time(path):  # others find the studies made
            for search in searches:
                create(search, config, space)
        task = Task(
            str(options.model.resolve()), tuple(window.tokens for window in windows), base, options.n_gpu_layers,
            measuring.threads(options), space, options.policy,
        )  # fmt: skip
        _search(searches, task, options)
        found = {(one.method, one.seed): trials_of(open_study(one)) for one in searches}
        every = [trial for trials in found.values() for trial in trials]
        if not measured(every):
            raise EvalError(f"no trial could be measured; the first: {every[0].refused}")
        specs = [one.spec for one in _worth_measuring_again(every)]
        return _write(folder, found, _measure_again(folder, specs, held_out, base, options), options)


def _windows(model: livekv.Model, options: argparse.Namespace) -> tuple[list[Window], list[Window]]:
    """Windows of the search and the ones after them, of every text."""
    n_search, n_held_out = options.windows, options.held_out
    if n_search < 1 or n_held_out < 0:
        raise EvalError("--windows is at least 1 here, --held-out at least 0")
    both = argparse.Namespace(**{**vars(options), "windows": n_search + n_held_out})
    every = measuring.windows_of(model, both)
    return [one for one in every if one.index < n_search], [one for one in every if one.index >= n_search]


def _search(searches: Sequence[Search], task: Task, options: argparse.Namespace) -> None:
    """All searches to the end of their budgets. Several are shared out among the workers, so that each keeps its own
    order of trials; a single one is run by all of them at once."""
    if len(searches) > 1:
        shares = [Share(one, task) for one in searches]
    else:
        shares = [Share(searches[0], task)] * options.workers
    with measuring.progress_bar(COMMAND, "trial" if options.workers == 1 else "search") as progress:
        if options.workers == 1 and options.ray is None:
            for n, share in enumerate(shares):
                share.run(partial(_show, progress, n * options.trials, len(shares) * options.trials))
        else:
            for done, _ in enumerate(run_jobs(shares, Share.run, options.workers, options.ray), start=1):
                progress(done, len(shares))


def _show(progress: Callable[[int, int], None], earlier: int, total: int, ended: int) -> None:
    progress(earlier + ended, total)


def _measure_again(
    folder: RunFolder, specs: Sequence[str], held_out: Sequence[Window], base: str, options: argparse.Namespace
) -> dict[str, Measured]:
    if not held_out:
        return {}
    with measuring.progress_bar("held-out windows") as progress:
        measure(
            folder, measuring.worker_of(options, base), specs, held_out,
            n_workers=options.workers, ray_address=options.ray, progress=progress,
        )  # fmt: skip
    return load(folder.path, folder.records(RECORDS, FIELDS))


def _worth_measuring_again(trials: Sequence[Trial]) -> list[Trial]:
    """The presets, the best within the bits of each, and the front."""
    some = measured(trials)
    presets = [one for one in some if one.preset]
    return [*presets, *(best_for(one, some) for one in presets), *front_of(trials)]


def _write(
    folder: RunFolder,
    found: Mapping[tuple[str, int], Sequence[Trial]],
    held_out: Mapping[str, Measured],
    options: argparse.Namespace,
) -> int:
    every = [trial for trials in found.values() for trial in trials]
    front, best = front_rows(front_of(every), held_out), best_rows(every, held_out)
    write_tables(trial_rows(every), folder.path, "trials")
    write_tables(front, folder.path, "front", NOTES)
    write_tables(best, folder.path, "best", NOTES)
    curves = hypervolumes(found)
    corner = (
        f"Hypervolume: bits times decades of KLD beaten, from the corner of {CORNER[0]:g} bits and {CORNER[1]:g} nats."
    )
    folder.write_json("hypervolume.json", {"corner": CORNER, "curves": curves})
    printed = [
        markdown(front, ("Not beaten by any other:",)),
        markdown(best, ("The best within the bits of each preset:",)),
    ]
    content: dict[str, Any] = {"config": folder.config, "front": folder.read_json("front.json")["rows"]}
    content["best"] = folder.read_json("best.json")["rows"]
    if options.method == "compare":
        rows = comparison_rows(curves, options.trials)
        write_tables(rows, folder.path, "comparison", (corner,))
        content["comparison"] = folder.read_json("comparison.json")["rows"]
        printed.append(markdown(rows, (corner,)))
    measuring.print_result("\n".join([*printed, *(f"{line}\n" for line in NOTES)]), content, options.json)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return run_tool(COMMAND, lambda: run(parse_arguments(arguments)))


if __name__ == "__main__":
    sys.exit(main())
