"""What decides the result of a run, as the config.json of its folder has it: one form for every tool, since a folder is
gone on with only where all of it agrees."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import EvalError, printable
from .model_file import fingerprint
from .run_folder import RunFolder


def run_config(kind: str, name: str, model: Path, n_gpu_layers: int, **decides: Any) -> dict[str, Any]:
    """`kind`, command or benchmark, with its name, the model by its content, and what else decides: the identity of
    texts, canonical specs of caches, options, and of files that `caches`, `cache` or `base` read their content.
    Threads and workers do not. JSON data; EvalError for files that cannot be read.
    """
    read = {spec: one for spec in _specs_in(decides) for one in calibration_of(spec)}
    return {kind: name, "model": fingerprint(model), "n_gpu_layers": n_gpu_layers, **decides,
            **({"calibrations": read} if read else {})}  # fmt: skip


def _specs_in(decides: Mapping[str, Any]) -> Iterator[str]:
    yield from decides.get("caches", {}).values()
    yield from (decides[name] for name in ("cache", "base") if name in decides)


def calibration_of(spec: str) -> list[str]:
    """The SHA-256 of the file that a cache reads; none for most. EvalError where it cannot be read."""
    import livekv  # scoring and --help need no engine

    path = livekv.KVOptions.parse(spec).calibration
    return [sha256_of(Path(path))] if path else []


def require_same_calibrations(folder: RunFolder, caches: Mapping[str, str]) -> None:
    """That caches, {label: spec}, read what they read when the folder's results of them were measured: the folder
    keeps it in calibrations.json. EvalError names the first that does not.
    """
    path = folder.path / "calibrations.json"
    read: dict[str, str] = folder.read_json(path.name) if path.exists() else {}
    for label, spec in caches.items():
        for digest in calibration_of(spec):
            if read.setdefault(label, digest) != digest:
                raise EvalError(f"{path}: the calibration of {label} was another then; name another folder")
    if read:
        folder.write_json(path.name, read)


def file_identity(path: Path) -> dict[str, Any]:
    """Name, size and SHA-256 of a file that is read whole; EvalError where it cannot be."""
    digest = sha256_of(path)
    return {"file": printable(path.name), "bytes": path.stat().st_size, "sha256": digest}


def sha256_of(path: Path) -> str:
    """Of a file's whole content; EvalError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as problem:
        raise EvalError(f"{path}: cannot read: {problem.strerror}") from None
