"""What goes wrong in a conversion, and how its tools say so."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable


class ConvertError(Exception):
    """A reason not to convert: one line a user can act on."""


def run_tool(name: str, body: Callable[[], str]) -> int:
    """Prints what `body` returns; the exit status: 0, or after one line on stderr 1 for an error and 130 for Ctrl-C."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # unwinds, so that nothing is left behind
    try:
        print(body())
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except (ConvertError, OSError) as problem:
        line = " ".join(str(problem).split())  # names from a checkpoint may hold anything
        print(f"{name}: {line}", file=sys.stderr)
        return 1
    return 0
