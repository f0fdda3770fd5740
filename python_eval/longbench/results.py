"""What a finished run says: scores, paired differences, speed and memory, from the folder's recorded answers alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import EvalError
from ..files import write_text
from ..model_file import size_warning
from ..paired import Paired, paired
from ..run_folder import RunFolder
from ..tables import Cell, Row, markdown, write_tables
from .run import answers
from .score import bucket_percent, percent, score_prediction
from .tasks import LENGTH_BUCKETS, length_bucket, task

MiB = 1 << 20

MEMORY_NOTE = (
    "Cache: bytes of the cache's own allocations when an answer ends, mean and largest over the samples. Resident: the "
    "most memory the process had while it answered one sample, its peak reset before each, weights in use and the tool "
    "itself included; `over start` is that less what was resident before the sample's session was made."
)


@dataclass(frozen=True)
class Group:
    """Samples that are averaged together: 0 to 1 by cache, in the same order."""

    names: dict[str, str]  # the row's first columns
    scores: dict[str, list[float]]
    percent: Callable[[list[float]], float]


def summarize(
    folder: RunFolder, caches: Mapping[str, str], names: Sequence[str], facts: Mapping[str, Any], *, e: bool
) -> str:
    """Writes scores.*, caches.* and summary.md; returns the summary."""
    recorded = {cache: {name: answers(folder, cache, name) for name in names} for cache in caches}
    _check_complete(recorded)
    groups = _groups(recorded, e=e)
    notes = size_warning(int(facts["n_params"]))
    scores = [_row(group, list(caches)) for group in groups]
    scores += _averages(groups, list(caches))
    costs = [_cost_row(cache, spec, recorded[cache]) for cache, spec in caches.items()]
    records = [record for by_name in recorded.values() for some in by_name.values() for record in some]
    workers = max(record["workers"] for record in records)
    batch = max(record.get("batch", 1) for record in records)  # folders from before batches lack it
    cost_notes = [*notes, MEMORY_NOTE]
    if workers > 1:
        cost_notes.append(f"Speeds were measured with {workers} answers at a time on the same cores.")
    if batch > 1:
        cost_notes.append(
            f"Up to {batch} answers advanced together: decode tokens/s is one answer's share, resident memory that "
            "of all of them. --batch 1 measures each alone."
        )
    write_tables(scores, folder.path, "scores", notes)
    write_tables(costs, folder.path, "caches", cost_notes)
    summary = (
        f"# LongBench: {facts['description']}\n\n{markdown(scores, notes)}\n"
        f"Scores in percent; differences in points, each the mean over the samples with its standard error.\n\n"
        f"{markdown(costs, cost_notes)}"
    )
    write_text(folder.path / "summary.md", summary)
    return summary


def _check_complete(recorded: Mapping[str, Mapping[str, list[dict[str, Any]]]]) -> None:
    indices = [{name: [r["index"] for r in some] for name, some in by_name.items()} for by_name in recorded.values()]
    if any(one != indices[0] for one in indices):
        raise EvalError("the caches have not answered the same samples; run the same command to go on")


def _groups(recorded: Mapping[str, Mapping[str, list[dict[str, Any]]]], *, e: bool) -> list[Group]:
    first = next(iter(recorded.values()))
    groups = []
    for name, some in first.items():
        scores = {cache: [_score(name, record) for record in by_name[name]] for cache, by_name in recorded.items()}
        if name == "v2":
            labels = [["overall", record["difficulty"], record["length"]] for record in some]
            wanted = ("overall", "easy", "hard", "short", "medium", "long")
            groups += _parts({"task": "LongBench v2"}, "subset", labels, wanted, scores, _v2_percent)
        elif e:
            labels = [[length_bucket(record["length"])] for record in some]
            buckets = [bucket for bucket, _ in LENGTH_BUCKETS]
            names = {"task": name, "metric": task(name).metric}
            groups += _parts(names, "length", labels, buckets, scores, bucket_percent)
        else:
            groups.append(Group({"task": name, "metric": task(name).metric}, scores, percent))
    return groups


def _parts(
    names: dict[str, str],
    column: str,
    labels: Sequence[Sequence[str]],
    wanted: Sequence[str],
    scores: Mapping[str, list[float]],
    average: Callable[[list[float]], float],
) -> list[Group]:
    parts = []
    for part in wanted:
        at = [i for i, some in enumerate(labels) if part in some]
        if at:
            chosen = {cache: [values[i] for i in at] for cache, values in scores.items()}
            parts.append(Group(names | {column: part}, chosen, average))
    return parts


def _v2_percent(scores: list[float]) -> float:
    return round(100 * sum(scores) / len(scores), 1)


def _score(name: str, record: Mapping[str, Any]) -> float:
    if name == "v2":
        return float(record["judge"])
    return score_prediction(task(name), record["pred"], record["answers"], record["all_classes"] or ())


def _row(group: Group, caches: Sequence[str]) -> Row:
    base = caches[0]
    row: dict[str, Cell] = {**group.names, "samples": len(group.scores[base])}
    row |= {cache: group.percent(group.scores[cache]) for cache in caches}
    return row | {_difference(cache, base): _points(group, base, cache) for cache in caches[1:]}


def _points(group: Group, base: str, cache: str) -> Paired:
    return paired(100 * np.array(group.scores[base]), 100 * np.array(group.scores[cache]))


def _difference(cache: str, base: str) -> str:
    return f"{cache} - {base}"


def _averages(groups: Sequence[Group], caches: Sequence[str]) -> list[Row]:
    """v1: the mean of the tasks, and where all six categories are there the mean of theirs, the benchmark's own."""
    if len(groups) < 2 or any(set(group.names) != {"task", "metric"} for group in groups):
        return []
    by_category: dict[str, list[Group]] = {}
    for group in groups:
        by_category.setdefault(task(group.names["task"]).category, []).append(group)
    weights = {"average of the tasks": {group.names["task"]: 1 / len(groups) for group in groups}}
    if len(by_category) == 6:
        weights["average of the categories"] = {
            group.names["task"]: 1 / len(some) / len(by_category) for some in by_category.values() for group in some
        }
    return [_average_row(name, share, groups, caches) for name, share in weights.items()]


def _average_row(name: str, share: Mapping[str, float], groups: Sequence[Group], caches: Sequence[str]) -> Row:
    base = caches[0]
    row: dict[str, Cell] = {"task": name, "metric": "", "samples": sum(len(group.scores[base]) for group in groups)}
    for cache in caches:
        row[cache] = round(sum(share[g.names["task"]] * g.percent(g.scores[cache]) for g in groups), 2)
    for cache in caches[1:]:
        each = [(share[group.names["task"]], _points(group, base, cache)) for group in groups]
        errors = [weight * one.se for weight, one in each if one.se is not None]
        # Tasks are fixed and samples drawn: the errors of independent means add in squares.
        se = math.hypot(*errors) if len(errors) == len(each) else None
        row[_difference(cache, base)] = Paired(
            sum(weight * one.mean for weight, one in each), se, sum(one.n for _, one in each)
        )
    return row


def _cost_row(cache: str, spec: str, by_name: Mapping[str, list[dict[str, Any]]]) -> Row:
    records = [record for some in by_name.values() for record in some]

    def total(field: str) -> float:
        return float(sum(record[field] for record in records))

    def mean_and_most(values: Sequence[float]) -> tuple[float, float]:
        return sum(values) / len(values) / MiB, max(values) / MiB

    ratio = total("kv_bytes") / total("kv_f16_bytes")
    cache_mean, cache_most = mean_and_most([record["kv_bytes"] for record in records])
    row: dict[str, Cell] = {
        "cache": cache,
        "options": spec,
        "samples": len(records),
        "prompt tokens": round(total("prompt_tokens") / len(records)),
        "bits a value": 16 * ratio,
        "compression ratio": ratio,
        "memory savings": 1 - ratio,
        "cache MiB, mean": cache_mean,
        "largest": cache_most,
    }
    if all(record["rss_peak"] is not None for record in records):
        row["resident MiB, mean peak"], row["highest peak"] = mean_and_most([record["rss_peak"] for record in records])
        row["highest over start"] = max(record["rss_peak"] - record["rss_before"] for record in records) / MiB
    return row | {
        "TTFT s": total("ttft_s") / len(records),
        "prefill tokens/s": total("prompt_tokens") / total("prefill_s"),
        "decode tokens/s": _decode_rate(records),
        "sealing, share of prefill": total("seal_s") / total("prefill_s"),
    }


def _decode_rate(records: Sequence[Mapping[str, Any]]) -> float | None:
    seconds = sum(record["decode_s"] for record in records)
    tokens = sum(max(0, record["generated_tokens"] - 1) for record in records)
    return tokens / seconds if seconds > 0 else None
