"""Names of files, as the engine takes them."""

from __future__ import annotations

import os

from livekv._livekv import Error


def path_bytes(path: str | os.PathLike[str]) -> bytes:
    """A name as the system has it. Raises Error for one that it would cut off at a zero byte."""
    name = os.fsencode(path)
    if b"\0" in name:
        raise Error(f"{os.fspath(path)!r} is no name of a file: it has a zero byte")
    return name
