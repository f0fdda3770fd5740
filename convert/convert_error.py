"""What goes wrong in a conversion, and how its tools say so."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable


def printable(text: str) -> str:
    """`text` as one line that any terminal can show: other characters as \\x0a, \\u2028 and so on."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


class ConvertError(Exception):
    """A reason not to convert: one printable line a user can act on, whatever it quotes."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


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
        print(f"{name}: {printable(str(problem))}", file=sys.stderr)
        return 1
    return 0
