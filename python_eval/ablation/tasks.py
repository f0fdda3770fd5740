"""LongBench scores of an ablation's settings, by the LongBench runner."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .. import measuring
from ..arguments import positive
from ..identity import run_config
from ..longbench.run import Settings, answers, predict
from ..longbench.score import score_prediction
from ..longbench.source import DataSet, load
from ..longbench.tasks import select, task
from ..run_folder import RunFolder
from ..windows import slug
from .result import Scores

if TYPE_CHECKING:
    import livekv


def add_task_options(parser: argparse.ArgumentParser) -> None:
    """What --longbench needs."""
    group = parser.add_argument_group("LongBench")
    group.add_argument("--longbench", metavar="TASKS", help="score these tasks too: names with commas, all, en, zh")
    group.add_argument("--limit", type=positive, metavar="N", help="only the first N samples of each task")
    group.add_argument(
        "--task-ctx", type=positive, metavar="N", help="context (what the model was trained with)"
    )


def load_tasks(options: argparse.Namespace) -> DataSet | None:
    """The samples of --longbench; None without it."""
    if options.longbench is None:
        return None
    return load(select(options.longbench), options.data_dir, options.limit, e=False)


def score_tasks(
    options: argparse.Namespace, model: livekv.Model, data: DataSet, specs: Sequence[str], folder: RunFolder
) -> Scores:
    """Every sample's score in percent, {spec: {task: [...]}}.

    Answers are kept in the run folder's `longbench`, by cache, and not asked for twice.
    """
    # Answers are filed by cache: a spec is too long for a folder's name.
    caches = {slug(spec): spec for spec in specs}
    settings = Settings(
        options.model.resolve(),
        caches,
        options.task_ctx or model.n_ctx_train,
        n_threads=measuring.threads(options),
        n_gpu_layers=options.n_gpu_layers,
        chat=model.has_chat_template,
    )
    config = run_config(
        "command",
        "ablation-longbench",
        options.model,
        settings.n_gpu_layers,
        data=data.identity,
        n_ctx=settings.n_ctx,
        chat_template=settings.chat,
    )
    with RunFolder(folder.path / "longbench", config) as answered:
        predict(answered, settings, data, options.workers, options.ray)
        return {
            spec: {name: [_percent(name, record) for record in answers(answered, label, name)] for name in data.samples}
            for label, spec in caches.items()
        }


def _percent(name: str, record: Mapping[str, Any]) -> float:
    return 100 * score_prediction(task(name), record["pred"], record["answers"], record["all_classes"] or ())
