"""Reports from the command line.

python -m python_eval.report RESULTS ... --out report.html

One page from any number of results folders (perplexity, ablation, tune, cache_profile, longbench), its pictures inside,
and the same pictures as PNG files in a folder beside it. Only result files are read.
"""

from __future__ import annotations

import argparse
import base64
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from ..arguments import named
from ..errors import EvalError, run_tool
from ..files import refuse_input, write_text
from .read import SUFFIXES, read_results
from .sections import Section, section_of

COMMAND = "report"


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m python_eval.report", description="One HTML page from results folders"
    )
    parser.add_argument("results", nargs="+", type=named("RESULTS"), metavar="RESULTS", help="folders of finished runs")
    parser.add_argument("--out", type=named("--out"), default=Path("report.html"), metavar="FILE", help="(%(default)s)")
    parser.add_argument("--title", default="livekv: what the caches do", help="of the page")
    return parser.parse_args(arguments)


def page(title: str, sections: Sequence[Section]) -> str:
    """The page, self-contained."""
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True)
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode()
    template = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    return environment.from_string(template).render(title=title, sections=sections)


def run(options: argparse.Namespace) -> int:
    """Reads every folder, then writes the pictures and the page."""
    for path in options.results:
        refuse_input(options.out, (one for one in path.rglob("*") if one.suffix in SUFFIXES))
    sections = [
        section_of(read_results(path), f"{n}-{path.resolve().name}") for n, path in enumerate(options.results, 1)
    ]
    pictures = [picture for section in sections for picture in section.pictures]
    folder = options.out.with_suffix("")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for picture in pictures:
            (folder / f"{picture.name}.png").write_bytes(picture.png)
    except OSError as problem:
        raise EvalError(f"{folder}: cannot write there: {problem.strerror}") from None
    write_text(options.out, page(options.title, sections))
    print(f"{options.out}: {len(sections)} sections, {len(pictures)} pictures, also in {folder}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    return run_tool(COMMAND, lambda: run(parse_arguments(arguments)))


if __name__ == "__main__":
    sys.exit(main())
