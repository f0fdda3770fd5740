"""What goes wrong in a conversion, and how its tools say so."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TextIO


def printable(text: str) -> str:
    """`text` as one line that any terminal can show: other characters as \\x0a, \\u2028 and so on."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


class ConvertError(Exception):
    """A reason not to convert: one printable line a user can act on, whatever it quotes."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def named(what: str, error: type[Exception] = ConvertError) -> Callable[[str], Path]:
    """What reads a file's or a folder's name from an argument and raises `error` for an empty one, which Path alone
    takes for the current folder."""

    def path(text: str) -> Path:
        if not text:
            raise error(f"{what} is '', which names no file and no folder")
        return Path(text)

    return path


class Stdout:
    """sys.stdout for the length of a tool. What cannot be written is an error there, and again at the end: argparse
    keeps it to itself, and print writes nothing at all where stdout is closed."""

    def __init__(self, stream: TextIO | None) -> None:
        # A closed one is something that can be opened and not written to.
        self._stream = stream or os.fdopen(os.open(os.devnull, os.O_RDONLY), "w")
        self._problem: OSError | None = None

    def write(self, text: str) -> int:
        with self._noted():
            return self._stream.write(text)

    def flush(self) -> None:
        with self._noted():
            self._stream.flush()

    def finish(self) -> None:
        """OSError where anything that was written is lost."""
        if self._problem is not None:
            raise self._problem
        self.flush()

    @contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except OSError as problem:
            _to_nowhere(self._stream)
            self._problem = OSError(f"cannot write to stdout: {problem.strerror}")
            raise self._problem from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Stderr:
    """sys.stderr for the length of a tool, which is notes and progress: where it is closed, or cannot be written to,
    the tool does its work without."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            _to_nowhere(self._stream)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            _to_nowhere(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _to_nowhere(stream: TextIO) -> None:
    """The interpreter flushes again when it ends; what is left goes nowhere then."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def run(name: str, body: Callable[[], int], reasons: Callable[[], tuple[type[Exception], ...]]) -> int:
    """The exit status of a tool: that of `body`, which reads its arguments too, or after one line on stderr 1 for an
    error, output that cannot be written included, and 130 for Ctrl-C. Errors are OSError, MemoryError and those of
    `reasons`, which is asked when there is one; anything else is a bug and shows its traceback."""
    _fill_closed_streams()
    with redirect_stderr(Stderr(sys.stderr)):
        try:
            stdout = Stdout(sys.stdout)
            with redirect_stdout(stdout):
                try:
                    return body()
                finally:
                    stdout.finish()  # what --help prints too
        except KeyboardInterrupt:
            _say(f"{name}: interrupted")
            return 128 + signal.SIGINT
        except MemoryError as problem:
            _say(f"{name}: not enough memory" + (f": {printable(str(problem))}" if str(problem) else ""))
            return 1
        except Exception as problem:
            if not isinstance(problem, (OSError, *reasons())):
                raise
            _say(f"{name}: {printable(str(problem))}")
            return 1


def _fill_closed_streams() -> None:
    """The next file that is opened gets the lowest number that is free: not 2, to which libraries in C write."""
    for number, flag in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, flag), number)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def run_tool(name: str, body: Callable[[], str]) -> int:
    """Prints what `body` returns; the exit status as `run` gives it, for ConvertError."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # unwinds, so that nothing is left behind

    def printed() -> int:
        print(body())
        return 0

    return run(name, printed, lambda: (ConvertError,))
