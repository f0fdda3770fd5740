"""What goes wrong in an evaluation, and how its tools say so."""

from __future__ import annotations

import sys
from collections.abc import Callable

from .convert_folder import CONVERT_FOLDERS

sys.path.extend(CONVERT_FOLDERS)

from convert_error import printable as printable
from convert_error import run


class EvalError(Exception):
    """Something a user can mend, said in one printable line, whatever it quotes. Tools print it and exit with 1."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def run_tool(name: str, body: Callable[[], int]) -> int:
    """The exit status of a tool, as convert_error.run gives it, for EvalError and livekv.Error."""
    return run(name, body, lambda: (EvalError, *_engine_errors()))


def _engine_errors() -> tuple[type[Exception], ...]:
    # livekv's own error, if a tool loaded livekv at all: scoring recorded predictions does without it.
    livekv = sys.modules.get("livekv")
    return (livekv.Error,) if livekv is not None else ()
