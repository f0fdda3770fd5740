"""Names of files, as the engine takes them."""

from __future__ import annotations

import os

from livekv._livekv import Error
from livekv.arguments import shown


def path_bytes(path: str | os.PathLike[str]) -> bytes:
    """A name as the system has it. Raises Error for what is none, and for one that it would cut off at a zero byte."""
    try:
        name = os.fsencode(path)
    except (TypeError, UnicodeEncodeError):
        raise Error(f"{shown(path)} is no name of a file") from None
    if b"\0" in name:
        raise Error(f"{os.fspath(path)!r} is no name of a file: it has a zero byte")
    return name
