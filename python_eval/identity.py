"""What decides the result of a run, as the config.json of its folder has it: one form for every tool, since a folder is
gone on with only where all of it agrees."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from .errors import EvalError
from .model_file import fingerprint


def run_config(kind: str, name: str, model: Path, n_gpu_layers: int, **decides: Any) -> dict[str, Any]:
    """`kind`, command or benchmark, with its name, the model by its content, and what else decides: the identity of
    texts, canonical specs of caches, options. Threads and workers do not. JSON data; EvalError for no model file.
    """
    return {kind: name, "model": fingerprint(model), "n_gpu_layers": n_gpu_layers, **decides}


def file_identity(path: Path) -> dict[str, Any]:
    """Name, size and SHA-256 of a file that is read whole; EvalError where it cannot be."""
    digest = sha256_of(path)
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": digest}


def sha256_of(path: Path) -> str:
    """Of a file's whole content; EvalError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as problem:
        raise EvalError(f"{path}: cannot read: {problem.strerror}") from None
