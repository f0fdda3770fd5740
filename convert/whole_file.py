"""Files that appear whole or not at all, written as engine/atomic_file.cpp writes them."""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from convert_error import ConvertError


@contextmanager
def whole_file(out: Path) -> Iterator[Path]:
    """A temporary path in the same folder that becomes `out`, synced to disk, if all goes well; else it vanishes.

    It is `out`.tmp-PID, an empty file to be opened and written, not replaced, and locked as long as its writer lives.
    What killed writers left of `out` is not locked, and goes first. Links stay: what they lead to is written. OSError
    where nothing can be written, and where something other than a file is there, such as a device.
    """
    if out.exists() and not out.is_file():
        raise OSError(errno.EINVAL, "it is not a file")
    out = Path(os.path.realpath(out))
    _remove_stale(out)
    temporary, file = _create(out)
    try:
        yield temporary
        os.fsync(file)
        os.replace(temporary, out)
        _sync_folder(out.parent)  # the new name is on disk only when its folder is
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(file)


@contextmanager
def whole_output(out: Path) -> Iterator[Path]:
    """whole_file for a tool's output; ConvertError names it and the reason where it cannot be written."""
    try:
        with whole_file(out) as temporary:
            yield temporary
    except OSError as problem:
        if problem.filename is not None:  # of something that is read, mostly
            raise
        raise ConvertError(f"cannot write {out}: {problem.strerror or problem}") from problem  # a full disk, mostly


def refuse_input(out: Path, inputs: Iterable[Path], error: type[Exception] = ConvertError) -> None:
    """Raises `error` where `out` is one of the files that a tool reads, under whatever name: of an input that is
    replaced, nothing is left. Links are followed, as they are when it is written. Inputs that are missing are skipped.
    """
    try:
        there = out.stat()
    except OSError:  # nothing there, or nothing that could be written
        return
    for path in inputs:
        try:
            same = os.path.samestat(there, path.stat())
        except OSError:
            continue
        if same:
            name = "" if path == out else f" ({path})"
            raise error(f"cannot write {out}: it is the input itself{name}")


def is_temporary(name: str, target: str) -> bool:
    """Whether a file of this name is, or was left by, a writer of `target`."""
    return re.fullmatch(re.escape(target) + r"\.tmp-[0-9]+(-[0-9]+)?", name) is not None


def _create(out: Path) -> tuple[Path, int]:
    for i in count():  # a name that is taken belongs to a living writer
        temporary = out.with_name(f"{out.name}.tmp-{os.getpid()}" + (f"-{i}" if i else ""))
        try:
            file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            continue
        if _lock(file) is not False and os.fstat(file).st_nlink:
            return temporary, file
        os.close(file)  # another process took it for stale before it was locked
    raise AssertionError


def _remove_stale(out: Path) -> None:
    with os.scandir(out.parent) as entries:
        found = [entry.path for entry in entries if is_temporary(entry.name, out.name)]
    for path in found:
        try:
            file = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            if _lock(file) and os.path.samestat(os.fstat(file), os.stat(path)):
                os.unlink(path)
        except FileNotFoundError:
            pass
        finally:
            os.close(file)


def _lock(file: int) -> bool | None:
    """False where another holds it, None where files cannot be locked."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
