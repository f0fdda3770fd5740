"""Scores of recorded predictions: the official numbers, from one sample up to a folder of tasks."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np

from .data import Row, Sample, read_predictions, read_rows
from .metrics import METRICS
from .tasks import LENGTH_BUCKETS, TASKS, LongBenchError, Task, length_bucket, task, v2_answer

Scores = dict[str, float | None]
"""Percent by name; None where there was nothing to score."""


def score_prediction(task: Task, prediction: str, answers: Iterable[str], classes: Iterable[str] = ()) -> float:
    """0 to 1: the prediction, or its first line where the task wants that, against the best of the gold answers."""
    if task.first_line:
        prediction = prediction.lstrip("\n").split("\n")[0]
    metric, listed = METRICS[task.metric], tuple(classes)
    return max((metric(prediction, answer, listed) for answer in answers), default=0.0)


def score_samples(task: Task, samples: Iterable[Sample]) -> list[float]:
    """0 to 1 for each sample's `pred`, in order: what paired differences are made of."""
    return [score_prediction(task, one.pred, one.answers, one.classes) for one in samples]


def score_task(task: Task, samples: list[Sample]) -> float:
    """Mean over the samples in percent, two decimals, as the official result.json has it."""
    return percent(score_samples(task, samples))


def percent(scores: list[float]) -> float:
    """A task's score from its samples' scores."""
    # One after the other: since Python 3.12 sum() compensates rounding errors, and the official loop does not.
    return round(100 * reduce(add, scores, 0.0) / len(scores), 2)


def score_buckets(task: Task, samples: list[Sample]) -> Scores:
    """LongBench-E: the mean of each length bucket in percent, two decimals; every sample needs its `length`."""
    buckets: dict[str, list[float]] = {name: [] for name, _ in LENGTH_BUCKETS}
    for sample, score in zip(samples, score_samples(task, samples), strict=True):
        if sample.length is None:
            raise LongBenchError(f"{task.name}: a sample has no 'length' to sort it by")
        buckets[length_bucket(sample.length)].append(score)
    return {name: bucket_percent(scores) if scores else None for name, scores in buckets.items()}


def bucket_percent(scores: list[float]) -> float:
    """A length bucket's score from its samples' scores."""
    # numpy's mean, as the official code: its order of summation can decide the last digit.
    return round(100 * float(np.mean(scores)), 2)


def score_v2(rows: Iterable[Row]) -> Scores:
    """LongBench v2: accuracy in percent, one decimal, over all, by difficulty and by length.

    A row holds `answer`, `difficulty` (easy, hard), `length` (short, medium, long) and `response`, or in place of the
    response the letter already taken from it, `pred` (null: none found).
    """
    groups: dict[str, list[bool]] = {name: [] for name in ("overall", "easy", "hard", "short", "medium", "long")}
    for row in rows:
        chosen = v2_answer(row.text("response")) if "response" in row.fields else row.text("pred", optional=True)
        right = chosen == row.text("answer")
        for name in ("overall", row.text("difficulty"), row.text("length")):
            if name not in groups:
                raise row.error(f"'{name}' is no difficulty or length of LongBench v2")
            groups[name].append(right)
    return {name: round(100 * sum(hits) / len(hits), 1) if hits else None for name, hits in groups.items()}


def score_folder(folder: Path, *, e: bool = False) -> dict[str, float] | dict[str, Scores]:
    """Every <task>.jsonl of `folder`, in the benchmark's order: {task: score}, or with `e` {task: {bucket: score}}."""
    files = {path.stem: path for path in _jsonl(folder)}
    for name in files:
        task(name)
    present = [one for one in TASKS.values() if one.name in files]
    if e:
        return {one.name: score_buckets(one, read_predictions(files[one.name], one)) for one in present}
    return {one.name: score_task(one, read_predictions(files[one.name], one)) for one in present}


def score_v2_folder(folder: Path) -> dict[str, Scores]:
    """Every result file of LongBench v2 in `folder`: {file name without .jsonl: its accuracies}."""
    return {path.stem: score_v2(read_rows(path)) for path in _jsonl(folder)}


def _jsonl(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise LongBenchError(f"{folder}: no such folder")
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise LongBenchError(f"{folder}: no .jsonl files with predictions")
    return files
