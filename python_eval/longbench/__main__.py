"""LongBench from the command line.

python -m python_eval.longbench --score DIR [--e | --v2]
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

from .score import score_folder, score_v2_folder
from .tasks import LongBenchError


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m python_eval.longbench", description="LongBench v1, -E and v2")
    parser.add_argument(
        "--score",
        type=Path,
        metavar="DIR",
        required=True,
        help="score the recorded predictions DIR/<task>.jsonl (official format) and print {task: score} as JSON",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--e", action="store_true", help="LongBench-E: scores by length, 0-4k, 4-8k and 8k+")
    form.add_argument("--v2", action="store_true", help="the files are LongBench v2 results: accuracies by file")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        scores = score_v2_folder(options.score) if options.v2 else score_folder(options.score, e=options.e)
    except KeyboardInterrupt:
        print("longbench: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except (LongBenchError, OSError) as problem:
        print(f"longbench: {problem}", file=sys.stderr)
        return 1
    print(json.dumps(scores, indent=4))
    return 0


if __name__ == "__main__":
    sys.exit(main())
