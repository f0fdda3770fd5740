"""The folder of one evaluation run: what was asked, with which versions, and every finished piece of it.

    config.json      everything that decides the result; a folder belongs to one configuration
    versions.json    livekv, Python, packages, platform, the checkout's commit
    <name>.jsonl     finished records, appended one by one and on disk before the next begins
    anything else    written whole or not at all

A run that was killed goes on where it stopped: its caller skips what `records` returns.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import subprocess
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, Self

from .errors import EvalError
from .files import is_temporary, lines_of, parse_line, read_json, write_text
from .record_fields import Fields, fault_of

Record = dict[str, Any]

# Packages whose version can decide a result; those installed are noted.
_PACKAGES = (
    "numpy", "jieba", "rouge", "lm_eval", "datasets", "huggingface_hub", "transformers", "tokenizers", "torch",
    "optuna", "pandas", "ray",
)  # fmt: skip


class RunFolder:
    """A folder that one run writes to.

    `config` must be JSON data. A folder that already has a config.json is gone on with if every field agrees; EvalError
    names the first that does not. With `resume=False` such a folder is refused, and so is, always, a folder with files
    that are no run's. One process holds a folder at a time, until `close` or the end of a `with` block; with
    `exclusive=False` several may append at once (each record stays whole).
    """

    def __init__(
        self, path: str | os.PathLike[str], config: Mapping[str, Any], *, resume: bool = True, exclusive: bool = True
    ) -> None:
        self.path = Path(path)
        self.config: Record = json.loads(json.dumps(config))
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as problem:
            raise EvalError(f"{self.path}: cannot write there: {problem.strerror}") from None
        self._unlock = weakref.finalize(self, os.close, lock)
        try:
            fcntl.flock(lock, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except OSError:
            raise EvalError(f"{self.path}: another run is writing to this folder") from None
        with one_at_a_time(self.path):  # two that begin together would each find the other's first files
            self._take(resume)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leaves the folder to others; what was written stays."""
        self._unlock()

    def records(
        self, name: str, fields: Fields | None = None, fault: Callable[[Record], str | None] | None = None
    ) -> list[Record]:
        """The finished records of `<name>.jsonl`, in order, as read_records gives them; none where there is no such
        file."""
        path = self._jsonl(name)
        return read_records(path, fields, fault) if path.exists() or path.is_symlink() else []

    def append(self, name: str, record: Mapping[str, Any]) -> None:
        """Adds one line to `<name>.jsonl` and returns when it is on the disk.

        EvalError where it cannot be written (a full disk): the file then ends with the record before.
        """
        path = self._jsonl(name)
        line = json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                _append_line(file, line)
            finally:
                os.close(file)
        except OSError as problem:
            raise EvalError(
                f"{path}: cannot write: {problem.strerror}; what is finished is kept, run the same command to go on"
            ) from None

    def write_json(self, name: str, value: Any) -> None:
        """Writes `value` as `name` (`.json` included), whole or not at all."""
        write_text(self.path / name, json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2) + "\n")

    def read_json(self, name: str) -> Any:
        """The object that `write_json` wrote; EvalError where it is missing, no JSON or no object."""
        content = read_json(self.path / name)
        if not isinstance(content, dict):
            raise EvalError(f"{self.path / name}: not a JSON object")
        return content

    def _jsonl(self, name: str) -> Path:
        return self.path / f"{name}.jsonl"

    def _take(self, resume: bool) -> None:
        now = versions()
        if (self.path / "config.json").exists():
            if not resume:
                raise EvalError(f"{self.path}: already holds a run; name another folder")
            check_same(self.path, self.read_json("config.json"), self.config)
            self._note_versions(now)
            return
        # What a run that was killed before it had a config.json left at most.
        began = ("versions.json", "config.json")
        strangers = {one.name for one in self.path.iterdir()} - {".lock", "versions.json"}
        if any(not any(is_temporary(name, target) for target in began) for name in strangers):
            raise EvalError(f"{self.path}: holds files but no config.json, so it is no run's folder; name another")
        self.write_json("versions.json", now)
        self.write_json("config.json", self.config)

    def _note_versions(self, now: Record) -> None:
        first: Record = self.read_json("versions.json")
        later: list[Record] = first.setdefault("resumed_with", [])
        if now != (later[-1] if later else {key: value for key, value in first.items() if key != "resumed_with"}):
            later.append(now)
            self.write_json("versions.json", first)


def read_records(
    path: Path, fields: Fields | None = None, fault: Callable[[Record], str | None] | None = None
) -> list[Record]:
    """The records of a .jsonl file of a run, in order, each with `fields`.

    A last line without its newline is what a killed run left behind: it is dropped. EvalError names the line that is no
    JSON object, lacks a field or has another type in it, or that `fault` has something to say of.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError as problem:
        raise EvalError(f"{path}: cannot read: {problem.strerror}") from None
    found = []
    for number, line in lines_of(lines):
        record = parse_line(path, number, line)
        if wrong := fault_of(record, fields or {}) or (fault and fault(record)):
            raise EvalError(f"{path}:{number}: {wrong}")
        found.append(record)
    return found


def default_folder(name: str, config: Mapping[str, Any]) -> Path:
    """results/NAME-MODEL-HASH: a folder of its own for each configuration, whose `model` names the file."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    return Path("results") / f"{name}-{Path(config['model']['file']).stem}-{digest[:8]}"


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Holds a folder against other processes that ask for it like this; they wait."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def versions() -> Record:
    """livekv, Python, the packages that are there, the platform, and the commit if this is a checkout."""
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "livekv": _livekv_version(),
        "python": platform.python_version(),
        "packages": packages,
        "platform": platform.platform(),
        "commit": _commit(),
    }


def _append_line(file: int, line: bytes) -> None:
    size = os.lseek(file, 0, os.SEEK_END)
    if size and os.pread(file, 1, size - 1) != b"\n":
        size = _end_of_last_line(file, size)
        os.ftruncate(file, size)
    try:
        rest = memoryview(line)
        while rest:
            rest = rest[os.write(file, rest) :]
        os.fsync(file)
    except OSError:
        os.ftruncate(file, size)
        raise


def _end_of_last_line(file: int, size: int) -> int:
    """Where the last newline ends, 0 without one; read backwards, records may be long and many."""
    step = 1 << 16
    while size > 0:
        start = max(0, size - step)
        found = os.pread(file, size - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        size = start
    return 0


def check_same(folder: Path, there: Any, here: Any, field: str = "") -> None:
    """EvalError that names the first field of a run's configuration that is not what it was when `folder`, or a file,
    was begun."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in dict.fromkeys((*there, *here)):
            check_same(folder, there.get(key), here.get(key), f"{field}.{key}" if field else key)
    elif there != here:
        raise EvalError(
            f"{folder}: was run with {field} = {json.dumps(there, ensure_ascii=False)}, now it is "
            f"{json.dumps(here, ensure_ascii=False)}; name another or run it as before"
        )


def _livekv_version() -> str | None:
    try:
        return str(import_module("livekv").__version__)
    except ImportError:
        return None


def _commit() -> str | None:
    """The checkout's commit, `-dirty` after it where tracked files differ; None for an installed package."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    described = subprocess.run(
        ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or None
