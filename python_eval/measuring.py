"""What the measuring commands share: their options, the model they load, and the progress they show."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

import livekv

from .arguments import named, output, positive
from .errors import EvalError
from .files import refuse_input
from .identity import run_config
from .model_file import parts_of, require_model_file
from .run_folder import default_folder
from .specs import spec_of
from .texts import WIKITEXT_PLACES, Window, cut_windows
from .windows import Worker, reads_sealed_keys
from .workers import threads_each

# Files of a run folder, besides .jsonl, that a later run reads.
KEPT = ("config.json", "versions.json", "caches.json", "calibrations.json", "tune.log")


def add_options(parser: argparse.ArgumentParser, *, n_ctx: int = 2048, windows: int = 0) -> None:
    """Model, text, windows, base cache, machine and run folder, the same for every command."""
    parser.add_argument("--model", type=named("--model"), required=True, metavar="GGUF")
    parser.add_argument("--data", nargs="+", default=["wikitext"], metavar="FILE", help="UTF-8 text, or wikitext")
    parser.add_argument(
        "--data-dir",
        type=named("--data-dir"),
        metavar="DIR",
        help="where data sets lie (default: ./data, then the hub)",
    )
    parser.add_argument("--n-ctx", type=positive, default=n_ctx, help="tokens a window; its second half is scored")
    parser.add_argument(
        "--windows",
        type=int,
        default=windows,
        metavar="N",
        help="windows of each text; 0: all it has (default: %(default)s)",
    )
    parser.add_argument("--base", default="f16", metavar="CACHE", help="the cache that divergences are from")
    parser.add_argument("--threads", type=positive, metavar="N", help="of each worker (default: the cores, shared out)")
    parser.add_argument(
        "--dequantize",
        action="store_true",
        help="compute with the numbers in F32 that quantized weights stand for, so that differences are the caches'",
    )
    parser.add_argument("--n-gpu-layers", type=int, default=0, metavar="N")
    parser.add_argument(
        "--workers", type=positive, default=1, metavar="N", help="windows measured at once, in processes"
    )
    parser.add_argument("--ray", metavar="ADDRESS", help="the same over a Ray cluster; `local`: on this machine")
    parser.add_argument("--out", type=named("--out"), metavar="DIR", help="run folder; a killed run goes on there")
    parser.add_argument(
        "--json",
        type=output("--json"),
        metavar="FILE",
        help="the result as JSON as well; - for stdout, in place of the table",
    )


def require_outputs(options: argparse.Namespace, specs: Iterable[str], *more: Path) -> None:
    """EvalError where --json, or one of `more` files that are written, is a file that the command reads: a part of the
    model, a text or another data set, what one of the caches was calibrated to.
    """
    data = options.data_dir or Path("data")
    inputs = [*(parts_of(options.model) if options.model.is_file() else ()), *map(Path, options.data)]
    inputs += [*(data / place for place in WIKITEXT_PLACES), *data.glob("*.jsonl")]
    calibrations = (livekv.KVOptions.parse(spec).calibration for spec in (*specs, options.base))
    inputs += [Path(path) for path in calibrations if path]
    to = [Path(options.json)] if options.json not in (None, "-") else []
    for path in (*to, *more):
        refuse_input(path, inputs)


def open_model(options: argparse.Namespace) -> livekv.Model:
    """The model; EvalError where there is no such file."""
    require_model_file(options.model)
    return livekv.Model(
        options.model,
        n_gpu_layers=options.n_gpu_layers,
        n_threads=threads(options),
        dequantize=options.dequantize,
    )


def threads(options: argparse.Namespace) -> int | None:
    """Threads of each worker; None: all cores."""
    return threads_each(options.threads, options.workers)


def windows_of(model: livekv.Model, options: argparse.Namespace) -> list[Window]:
    """The windows the command measures on."""
    if options.windows < 0:
        raise EvalError(f"--windows {options.windows} is less than 0")
    return cut_windows(model, options.data, options.n_ctx, options.windows, options.data_dir)


def worker_of(options: argparse.Namespace, base: str) -> Worker:
    """What measures a window, here or in another process."""
    return Worker(str(options.model.resolve()), base, options.n_gpu_layers, threads(options), options.dequantize)


def config_of(command: str, options: argparse.Namespace, windows: list[Window], base: str) -> dict[str, Any]:
    """What decides every number of a run, whichever caches it measures; threads and workers do not."""
    texts = {
        name: {
            "windows": sum(window.text == name for window in windows),
            "tokens_sha256": _digest([window.tokens for window in windows if window.text == name]),
        }
        for name in dict.fromkeys(window.text for window in windows)
    }
    changed = {"dequantize": True} if options.dequantize else {}
    return run_config(
        "command", command, options.model, options.n_gpu_layers, texts=texts, n_ctx=options.n_ctx, base=base, **changed
    )


def folder_of(command: str, options: argparse.Namespace, config: Mapping[str, Any]) -> Path:
    """`--out`, or a folder of the configuration. EvalError where --json is one of the files a run goes on with."""
    folder: Path = options.out or default_folder(command, config)
    to = Path(options.json or "-")
    if folder.is_dir() and to.parent.samefile(folder) and (to.suffix == ".jsonl" or to.name in KEPT):
        raise EvalError(f"--json: cannot write {to}: the run keeps its own {to.name} there")
    return folder


def kv_caches(text: str) -> dict[str, str]:
    """{label: canonical spec} of a comma-separated list of caches; EvalError where two have one label."""
    caches: dict[str, str] = {}
    for label, kv in livekv.parse_kv_list(text):
        if label in caches:
            raise EvalError(f"--kv names {label} twice")
        caches[label] = spec_of(kv)
    if not caches:
        raise EvalError("--kv names no cache")
    return caches


def unread_notes(caches: Mapping[str, str], n_ctx: int) -> list[str]:
    """A line for all caches, {label: spec}, that a window of n_ctx tokens cannot tell apart: their first sealed keys
    would be read after its end."""
    silent = [label for label, spec in caches.items() if not reads_sealed_keys(livekv.KVOptions.parse(spec), n_ctx)]
    if not silent:
        return []
    return [
        f"NOTE: in windows of {n_ctx} tokens no sealed key is ever read of: {', '.join(silent)}. Take longer windows, "
        "shorter chunks (chunk-size) or a shorter warm-up (warmup-chunks)."
    ]


@contextmanager
def progress_bar(label: str, unit: str = "window") -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr where that is a terminal: call what it gives with (finished, all)."""
    with tqdm(desc=label, unit=unit, disable=None, file=sys.stderr) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.n = done
            bar.refresh()

        yield show


def print_result(table: str, content: Any, json_to: str | None) -> None:
    """The table on stdout, or with `--json -` the content alone; with `--json FILE` both, the content in FILE."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, indent=2)
    if json_to == "-":
        print(text)
        return
    if json_to is not None:
        try:
            Path(json_to).write_text(text + "\n", encoding="utf-8")
        except OSError as problem:
            raise EvalError(f"--json: cannot write {json_to}: {problem.strerror}") from None
    print(table, end="")


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
