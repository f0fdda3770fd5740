"""What goes wrong in an evaluation, and how its tools say so."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

from .convert_folder import CONVERT_FOLDERS

sys.path.extend(CONVERT_FOLDERS)

from convert_error import flush_stdout, printable


class EvalError(Exception):
    """Something a user can mend, said in one printable line, whatever it quotes. Tools print it and exit with 1."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def run_tool(name: str, body: Callable[[], int]) -> int:
    """The exit status of a tool: that of `body`, which reads its arguments too, or after one line on stderr 1 for an
    error and 130 for Ctrl-C.

    Output that cannot be written is an error. Caught are EvalError, livekv.Error and OSError; anything else is a bug
    and shows its traceback.
    """
    try:
        try:
            return body()
        finally:
            flush_stdout()  # what --help prints too
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as problem:
        if not isinstance(problem, (EvalError, OSError, *_engine_errors())):
            raise
        print(f"{name}: {printable(str(problem))}", file=sys.stderr)
        return 1


def _engine_errors() -> tuple[type[Exception], ...]:
    # livekv's own error, if a tool loaded livekv at all: scoring recorded predictions does without it.
    livekv = sys.modules.get("livekv")
    return (livekv.Error,) if livekv is not None else ()
