"""From a sample to the token ids that a model reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .data import Sample, truncate_middle, truncate_middle_v2
from .tasks import V2_MAX_GEN, LongBenchError, Task, v2_prompt

if TYPE_CHECKING:
    import livekv


@dataclass(frozen=True)
class Prompt:
    """A prompt that leaves room for the answer."""

    ids: list[int]
    cut: bool  # whether it lost its middle


class ModelTokenizer:
    """The model's tokenizer as truncation wants it: as Hugging Face's, control tokens in the text are parsed."""

    def __init__(self, model: livekv.Model) -> None:
        self._model = model

    def encode(self, text: str) -> list[int]:
        return self._model.tokenize_prompt(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self._model.detokenize(list(ids), skip_special=True)


def prepare(
    model: livekv.Model, task: Task, sample: Sample, n_ctx: int, max_length: int | None = None, *, chat: bool = True
) -> Prompt:
    """LongBench v1 and -E: the official prompt, its middle cut, in a chat template where task and model have one.

    The prompt alone gets at most `max_length` tokens, the official per-model number (3500 for Llama-2-chat with 4096).
    By default it gets what `n_ctx` leaves beside the task's generation length and the template.
    """
    text = task.prompt({"context": sample.context, "input": sample.input})
    wrap = chat and task.chat_template and model.has_chat_template
    return _fit(model, text, n_ctx - task.max_gen, max_length, truncate_middle, wrap=wrap)


def prepare_v2(
    model: livekv.Model, sample: Mapping[str, str], n_ctx: int, max_length: int | None = None, *, chat: bool = True
) -> Prompt:
    """LongBench v2, as `prepare`."""
    wrap = chat and model.has_chat_template
    return _fit(model, v2_prompt(sample), n_ctx - V2_MAX_GEN, max_length, truncate_middle_v2, wrap=wrap)


def _fit(
    model: livekv.Model,
    text: str,
    room: int,
    max_length: int | None,
    truncate: Callable[[str, ModelTokenizer, int], str],
    *,
    wrap: bool,
) -> Prompt:
    if max_length is not None and max_length < 2:
        raise LongBenchError(f"--max-length is {max_length}; what is left of a prompt is at least 2 tokens")
    tokenizer = ModelTokenizer(model)
    n_full = len(tokenizer.encode(text))
    limit = room if max_length is None else min(max_length, room)
    while True:
        if limit < 2:
            raise LongBenchError(f"a context that leaves {room} tokens to a prompt is too short")
        shown = truncate(text, tokenizer, limit)
        if wrap:
            shown = model.apply_chat_template([{"role": "user", "content": shown}])
        ids = tokenizer.encode(shown)
        if len(ids) <= room:
            return Prompt(ids, n_full > limit)
        # The template, and halves that were joined and encoded again, take more than was counted.
        limit = min(limit, n_full) - (len(ids) - room)
