"""lm-evaluation-harness's own command line, with the model `livekv` known and taken when no other is named.

python -m python_eval.lm_eval --model_args path=M.gguf,kv=livekv --tasks NAMES [lm_eval's other arguments]
"""

from __future__ import annotations

import os
import sys

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
    parser = HarnessCLI()
    options = parser.parse_args()
    if getattr(options, "command", None) == "run" and not options.model and not options.config:
        options.model = "livekv"
    parser.execute(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
