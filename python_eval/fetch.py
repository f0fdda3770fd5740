"""Downloads what evaluations need from the Hugging Face hub, and converts the model.

python -m python_eval.fetch [--model HF_ID] [--data longbench,longbench-v2,wikitext] [--out DIR] [--type q8_0]

Interrupted downloads go on where they stopped when the same command is run again.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from .arguments import named
from .errors import EvalError, run_tool
from .files import write_text, written_whole
from .hub import download_checkpoint, longbench_folder, longbench_v2_file, wikitext_splits


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m python_eval.fetch", description="downloads a checkpoint and data sets, and converts the model"
    )
    parser.add_argument("--model", metavar="HF_ID", help="owner/name of a Llama or Mistral checkpoint on the hub")
    parser.add_argument("--data", metavar="LIST", default="", help=f"of {', '.join(DATA)}, with commas")
    parser.add_argument(
        "--out", type=named("--out"), default=Path("data"), metavar="DIR", help="where everything goes (data)"
    )
    parser.add_argument("--type", default="q8_0", help="of the model's matrices: f32, f16, q8_0, q4_0 (q8_0)")
    options = parser.parse_args(arguments)
    options.data = [name.strip() for name in options.data.split(",") if name.strip()]
    if not options.model and not options.data:
        parser.error("nothing to fetch: name --model, --data or both")
    return options


def main(arguments: list[str] | None = None) -> int:
    return run_tool("fetch", lambda: _fetch(parse_arguments(arguments)))


def _fetch(options: argparse.Namespace) -> int:
    for name in options.data:
        if name not in DATA:
            raise EvalError(f"unknown data set '{name}'; there are {', '.join(DATA)}")
    for name in options.data:
        print(f"{name}: {DATA[name](options.out)}")
    if options.model:
        print(_model(options.model, options.out, options.type))
    return 0


def _longbench(out: Path) -> str:
    source = longbench_folder()
    target = out / "longbench"
    target.mkdir(parents=True, exist_ok=True)
    files = sorted(source.glob("*.jsonl"))
    for file in files:
        _copy(file, target / file.name)
    return f"{len(files)} files in {target}, for --data-dir"


def _longbench_v2(out: Path) -> str:
    target = out / "longbench" / "longbench_v2.jsonl"
    target.parent.mkdir(parents=True, exist_ok=True)
    _copy(longbench_v2_file(), target)
    return f"{target}; its folder is for --data-dir"


def _wikitext(out: Path) -> str:
    target = out / "wikitext-2-raw"
    for split, text in wikitext_splits().items():
        write_text(target / f"wiki.{'valid' if split == 'validation' else split}.raw", text)
    return str(target)


def _model(repository: str, out: Path, kind: str) -> str:
    try:
        from livekv.conversion import convert_hf
    except ImportError as problem:
        raise EvalError(f"converting needs the package livekv ({problem})") from None
    target = out / "models" / f"{repository.replace('/', '--')}-{kind}.gguf"
    if target.is_file():
        return f"{target} is there already"
    folder = download_checkpoint(repository)
    target.parent.mkdir(parents=True, exist_ok=True)
    return convert_hf(folder, target, kind)


def _copy(source: Path, target: Path) -> None:
    with written_whole(target) as temporary:
        shutil.copyfile(source, temporary)


DATA: dict[str, Callable[[Path], str]] = {
    "longbench": _longbench,
    "longbench-v2": _longbench_v2,
    "wikitext": _wikitext,
}

if __name__ == "__main__":
    sys.exit(main())
