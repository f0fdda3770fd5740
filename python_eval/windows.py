"""Measured windows: what caches predict for stretches of text, kept window by window in a run folder.

    windows.jsonl         one record a finished (cache, window): means, and where its arrays are
    arrays/*.npz          nll and kl of a window's scored positions, float64 [n_scored], in nats

A cache is known by its canonical spec, so that studies which share a setting share its measurement.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .errors import EvalError
from .files import written_whole
from .record_fields import NULL, NUMBER, TEXT, WHOLE, Fields
from .run_folder import Record, RunFolder
from .texts import Window
from .workers import run_jobs

if TYPE_CHECKING:
    import livekv

Array = NDArray[np.float64]
RECORDS = "windows"
FIELDS: Fields = {
    "spec": TEXT, "text": TEXT, "window": WHOLE, "chunk_size": WHOLE, "n_scored": WHOLE, "nll_mean": NUMBER,
    "kl_mean": NUMBER + NULL, "same_top": NUMBER + NULL, "bits_per_value": NUMBER, "arrays": TEXT,
}  # fmt: skip
# A mean is the same numbers added again, on another machine perhaps in another order.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Job:
    """One window under one cache."""

    spec: str
    window: Window


def base_for(base: str, kv: livekv.KVOptions) -> livekv.KVOptions:
    """The base cache; one that does not compress reads its prompt in the same chunks as the cache compared with it, as
    livekv-perplexity has it, so that nothing but the cache differs."""
    import livekv

    options = livekv.KVOptions.parse(base)
    return options if options.compresses else options.replace(chunk_size=kv.chunk_tokens)


def reads_sealed_keys(kv: livekv.KVOptions, n_ctx: int) -> bool:
    """Whether a window of n_ctx tokens reads any key compressed: a compressing cache reads its first sealed key after
    the first chunk, or after the chunk that ends the warm-up."""
    first_read = kv.chunk_tokens
    if kv.policy == "livekv":
        first_read *= max(1, kv.warmup_chunks + (1 if kv.warmup_keep else 0))
    return not kv.compresses or first_read < n_ctx


@dataclass
class Worker:
    """Measures jobs; keeps its model from one to the next. Pickled before it has loaded any."""

    model_path: str
    base: str  # spec of the cache that divergences are from
    n_gpu_layers: int = 0
    n_threads: int | None = None
    dequantize: bool = False
    _model: livekv.Model | None = field(default=None, repr=False)

    def __call__(self, job: Job) -> tuple[Record, dict[str, Array]]:
        """The record of a window and its arrays. The base is not compared with itself: its divergence, for differences
        from others, is 0 by definition, and what would have been measured is None."""
        # Reading results does without the engine.
        import livekv

        if self._model is None:
            self._model = livekv.Model(
                self.model_path,
                n_gpu_layers=self.n_gpu_layers,
                n_threads=self.n_threads,
                dequantize=self.dequantize,
            )
        of_base = job.spec == self.base
        kv = livekv.KVOptions.parse(job.spec)
        measured = livekv.fidelity(
            self._model,
            list(job.window.tokens),
            n_ctx=len(job.window.tokens),
            kv=kv,
            base=None if of_base else base_for(self.base, kv),
            n_threads=self.n_threads,
        )
        nll = np.asarray(measured.nll, np.float64).ravel()
        kl = np.zeros_like(nll) if of_base else np.asarray(measured.kl, np.float64).ravel()
        record: Record = {
            "spec": job.spec,
            "text": job.window.text,
            "window": job.window.index,
            "chunk_size": kv.chunk_tokens,
            "n_scored": int(nll.size),
            "nll_mean": float(nll.mean()),
            "kl_mean": None if of_base else float(kl.mean()),
            "same_top": measured.same_top,
            "bits_per_value": float(measured.bits_per_value),
        }
        return record, {"nll": nll, "kl": kl}


def measure(
    run: RunFolder,
    worker: Worker,
    specs: Iterable[str],
    windows: Sequence[Window],
    *,
    n_workers: int = 1,
    ray_address: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Measures every window under every cache that `run` does not have yet; each is kept as soon as it is finished.

    `progress` is called with (finished, all) at the start and after each.
    """
    known = {(window.text, window.index) for window in windows}

    def fault(record: Record) -> str | None:
        key = record["text"], record["window"]
        return None if key in known else f"this run has no window {key[1]} of {key[0]}"

    done = {(one["spec"], one["text"], one["window"]) for one in run.records(RECORDS, FIELDS, fault)}
    every = [Job(spec, window) for spec in dict.fromkeys(specs) for window in windows]
    jobs = [job for job in every if (job.spec, job.window.text, job.window.index) not in done]
    finished = len(every) - len(jobs)
    progress(finished, len(every))
    for _, (record, arrays) in run_jobs(jobs, worker, n_workers, ray_address):
        name = f"arrays/{slug(record['spec'])}.{slug(record['text'])}.{record['window']:04d}.npz"
        write_arrays(run.path / name, arrays)
        run.append(RECORDS, {**record, "arrays": name})
        finished += 1
        progress(finished, len(every))


@dataclass(frozen=True)
class Measured:
    """A cache's measured windows, in the order of `keys`."""

    spec: str
    keys: tuple[tuple[str, int], ...]  # (text, index of the window)
    nll: Array  # [n_windows, n_scored], nats
    kl: Array  # [n_windows, n_scored], nats
    same_top: Array | None  # [n_windows], share of scored positions; None for the base, which is compared with nothing
    bits_per_value: float  # of a full window
    chunk_size: int

    @property
    def clusters(self) -> list[tuple[str, int]]:
        """The window of every entry of `nll` and `kl` read flat: tokens of a window are not independent."""
        return [key for key in self.keys for _ in range(self.nll.shape[1])]

    def of_text(self, text: str) -> Measured:
        """The windows of one text."""
        rows = [row for row, key in enumerate(self.keys) if key[0] == text]
        keys = tuple(self.keys[row] for row in rows)
        same_top = None if self.same_top is None else self.same_top[rows]
        return dataclasses.replace(self, keys=keys, nll=self.nll[rows], kl=self.kl[rows], same_top=same_top)


def load(folder: Path, records: Sequence[Mapping[str, Any]]) -> dict[str, Measured]:
    """{spec: its windows} of the records of a folder, which have FIELDS, in the order of texts and windows. EvalError
    where arrays are not those of their record."""
    by_spec: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        by_spec.setdefault(record["spec"], []).append(record)
    measured: dict[str, Measured] = {}
    for spec, some in by_spec.items():
        ordered = sorted({(one["text"], one["window"]): one for one in some}.items())
        arrays = [_window_arrays(folder / one["arrays"], one) for _, one in ordered]
        same_top = [one["same_top"] for _, one in ordered]
        measured[spec] = Measured(
            spec,
            tuple(key for key, _ in ordered),
            np.stack([one["nll"] for one in arrays]),
            np.stack([one["kl"] for one in arrays]),
            None if None in same_top else np.array(same_top),
            float(ordered[-1][1]["bits_per_value"]),
            int(ordered[-1][1]["chunk_size"]),
        )
    return measured


def slug(name: str) -> str:
    """A short file name for any spec or text; the digest keeps apart what the letters do not."""
    letters = "".join(c if c.isalnum() else "-" for c in name)[:40]
    return f"{letters}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Writes named arrays as .npz, whole or not at all; EvalError where they cannot be written."""
    with written_whole(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """What `write_arrays` wrote; EvalError where there is no such file or it is damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as problem:
        raise EvalError(f"{path}: cannot read its arrays: {problem}") from None


def _window_arrays(path: Path, record: Mapping[str, Any]) -> dict[str, Array]:
    arrays = read_arrays(path)
    if {"nll", "kl"} - arrays.keys():
        raise EvalError(f"{path}: not the arrays of a measured window")
    # What the record says of them tells one window's from another's: a file that was copied over it, or a folder that
    # was put together from two.
    shape = (record["n_scored"],)
    means = {"nll": record["nll_mean"], "kl": record["kl_mean"] or 0.0}
    for name, mean in means.items():
        one = arrays[name]
        if one.shape != shape or not math.isclose(float(one.mean()), mean, rel_tol=ROUNDING, abs_tol=ROUNDING):
            raise EvalError(
                f"{path}: not the arrays that {RECORDS}.jsonl has there for {record['text']} {record['window']} of "
                f"{record['spec']}: take that line out and run the same command to measure it again"
            )
    return arrays
