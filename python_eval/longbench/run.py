"""A LongBench run: every sample of every task with every cache, into a folder, resumable."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ..record_fields import FLAG, LIST, NULL, NUMBER, TEXT, WHOLE, Fields
from ..run_folder import Record, RunFolder
from ..workers import run_jobs
from .answer import Decoding, answer_together, decoding, decoding_v2
from .data import Sample
from .prepare import Prompt, prepare, prepare_v2
from .source import DataSet
from .tasks import task, v2_answer

if TYPE_CHECKING:
    import livekv

_MEASURES: Fields = {
    "index": WHOLE, "_id": TEXT, "workers": WHOLE, "kv_bytes": WHOLE, "kv_f16_bytes": WHOLE, "prompt_tokens": WHOLE,
    "generated_tokens": WHOLE, "rss_before": NUMBER + NULL, "rss_peak": NUMBER + NULL, "ttft_s": NUMBER,
    "prefill_s": NUMBER, "decode_s": NUMBER, "seal_s": NUMBER,
}  # fmt: skip
FIELDS: Fields = {
    **_MEASURES, "pred": TEXT, "answers": LIST, "all_classes": LIST + NULL, "length": WHOLE + NULL,
}  # fmt: skip
FIELDS_V2: Fields = {
    **_MEASURES, "pred": TEXT + NULL, "judge": FLAG, "difficulty": TEXT, "length": TEXT, "answer": TEXT,
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What an answer depends on, besides the sample."""

    model: Path
    caches: Mapping[str, str]  # label -> cache spec, the first is what the others are compared with
    n_ctx: int
    max_length: int | None = None  # tokens of the prompt, as `prepare` takes it
    n_threads: int | None = None
    n_gpu_layers: int = 0
    chat: bool = True  # the model's chat template where a task has one
    seed: int = 0


@dataclass(frozen=True)
class Job:
    """One sample with one cache."""

    cache: str
    task: str  # `v2` for LongBench v2
    index: int
    sample: Sample | Mapping[str, str]


class Answerer:
    """Answers jobs with a model that it loads once, in the process where the first job comes."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._model: livekv.Model | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"settings": self.settings, "_model": None}

    def __call__(self, jobs: Sequence[Job]) -> list[dict[str, Any]]:
        """Records of jobs with one cache, whose answers advance together."""
        import livekv

        how = self.settings
        if self._model is None:
            self._model = livekv.Model(how.model, n_gpu_layers=how.n_gpu_layers)
            # Weights are read when they are first needed: not in a measured answer.
            tokens = self._model.tokenize_prompt("Once upon a time")
            self._model.session(n_ctx=64, n_threads=how.n_threads).prefill(tokens)
        kv = livekv.KVOptions.parse(how.caches[jobs[0].cache])
        prepared = [self._prepare(self._model, job) for job in jobs]
        questions = [(prompt.ids, decoding) for prompt, decoding in prepared]
        measures = answer_together(self._model, questions, kv, how.n_threads)
        return [
            _official(job, measured.pop("pred")) | {"index": job.index, "cut": prompt.cut} | measured
            for job, (prompt, _), measured in zip(jobs, prepared, measures, strict=True)
        ]

    def _prepare(self, model: livekv.Model, job: Job) -> tuple[Prompt, Decoding]:
        how = self.settings
        if isinstance(job.sample, Sample):
            one = task(job.task)
            return prepare(model, one, job.sample, how.n_ctx, how.max_length, chat=how.chat), decoding(one)
        # A seed of its own for each sample, whichever worker comes to it; the same for every cache.
        seed = zlib.crc32(f"{how.seed} {job.sample['_id']}".encode())
        return prepare_v2(model, job.sample, how.n_ctx, how.max_length, chat=how.chat), decoding_v2(seed)


def _official(job: Job, text: str) -> dict[str, Any]:
    """The fields that the official scorers read."""
    if isinstance(job.sample, Sample):
        return {
            "pred": text,
            "answers": list(job.sample.answers),
            "all_classes": list(job.sample.classes) or None,
            "length": job.sample.length,
            "_id": job.sample.id,
        }
    response = text.strip()
    chosen = v2_answer(response)
    fields = {name: job.sample[name] for name in ("_id", "difficulty", "length", "question", "answer")}
    return fields | {"response": response, "pred": chosen, "judge": chosen == job.sample["answer"]}


def predict(
    folder: RunFolder,
    settings: Settings,
    data: DataSet,
    n_workers: int = 1,
    ray_address: str | None = None,
    batch: int = 1,
) -> None:
    """Adds to `folder` every answer that it lacks, `batch` of a task with a cache at a time.

    Caches take turns at the same samples, so that they share what the machine does meanwhile.
    """
    done = {
        (cache, name): _indices(folder, cache, name, samples)
        for cache in settings.caches
        for name, samples in data.samples.items()
    }
    missing = []
    n_samples = 0
    for name, samples in data.samples.items():
        n_samples += len(samples)
        for begin in range(0, len(samples), batch):
            numbered = list(enumerate(samples))[begin : begin + batch]
            for cache in settings.caches:
                jobs = [Job(cache, name, i, sample) for i, sample in numbered if i not in done[cache, name]]
                missing += [jobs] if jobs else []
    n_all = n_samples * len(settings.caches)
    n_done = n_all - sum(map(len, missing))
    with tqdm(total=n_all, initial=n_done, unit="answer", desc="longbench") as bar:
        for number, records in run_jobs(missing, Answerer(settings), n_workers, ray_address):
            for job, record in zip(missing[number], records, strict=True):
                how_many = {"workers": n_workers, "batch": len(records)}
                folder.append(records_name(job.cache, job.task), record | how_many)
                bar.set_postfix_str(f"{job.task} {job.cache}", refresh=False)
                bar.update()


def answers(folder: RunFolder, cache: str, name: str) -> list[dict[str, Any]]:
    """The recorded answers of a task with a cache, in the order of the samples."""
    found = {record["index"]: record for record in folder.records(records_name(cache, name), _fields(name))}
    return [found[index] for index in sorted(found)]


def records_name(cache: str, name: str) -> str:
    """Where answers lie, as the official scorers want them: predictions/<cache>/<task>, for v2 predictions/<cache>."""
    where = f"predictions/{re.sub(r'[^A-Za-z0-9_.,=+-]', '_', cache)}"
    return where if name == "v2" else f"{where}/{name}"


def _fields(name: str) -> Fields:
    return FIELDS_V2 if name == "v2" else FIELDS


def _indices(
    folder: RunFolder, cache: str, name: str, samples: Sequence[Sample | Mapping[str, str]]
) -> set[int]:
    """Which of the samples are answered; EvalError names an answer to none of them."""

    def fault(record: Record) -> str | None:
        index = record["index"]
        if not 0 <= index < len(samples):
            return f"this run has no sample {index} of {name}"
        sample = samples[index]
        if isinstance(sample, Sample):
            same = record["_id"] == sample.id and record["answers"] == list(sample.answers)
        else:
            same = record["_id"] == sample["_id"] and record["answer"] == sample["answer"]
        return None if same else f"not an answer to sample {index} of {name}, but to {record['_id'] or 'another'}"

    return {record["index"] for record in folder.records(records_name(cache, name), _fields(name), fault)}
