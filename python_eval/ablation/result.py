"""The table of a study: every setting against its baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..divergence import difference, summary
from ..paired import paired
from ..tables import Row
from ..windows import Measured
from .plan import Plan

NOTE = (
    "KLD: Kullback-Leibler divergence in nats from the base cache, mean over scored tokens. Differences are from the "
    "baseline, paired on the same tokens (LongBench: on the same samples), with standard errors over windows "
    "(samples). Bits a value are measured from the allocator after a full window."
)
PUBLISHED_NOTE = (
    "published: narrativeqa score of the published system (200 samples, Llama-3.1-8B; its baseline has 29.57, paired "
    "standard errors are about 1 point)."
)
Scores = Mapping[str, Mapping[str, Sequence[float]]]
"""{spec: {LongBench task: the score of every sample, percent}}"""


def rows_of(plan: Plan, measured: Mapping[str, Measured], scores: Scores) -> list[Row]:
    """The baseline's row, then one a setting: KLD, perplexity, bits, task scores, each with its difference."""
    first = measured[plan.baseline]
    rows: list[Row] = [
        _row("baseline", first) | {"kl_diff": None, "nll_diff": None} | _task_cells(plan.baseline, None, scores)
    ]
    for setting in plan.settings:
        one = measured[setting.spec]
        cells = _row(setting.name, one) | dict(difference(one, first))
        cells |= _task_cells(setting.spec, plan.baseline, scores)
        if any(one.published is not None for one in plan.settings):
            cells |= {"published": setting.published}
        rows.append(cells)
    return rows


def short_rows(rows: Sequence[Row]) -> list[Row]:
    """What is printed of them: the names of the table are those of the files, without the rarer columns."""
    rare = {"n_windows", "n_tokens", "ppl_stderr", "kl_mean_stderr", "kl_median", "kl_p999", "kl_max", "spec"}
    return [{key: cell for key, cell in row.items() if key not in rare} for row in rows]


def _row(name: str, measured: Measured) -> dict[str, Any]:
    cells: dict[str, Any] = dict(summary(name, measured))
    del cells["cache"]
    return {"setting": name, **cells}


def _task_cells(spec: str, baseline: str | None, scores: Scores) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for task, samples in scores.get(spec, {}).items():
        cells[task] = sum(samples) / len(samples)
        cells[f"{task}_diff"] = None if baseline is None else paired(scores[baseline][task], samples)
    return cells
