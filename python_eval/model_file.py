"""Facts about a model file that results are kept with, and the warning that small models need."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import EvalError
from .files import require_file

if TYPE_CHECKING:
    import livekv

# A choice: the models that LongBench was published with begin at 6 billion parameters.
SMALL_MODEL = 500_000_000


def fingerprint(path: Path) -> dict[str, Any]:
    """Name, size and a SHA-256 over the size and the first and last MiB: enough to tell two models apart, quickly."""
    require_file(path, "a model file")
    size, edge = path.stat().st_size, 1 << 20
    digest = hashlib.sha256(str(size).encode())
    try:
        with path.open("rb") as file:
            digest.update(file.read(edge))
            file.seek(max(0, size - edge))
            digest.update(file.read(edge))
    except OSError as problem:
        raise EvalError(f"{path}: cannot read: {problem.strerror}") from None
    return {"file": path.name, "bytes": size, "sha256_of_edges": digest.hexdigest()}


def model_facts(model: livekv.Model) -> dict[str, Any]:
    """What tables and reports say about the model."""
    names = ("n_params", "n_layer", "n_head", "n_head_kv", "head_dim", "n_vocab", "n_ctx_train", "description")
    return {name: getattr(model, name) for name in names}


def size_warning(n_params: int) -> list[str]:
    """A line for every table of task scores, or none for a model of some size."""
    if n_params >= SMALL_MODEL:
        return []
    return [
        f"WARNING: the model has {n_params / 1e6:.1f} million parameters; below {SMALL_MODEL / 1e6:.0f} million the "
        "scores of these tasks mean nothing. They show that the run works, and which answers a cache changes."
    ]
