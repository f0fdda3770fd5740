"""Which files a folder has: a name that is there and cannot be read is an error, not a file that is missing."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from convert_error import ConvertError


def has_file(path: Path) -> bool:
    """Throws ConvertError for a link to nothing, a folder, a pipe, and what may not be read: left out in silence, each
    would make another model of the folder."""
    if not os.path.lexists(path):
        return False
    _require(path, stat.S_ISREG, "file")
    try:
        path.open("rb").close()
    except OSError as problem:
        raise ConvertError(f"{path} cannot be read: {problem.strerror}") from problem
    return True


def files_in(folder: Path, pattern: str) -> list[Path]:
    """Sorted; none where there is no such folder. Throws ConvertError as has_file does."""
    if not os.path.lexists(folder):
        return []
    _require(folder, stat.S_ISDIR, "folder")
    try:
        names = os.listdir(folder)  # Path.glob finds nothing in a folder that may not be read
    except OSError as problem:
        raise ConvertError(f"{folder} cannot be read: {problem.strerror}") from problem
    return sorted(path for name in names if (path := folder / name).match(pattern) and has_file(path))


def _require(path: Path, is_right, kind: str) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as problem:
        raise ConvertError(f"{path} is a link to {os.readlink(path)}, which does not exist") from problem
    except OSError as problem:
        raise ConvertError(f"{path} cannot be read: {problem.strerror}") from problem
    if not is_right(mode):
        raise ConvertError(f"{path} is {'a folder' if stat.S_ISDIR(mode) else f'no {kind}'}")
