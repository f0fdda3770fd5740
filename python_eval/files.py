"""Files that evaluations read and write: whole or not at all, with EvalError where they cannot."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .convert_folder import CONVERT_FOLDERS
from .errors import EvalError

sys.path.extend(CONVERT_FOLDERS)

import whole_file as _files
from whole_file import is_temporary, whole_file

__all__ = [
    "is_temporary", "lines_of", "parse_line", "read_json", "refuse_input", "require_file", "write_text",
    "written_whole",
]  # fmt: skip


def require_file(path: Path, what: str) -> None:
    """EvalError for what is no file: a folder, a name that leads nowhere, and what a read would wait for (a FIFO)."""
    if path.is_file():
        return
    if path.is_dir():
        raise EvalError(f"{path}: is a folder, not {what}")
    raise EvalError(f"{path}: no file, but something else" if path.exists() else f"{path}: no such file")


def refuse_input(out: Path, inputs: Iterable[Path]) -> None:
    """whole_file.refuse_input, with EvalError."""
    _files.refuse_input(out, inputs, EvalError)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """whole_file in a folder that is made where there is none, with EvalError for OSError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            yield temporary
    except OSError as problem:
        raise EvalError(f"{path}: cannot write: {problem.strerror}") from None


def write_text(path: Path, text: str) -> None:
    """Writes a text as UTF-8."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def read_json(path: Path) -> Any:
    """What stands in a JSON file; EvalError where there is none or it is damaged."""
    try:
        return json.loads(path.read_bytes())
    except OSError as problem:
        raise EvalError(f"{path}: cannot read: {problem.strerror}") from None
    except (ValueError, RecursionError) as problem:
        raise EvalError(f"{path}: not JSON: {problem}") from None


def lines_of(content: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """(number, line) of a JSONL file's lines, without those at its end that hold nothing."""
    empty: list[tuple[int, bytes]] = []
    for number, line in enumerate(content, start=1):
        if not line.strip():
            empty.append((number, line))
            continue
        yield from empty  # between records they are an error, which parse_line names
        empty.clear()
        yield number, line


def parse_line(path: Path, number: int, line: bytes) -> dict[str, Any]:
    """The object on a line of a JSONL file, the first of which may begin with a byte order mark.

    EvalError names file and line where there is none, or one with half of a surrogate pair, which is no text.
    """
    try:
        record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError as problem:
        half = f"U+{ord(problem.object[problem.start]):04X}"
        raise EvalError(f"{path}:{number}: half of a surrogate pair ({half}) in a string") from None
    except (ValueError, RecursionError) as problem:
        raise EvalError(f"{path}:{number}: not JSON: {problem}") from None
    if not isinstance(record, dict):
        raise EvalError(f"{path}:{number}: not a JSON object")
    return record
