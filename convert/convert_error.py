"""What goes wrong in a conversion, and how its tools say so."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable


class ConvertError(Exception):
    """A reason not to convert: one line a user can act on."""


def flush_stdout() -> None:
    """Writes out what was printed; OSError, once, where it is lost: a full disk, nobody reads."""
    try:
        sys.stdout.flush()
    except OSError as problem:
        # The interpreter flushes again when it ends; what is left goes nowhere then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OSError(f"cannot write to stdout: {problem.strerror}") from None


def run_tool(name: str, body: Callable[[], str]) -> int:
    """Prints what `body`, which reads its arguments too, returns; the exit status: 0, or after one line on stderr 1 for
    an error, output that cannot be written included, and 130 for Ctrl-C."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # unwinds, so that nothing is left behind
    try:
        try:
            print(body())
        finally:
            flush_stdout()  # what --help prints too
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except (ConvertError, OSError) as problem:
        line = " ".join(str(problem).split())  # names from a checkpoint may hold anything
        print(f"{name}: {line}", file=sys.stderr)
        return 1
    return 0
