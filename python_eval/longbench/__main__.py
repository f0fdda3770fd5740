"""LongBench from the command line.

python -m python_eval.longbench --model M [--tasks LIST] [--kv LIST] [--data-dir DIR] ...   runs and scores
python -m python_eval.longbench --score DIR [--e | --v2]                                    only scores
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from ..arguments import named, positive
from ..errors import EvalError, run_tool
from ..identity import run_config
from ..model_file import model_facts, require_model_file
from ..run_folder import RunFolder, default_folder
from ..workers import threads_each
from .score import score_folder, score_v2_folder
from .tasks import E_TASKS, LongBenchError, Task, select


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m python_eval.longbench", description="LongBench v1, -E and v2")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--model", type=named("--model"), metavar="M", help="GGUF file: answer the samples with it and score them"
    )
    what.add_argument(
        "--score",
        type=named("--score"),
        metavar="DIR",
        help="only score the recorded predictions DIR/<task>.jsonl (official format) and print {task: score} as JSON",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--e", action="store_true", help="LongBench-E: scores by length, 0-4k, 4-8k and 8k+")
    form.add_argument("--v2", action="store_true", help="LongBench v2: multiple choice, accuracies")
    run = parser.add_argument_group("a run")
    run.add_argument("--tasks", default="all", metavar="LIST", help="all, en, zh, or names with commas (all)")
    run.add_argument(
        "--kv",
        default="f16,livekv",
        metavar="LIST",
        help="caches, the first is what the others are compared with, e.g. f16,q8_0,livekv:kv-bits=4,3 (f16,livekv)",
    )
    run.add_argument(
        "--data-dir", type=named("--data-dir"), metavar="DIR", help="<task>.jsonl files; without it the hub is asked"
    )
    run.add_argument("--limit", type=positive, metavar="N", help="only the first N samples of each task")
    run.add_argument(
        "--out", type=named("--out"), metavar="DIR", help="results; a folder that has some is gone on with"
    )
    run.add_argument("--n-ctx", type=positive, metavar="N", help="context (what the model was trained with)")
    run.add_argument(
        "--max-length",
        type=positive,
        metavar="N",
        help="tokens of a prompt before its middle is cut (what the context leaves; officially 3500 for Llama-2-chat)",
    )
    run.add_argument("--no-chat", action="store_true", help="bare prompts for a model that has a chat template")
    run.add_argument(
        "--threads", type=positive, metavar="N", help="CPU threads of each answer (the cores shared by the workers)"
    )
    run.add_argument("--n-gpu-layers", type=int, default=0, metavar="N", help="layers computed on the GPU (0)")
    run.add_argument("--seed", type=int, default=0, metavar="N", help="of v2's sampling; v1 and -E are greedy (0)")
    run.add_argument(
        "--batch", type=positive, default=8, metavar="N", help="answers that advance together, of a worker each (8)"
    )
    run.add_argument("--workers", type=positive, default=1, metavar="N", help="answers at a time, a process each (1)")
    run.add_argument("--ray", metavar="ADDRESS", help="workers of a Ray cluster: auto, local, HOST:PORT or ray://...")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    def body() -> int:
        options = parse_arguments(arguments)
        return _score(options) if options.score else _run(options)

    return run_tool("longbench", body)


def _score(options: argparse.Namespace) -> int:
    scores = score_v2_folder(options.score) if options.v2 else score_folder(options.score, e=options.e)
    print(json.dumps(scores, indent=4))
    return 0


def _run(options: argparse.Namespace) -> int:
    # Scoring does without the engine.
    from .results import summarize
    from .run import Settings, predict
    from .source import load, load_v2

    livekv = _livekv()
    data = (
        load_v2(options.data_dir, options.limit)
        if options.v2
        else load(_tasks(options), options.data_dir, options.limit, e=options.e)
    )
    caches = {label: kv.spec for label, kv in livekv.parse_kv_list(options.kv)}
    require_model_file(options.model)  # what is no file is said before it is loaded
    model = livekv.Model(options.model)
    facts = model_facts(model)
    settings = Settings(
        options.model.resolve(),
        caches,
        options.n_ctx or model.n_ctx_train,
        options.max_length,
        threads_each(options.threads, options.workers),
        options.n_gpu_layers,
        model.has_chat_template and not options.no_chat,
        options.seed,
    )
    del model
    config = run_config(
        "benchmark",
        "longbench-v2" if options.v2 else "longbench-e" if options.e else "longbench",
        options.model,
        settings.n_gpu_layers,
        caches=caches,
        tasks=list(data.samples),
        data=data.identity,
        n_ctx=settings.n_ctx,
        max_length=settings.max_length,
        chat_template=settings.chat,
        threads=options.threads,
        seed=settings.seed,
    )
    with RunFolder(options.out or default_folder(config["benchmark"], config), config) as folder:
        folder.write_json("model.json", facts)
        predict(folder, settings, data, options.workers, options.ray, options.batch)
        print(summarize(folder, caches, list(data.samples), facts, e=options.e))
        print(f"results in {folder.path}", file=sys.stderr)
    return 0


def _tasks(options: argparse.Namespace) -> list[Task]:
    chosen = select(options.tasks)
    if not options.e:
        return chosen
    if options.tasks in ("all", "en", "zh"):
        chosen = [one for one in chosen if one.name in E_TASKS]
    for one in chosen:
        if one.name not in E_TASKS:
            raise LongBenchError(f"{one.name} is no task of LongBench-E; those are {', '.join(E_TASKS)}")
    if not chosen:
        raise LongBenchError(f"LongBench-E has no tasks among '{options.tasks}'")
    return chosen


def _livekv() -> Any:
    try:
        import livekv
    except ImportError as problem:
        raise EvalError(f"the package livekv is missing ({problem}); pip install . in the checkout brings it") from None
    return livekv


if __name__ == "__main__":
    sys.exit(main())
