"""Facts about a model file that results are kept with, and the warning that small models need."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import EvalError, printable
from .files import require_file

if TYPE_CHECKING:
    import livekv

# A choice: the models that LongBench was published with begin at 6 billion parameters.
SMALL_MODEL = 500_000_000


def require_model_file(path: Path) -> None:
    """EvalError for what is no file, before it is loaded."""
    require_file(path, "a model file")


def fingerprint(path: Path) -> dict[str, Any]:
    """Name, size and SHA-256 of all bytes, of all parts where the model is split: whichever part was named."""
    require_model_file(path)
    parts = parts_of(path)
    try:
        stats = [part.stat() for part in parts]
        digest = _sha256_of_all(tuple((part, stat.st_size, stat.st_mtime_ns) for part, stat in zip(parts, stats)))
    except OSError as problem:
        raise EvalError(f"{path}: cannot read: {problem.strerror}") from None
    return {"file": printable(parts[0].name), "bytes": sum(stat.st_size for stat in stats), "sha256": digest}


def parts_of(path: Path) -> list[Path]:
    """All parts of a model, whichever was named; those that are there, since the engine names one that is missing."""
    split = re.fullmatch(r"(.*)-\d{5}(-of-\d{5}\.gguf)", path.name, re.DOTALL)
    if not split:
        return [path]
    of_it = re.compile(re.escape(split[1]) + r"-\d{5}" + re.escape(split[2]))
    return sorted(one for one in path.parent.iterdir() if of_it.fullmatch(one.name) and one.is_file())


@lru_cache(maxsize=4)  # a run asks more than once, of files of gigabytes
def _sha256_of_all(files: tuple[tuple[Path, int, int], ...]) -> str:
    """Of the contents behind each other. files: each with what changes when it does."""
    digest = hashlib.sha256()
    for path, _, _ in files:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()


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
