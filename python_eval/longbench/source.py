"""Where a run's samples come from: a folder of JSONL files, or the hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import printable
from ..hub import longbench_folder, longbench_v2_file
from ..identity import sha256_of
from .data import Sample, read_samples, read_v2
from .tasks import LongBenchError, Task

V2_FILE = "longbench_v2.jsonl"


@dataclass(frozen=True)
class DataSet:
    """The samples of a run by task (v2: one task, `v2`), and what a results folder says about them."""

    samples: Mapping[str, Sequence[Sample | Mapping[str, str]]]
    identity: dict[str, Any]


def load(tasks: Sequence[Task], folder: Path | None, limit: int | None, *, e: bool) -> DataSet:
    """The first `limit` samples of each task, from `folder`/<task>.jsonl or, without a folder, from the hub."""
    here = longbench_folder() if folder is None else folder
    samples = {task.name: read_samples(here, task, e=e)[:limit] for task in tasks}
    for name, some in samples.items():
        if not some:
            raise LongBenchError(f"{here}: {name} has no samples")
        if e and any(sample.length is None for sample in some):
            raise LongBenchError(f"{here}: {name}: a sample has no 'length' to sort it by")
    files = [here / f"{task.name}{'_e' if e else ''}.jsonl" for task in tasks]
    return DataSet(samples, _identity(files, limit))


def load_v2(folder: Path | None, limit: int | None) -> DataSet:
    """The first `limit` samples of LongBench v2, from `folder`/longbench_v2.jsonl or from the hub."""
    path = longbench_v2_file() if folder is None else folder / V2_FILE
    samples = read_v2(path)[:limit]
    if not samples:
        raise LongBenchError(f"{path}: no samples")
    return DataSet({"v2": samples}, _identity([path], limit))


def _identity(files: Sequence[Path], limit: int | None) -> dict[str, Any]:
    return {"files": {printable(path.name): sha256_of(path) for path in files}, "limit": limit}
