"""lm-evaluation-harness's own command line, with the model `livekv` known and taken when no other is named.

python -m python_eval.lm_eval --model_args path=M.gguf,kv=livekv --tasks NAMES [--batch N] [lm_eval's other arguments]

--batch N: sequences that livekv advances together (8), the model argument `batch`.
"""

from __future__ import annotations

import argparse
import os
import sys

from ..arguments import positive
from ..errors import EvalError, run_tool


def main() -> int:
    return run_tool("lm_eval", _run)


def _run() -> int:
    # One sequence at a time needs no threads of the tokenizers package, which would complain of forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        from lm_eval._cli import HarnessCLI  # type: ignore[import-untyped]
        from lm_eval.utils import setup_logging  # type: ignore[import-untyped]
    except ImportError as problem:
        raise EvalError(f"lm-evaluation-harness is missing ({problem}); pip install 'livekv[eval]' brings it") from None
    from . import model  # noqa: F401  registers `livekv`

    setup_logging()
    own = argparse.ArgumentParser("python -m python_eval.lm_eval", add_help=False, allow_abbrev=False)
    own.add_argument("--batch", type=positive, metavar="N")
    batch, sys.argv[1:] = own.parse_known_args()  # the harness reads sys.argv
    parser = HarnessCLI()
    options = parser.parse_args()
    is_run = getattr(options, "command", None) == "run"
    if is_run and not options.model and not options.config:
        options.model = "livekv"
    if batch.batch is not None:
        if not is_run or options.model != "livekv":
            raise EvalError("--batch is the model livekv's: give --model livekv")
        options.model_args = {**(options.model_args or {}), "batch": batch.batch}
    try:
        parser.execute(options)
    except ValueError as problem:
        if str(problem).startswith("Tasks not found"):  # the harness has no exception of its own for it
            raise EvalError(str(problem)) from None
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
