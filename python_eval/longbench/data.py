"""Samples and predictions from local JSONL files, and prompts cut to a model's context."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..files import lines_of, parse_line
from .tasks import PARAGRAPHS, V2_CHOICES, V2_FIELDS, LongBenchError, Task


class Tokenizer(Protocol):
    """What truncation needs of a tokenizer."""

    def encode(self, text: str) -> Sequence[int]:
        """Ids with the special tokens a prompt gets: they count."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens."""


@dataclass(frozen=True)
class Sample:
    """One sample of LongBench v1 or -E, or a recorded prediction for one (`pred` set, `context` and `input` empty)."""

    answers: tuple[str, ...]  # each is right
    classes: tuple[str, ...]  # all classes of a classification task, else none
    length: int | None  # words, characters in Chinese
    context: str = ""
    input: str = ""
    id: str = ""
    pred: str = ""


@dataclass(frozen=True)
class Row:
    """One line of a JSONL file, its fields checked when they are read."""

    path: Path
    line: int
    fields: Mapping[str, Any]

    def error(self, what: str) -> LongBenchError:
        return LongBenchError(f"{self.path}:{self.line}: {what}")

    def text(self, name: str, *, optional: bool = False) -> str:
        """A string field; absent and optional: empty."""
        if optional and self.fields.get(name) is None:
            return ""
        value = self._get(name)
        if not isinstance(value, str):
            raise self.error(f"'{name}' is not a string")
        return value

    def texts(self, name: str, *, optional: bool = False) -> tuple[str, ...]:
        """A field with a list of strings; absent or null and optional: empty."""
        if optional and self.fields.get(name) is None:
            return ()
        value = self._get(name)
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self.error(f"'{name}' is not a list of strings")
        return tuple(value)

    def integer(self, name: str) -> int | None:
        """An integer field; None where it is absent or null."""
        value = self.fields.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise self.error(f"'{name}' is not an integer")
        return value

    def _get(self, name: str) -> Any:
        if name not in self.fields:
            raise self.error(f"'{name}' is missing")
        return self.fields[name]


def read_rows(path: Path) -> Iterator[Row]:
    """The objects of a JSONL file, UTF-8; EvalError names the file and the line that is none."""
    if not path.is_file():
        raise LongBenchError(f"{path}: no such file")
    # As bytes: a broken character is then a matter of its own line, and only a newline ends one.
    with path.open("rb") as file:
        for number, line in lines_of(file):
            yield Row(path, number, parse_line(path, number, line))


def read_samples(folder: Path, task: Task, *, e: bool = False) -> list[Sample]:
    """The samples of `task` in `folder`/<task>.jsonl, or <task>_e.jsonl for LongBench-E (original schema)."""
    return [
        Sample(
            answers=_answers(row, task),
            classes=_classes(row, task),
            length=row.integer("length"),
            context=row.text("context"),
            input=row.text("input"),
            id=row.text("_id", optional=True),
        )
        for row in read_rows(_file(folder, f"{task.name}_e.jsonl" if e else f"{task.name}.jsonl"))
    ]


def read_predictions(path: Path, task: Task | None = None) -> list[Sample]:
    """Recorded predictions in the official format: `pred`, `answers`, `all_classes` and mostly `length`; with a task
    what its score needs must be there."""
    samples = [
        Sample(_answers(row, task), _classes(row, task), row.integer("length"), pred=row.text("pred"))
        for row in read_rows(path)
    ]
    if not samples:
        raise LongBenchError(f"{path}: no predictions")
    return samples


def read_v2(path: Path) -> list[dict[str, str]]:
    """LongBench v2 samples, one JSON object a line, with `V2_FIELDS`, `answer`, `difficulty`, `length` and `_id`."""
    fields = (*V2_FIELDS, "answer", "difficulty", "length", "_id")
    samples = []
    for row in read_rows(path):
        if row.text("answer") not in V2_CHOICES:
            raise row.error(f"'answer' is '{row.text('answer')}', expected one of {', '.join(V2_CHOICES)}")
        samples.append({name: row.text(name) for name in fields})
    return samples


def truncate_middle(text: str, tokenizer: Tokenizer, max_tokens: int) -> str:
    """LongBench v1's truncation: `text`, or where it is longer its first and its last `max_tokens // 2` tokens.

    The halves are decoded one by one and joined, so that encoding the result again may give a few tokens more or less.
    """
    ids = _encode(text, tokenizer, max_tokens)
    half = max_tokens // 2
    return text if len(ids) <= max_tokens else tokenizer.decode(ids[:half]) + tokenizer.decode(ids[-half:])


def truncate_middle_v2(text: str, tokenizer: Tokenizer, max_tokens: int) -> str:
    """LongBench v2's truncation: both halves decoded as one text; of an odd `max_tokens` the tail has one more."""
    ids = _encode(text, tokenizer, max_tokens)
    half = max_tokens // 2
    return text if len(ids) <= max_tokens else tokenizer.decode([*ids[:half], *ids[half - max_tokens :]])


def _encode(text: str, tokenizer: Tokenizer, max_tokens: int) -> Sequence[int]:
    if max_tokens < 2:
        raise LongBenchError(f"cannot cut a prompt to {max_tokens} tokens; two is the least")
    return tokenizer.encode(text)


def _answers(row: Row, task: Task | None) -> tuple[str, ...]:
    answers = row.texts("answers")
    if not answers:
        raise row.error("'answers' is empty")
    if task is not None and task.metric in PARAGRAPHS:
        for answer in answers:
            if not PARAGRAPHS[task.metric].search(answer):
                raise row.error(f"the answer '{answer}' names no paragraph")
    return answers


def _classes(row: Row, task: Task | None) -> tuple[str, ...]:
    """Without them every answer of a classification task would count as wrong."""
    needed = task is not None and task.metric == "classification"
    classes = row.texts("all_classes", optional=not needed)
    if needed and not classes:
        raise row.error("'all_classes' is empty")
    return classes


def _file(folder: Path, name: str) -> Path:
    if not folder.is_dir():
        raise LongBenchError(f"{folder}: no such folder")
    return folder / name
