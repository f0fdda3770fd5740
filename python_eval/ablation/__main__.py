"""Ablations from the command line.

python -m python_eval.ablation --study component|...|all [--vary option=a,b,c ...] --model M --data FILE ...

Every setting is measured on the same windows as its study's baseline: KL divergence from the f16 cache, perplexity,
bits a value, and with --longbench the scores of any LongBench tasks. Settings that studies share are measured once; a
killed run goes on where it stopped, and a later one with more studies adds to the same folder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import livekv

from .. import measuring
from ..errors import EvalError, run_tool
from ..model_file import size_warning
from ..run_folder import RunFolder
from ..specs import canonical
from ..tables import markdown, write_tables
from ..windows import FIELDS, RECORDS, Measured, load, measure
from .plan import Plan, make_plan
from .result import NOTE, PUBLISHED_NOTE, Scores, rows_of, short_rows
from .studies import STUDIES, select, vary
from .tasks import add_task_options, load_tasks, score_tasks

COMMAND = "ablation"


class _List(argparse.Action):
    """Prints the studies, as --help prints the options."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        for study in STUDIES.values():
            print(f"{study.name}: {study.question}\n  baseline  {study.baseline}")
            print("".join(f"  {one.name}  ({one.cache or one.changes})\n" for one in study.settings), end="")
        parser.exit()


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m python_eval.ablation",
        description="What each part of the cache is worth",
        epilog=f"studies: {', '.join(STUDIES)}",
    )
    measuring.add_options(parser)
    studies = parser.add_argument_group("studies")
    studies.add_argument(
        "--study",
        metavar="NAME",
        action="append",
        default=[],
        help="a study or all; may be given again (--list shows them)",
    )
    studies.add_argument(
        "--vary",
        metavar="OPTION=A,B,C",
        action="append",
        default=[],
        help="a sweep of your own; `;` parts values with commas",
    )
    studies.add_argument("--baseline", metavar="CACHE", help="start from this cache, not from a study's own")
    studies.add_argument("--list", action=_List, nargs=0, help="print the studies with their settings and stop")
    add_task_options(parser)
    return parser.parse_args(arguments)


def plans_of(options: argparse.Namespace) -> list[Plan]:
    """The studies asked for, every spec checked by the engine."""
    studies = list({study.name: study for name in options.study for study in select(name)}.values())
    studies += [vary(text, options.baseline or "livekv") for text in options.vary]
    if not studies:
        raise EvalError("name a study (--study) or options to vary (--vary)")
    return [make_plan(study, options.baseline) for study in studies]


def run(options: argparse.Namespace) -> int:
    """Measures what is missing, writes a table for every study, prints them."""
    plans = plans_of(options)
    base = canonical(options.base)
    specs = [spec for plan in plans for spec in plan.specs]
    measuring.require_outputs(options, specs)
    model = measuring.open_model(options)
    data = load_tasks(options)
    _check_sessions(model, specs, options.n_ctx)
    windows = measuring.windows_of(model, options)
    config = measuring.config_of(COMMAND, options, windows, base)
    with RunFolder(measuring.folder_of(COMMAND, options, config), config) as folder:
        with measuring.progress_bar(COMMAND) as progress:
            measure(
                folder,
                measuring.worker_of(options, base),
                specs,
                windows,
                n_workers=options.workers,
                ray_address=options.ray,
                progress=progress,
            )
        measured = load(folder.path, folder.records(RECORDS, FIELDS))
        scores = score_tasks(options, model, data, specs, folder) if data else {}
        warnings = size_warning(model.n_params) if data else []
        return _write(folder, plans, measured, scores, warnings, options.json)


def _check_sessions(model: livekv.Model, specs: Sequence[str], n_ctx: int) -> None:
    """What this model refuses is said before hours are spent on the rest."""
    for spec in specs:
        try:
            model.session(n_ctx=n_ctx, kv=livekv.KVOptions.parse(spec))
        except livekv.Error as problem:
            raise EvalError(f"{spec}: {problem}") from None


def _write(
    folder: RunFolder,
    plans: Sequence[Plan],
    measured: Mapping[str, Measured],
    scores: Scores,
    warnings: Sequence[str],
    json_to: str | None,
) -> int:
    printed = []
    legends: dict[str, None] = {}
    studies: dict[str, Any] = {}
    for plan in plans:
        rows = rows_of(plan, measured, scores)
        caches = {"baseline": plan.baseline, **{one.name: one.spec for one in plan.settings}}
        unread = measuring.unread_notes(caches, folder.config["n_ctx"])
        about = (f"Study: {plan.study.name}. {plan.study.question}", f"Baseline: {plan.baseline}", *unread, *warnings)
        stem = "ablation-" + plan.study.name.replace(" ", "-")
        legend = [NOTE, *([PUBLISHED_NOTE] if "published" in rows[-1] else [])]
        legends |= dict.fromkeys(legend)
        write_tables(rows, folder.path, stem, (*about, *legend))
        studies[plan.study.name] = folder.read_json(f"{stem}.json")
        printed.append(markdown(short_rows(rows), about))
    table = "\n".join([*printed, *(f"{note}\n" for note in legends)])
    measuring.print_result(table, {"config": folder.config, "studies": studies}, json_to)
    print(
        f"{folder.path}: {', '.join('ablation-' + plan.study.name.replace(' ', '-') for plan in plans)}",
        file=sys.stderr,
    )
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    return run_tool(COMMAND, lambda: run(parse_arguments(arguments)))


if __name__ == "__main__":
    sys.exit(main())
