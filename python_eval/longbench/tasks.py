"""What LongBench is: its tasks, prompts, generation lengths and length buckets.

Source: github.com/THUDM/LongBench (`LongBench/pred.py`, `LongBench/eval.py`, `LongBench/config/`, and for v2 `pred.py`
and `prompts/0shot.txt`); the prompts themselves lie verbatim in `prompts.json`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from ..errors import EvalError


class LongBenchError(EvalError):
    """A task, a data set or a folder of predictions that cannot be used; the message says which and why."""


@dataclass(frozen=True)
class Task:
    """One LongBench v1 task."""

    name: str
    category: str
    language: str  # en, zh or code
    metric: str  # a key of metrics.METRICS
    max_gen: int  # tokens
    chat_template: bool  # False: the model continues the bare prompt
    first_line: bool  # only the first line of the prediction is scored

    @property
    def stop_at_newline(self) -> bool:
        """Whether generation ends at a newline, though not before one token was generated."""
        return self.name == "samsum"

    def prompt(self, sample: Mapping[str, object]) -> str:
        """The official prompt around `sample`'s `context` and `input`."""
        template: str = _prompts()["v1"][self.name]
        return template.format(context=sample["context"], input=sample["input"])


_SINGLE, _MULTI, _SUMMARY = "single-document QA", "multi-document QA", "summarization"
_FEWSHOT, _SYNTHETIC, _CODE = "few-shot learning", "synthetic", "code completion"

# In the order of the official pred.py.
_TABLE: tuple[tuple[str, str, str, str, int], ...] = (
    ("narrativeqa", _SINGLE, "en", "qa_f1", 128),
    ("qasper", _SINGLE, "en", "qa_f1", 128),
    ("multifieldqa_en", _SINGLE, "en", "qa_f1", 64),
    ("multifieldqa_zh", _SINGLE, "zh", "qa_f1_zh", 64),
    ("hotpotqa", _MULTI, "en", "qa_f1", 32),
    ("2wikimqa", _MULTI, "en", "qa_f1", 32),
    ("musique", _MULTI, "en", "qa_f1", 32),
    ("dureader", _MULTI, "zh", "rouge_zh", 128),
    ("gov_report", _SUMMARY, "en", "rouge", 512),
    ("qmsum", _SUMMARY, "en", "rouge", 512),
    ("multi_news", _SUMMARY, "en", "rouge", 512),
    ("vcsum", _SUMMARY, "zh", "rouge_zh", 512),
    ("trec", _FEWSHOT, "en", "classification", 64),
    ("triviaqa", _FEWSHOT, "en", "qa_f1", 32),
    ("samsum", _FEWSHOT, "en", "rouge", 128),
    ("lsht", _FEWSHOT, "zh", "classification", 64),
    ("passage_count", _SYNTHETIC, "en", "count", 32),
    ("passage_retrieval_en", _SYNTHETIC, "en", "retrieval", 32),
    ("passage_retrieval_zh", _SYNTHETIC, "zh", "retrieval_zh", 32),
    ("lcc", _CODE, "code", "code_similarity", 64),
    ("repobench-p", _CODE, "code", "code_similarity", 64),
)

TASKS: dict[str, Task] = {
    name: Task(
        name, category, language, metric, max_gen, category not in (_FEWSHOT, _CODE), first_line=category == _FEWSHOT
    )
    for name, category, language, metric, max_gen in _TABLE
}

# How a gold answer of these metrics names its paragraph.
PARAGRAPHS = {"retrieval": re.compile(r"Paragraph (\d+)"), "retrieval_zh": re.compile(r"段落(\d+)")}

# LongBench-E: the tasks whose samples were drawn evenly over lengths.
E_TASKS: tuple[str, ...] = (
    "qasper",
    "multifieldqa_en",
    "hotpotqa",
    "2wikimqa",
    "gov_report",
    "multi_news",
    "trec",
    "triviaqa",
    "samsum",
    "passage_count",
    "passage_retrieval_en",
    "lcc",
    "repobench-p",
)

# Upper ends, not included, of a sample's `length`: words, or characters in Chinese.
LENGTH_BUCKETS: tuple[tuple[str, float], ...] = (("0-4k", 4000), ("4-8k", 8000), ("8k+", float("inf")))


def length_bucket(length: int) -> str:
    """LongBench-E's bucket of a sample by its `length` field."""
    return next(name for name, end in LENGTH_BUCKETS if length < end)


def task(name: str) -> Task:
    """The task of this name; LongBenchError names the known ones."""
    if name not in TASKS:
        raise LongBenchError(f"unknown LongBench task '{name}'; known: {', '.join(TASKS)}")
    return TASKS[name]


def select(names: str) -> list[Task]:
    """The tasks of `all`, `en` (with code: the 16 most papers average), `zh`, `e`, or of a comma-separated list."""
    groups: dict[str, Iterable[str]] = {
        "all": TASKS,
        "en": (name for name, one in TASKS.items() if one.language != "zh"),
        "zh": (name for name, one in TASKS.items() if one.language == "zh"),
        "e": E_TASKS,
    }
    wanted = groups[names] if names in groups else (name.strip() for name in names.split(","))
    return [task(name) for name in dict.fromkeys(wanted)]


# LongBench v2: 503 questions with four choices. The official run samples at this temperature, chat template applied.
V2_MAX_GEN = 128  # tokens
V2_TEMPERATURE = 0.1
V2_FIELDS = ("context", "question", "choice_A", "choice_B", "choice_C", "choice_D")
V2_CHOICES = ("A", "B", "C", "D")

_V2_ANSWERS = (re.compile(r"The correct answer is \(([A-D])\)"), re.compile(r"The correct answer is ([A-D])"))


def v2_prompt(sample: Mapping[str, str]) -> str:
    """The official zero-shot prompt around a v2 sample's `V2_FIELDS`."""
    prompt: str = _prompts()["v2"]
    # One after the other, as the official run does: a marker inside an earlier field would be replaced too.
    for marker, field in zip(("$DOC$", "$Q$", "$C_A$", "$C_B$", "$C_C$", "$C_D$"), V2_FIELDS, strict=True):
        prompt = prompt.replace(marker, sample[field].strip())
    return prompt


def v2_answer(response: str) -> str | None:
    """The letter that `response` chooses, the bracketed form first; None counts as wrong."""
    plain = response.replace("*", "")
    found = next((hit for pattern in _V2_ANSWERS if (hit := pattern.search(plain))), None)
    return found.group(1) if found else None


@cache
def _prompts() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("prompts.json").read_text(encoding="utf-8")
    prompts: dict[str, Any] = json.loads(text)
    return prompts
