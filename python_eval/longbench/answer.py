"""Answers of the model, several at a time, with what each cost in time and memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..memory import begin_peak, current_rss, peak_rss
from .tasks import V2_MAX_GEN, V2_TEMPERATURE, Task

if TYPE_CHECKING:
    import numpy.typing as npt

    import livekv


@dataclass(frozen=True)
class Decoding:
    """How the answer's tokens are chosen and where it ends (besides the model's own end of text)."""

    max_tokens: int
    temperature: float = 0.0  # 0: greedy
    seed: int = 0
    stop_at_newline: bool = False  # at the newline token, which like the end of text is not taken as the first token


def decoding(task: Task) -> Decoding:
    """LongBench v1 and -E: greedy."""
    return Decoding(task.max_gen, stop_at_newline=task.stop_at_newline)


def decoding_v2(seed: int) -> Decoding:
    """LongBench v2: sampled from the whole distribution at the official temperature."""
    return Decoding(V2_MAX_GEN, V2_TEMPERATURE, seed)


@dataclass
class Asked:
    """A prompt that was read, and the answer in the making. Times in seconds."""

    session: livekv.Session
    how: Decoding
    logits: npt.NDArray[np.float32]  # [n_vocab], after the prompt
    n_prompt: int
    prefill_s: float
    seal_s: float  # of that
    tokens: list[int] = field(default_factory=list)  # of the answer, without an end-of-text token
    measures: dict[str, Any] = field(default_factory=dict)


def answer_together(
    model: livekv.Model,
    questions: Sequence[tuple[list[int], Decoding]],
    kv: livekv.KVOptions,
    n_threads: int | None,
) -> list[dict[str, Any]]:
    """To each prompt the answer as `pred` and its measures: counts in tokens, times in seconds (`_s`), memory in bytes.

    Prompts are read one after another, each in a session as long as prompt and answer need; then the answers advance
    together: `ttft_s` counts from where a prompt's own reading begins, less the others', `decode_s` is the time of the
    steps that the answer took part in. `kv_bytes` is what the cache's allocations hold when the answer ends,
    `kv_f16_bytes` what plain 16-bit numbers would take for the same tokens. `rss_before` is the process's resident
    memory before the first session exists, `rss_peak` the most since then; None where the system does not reset it.
    """
    import livekv

    resettable = begin_peak()
    before = current_rss()
    engine = livekv.Engine(model, n_threads)
    asked = [_read(model, prompt, how, kv, n_threads) for prompt, how in questions]
    _until_newline(model, engine, [one for one in asked if one.how.stop_at_newline])
    _generate(engine, [one for one in asked if not one.how.stop_at_newline])
    peak = peak_rss() if resettable else None
    answers = []
    for one in asked:
        stats = one.session.kv_stats()
        answers.append(
            {
                # As the official code: the answer's tokens alone, so without a SentencePiece model's first space.
                "pred": model.detokenize(one.tokens, skip_special=True),
                **one.measures,
                "prompt_tokens": one.n_prompt,
                "kv_bytes": stats.bytes.total,
                "kv_f16_bytes": stats.f16_bytes,
                "kv_bits_per_value": stats.bits_per_value,
                "rss_before": before,
                "rss_peak": peak,
            }
        )
    return answers


def _read(
    model: livekv.Model, prompt: list[int], how: Decoding, kv: livekv.KVOptions, n_threads: int | None
) -> Asked:
    begin = time.perf_counter()
    session = model.session(n_ctx=len(prompt) + how.max_tokens, kv=kv, n_threads=n_threads)
    logits = session.prefill(prompt)
    return Asked(session, how, logits, len(prompt), time.perf_counter() - begin, session.kv_stats().seal_s)


def _generate(engine: livekv.Engine, asked: Sequence[Asked]) -> None:
    if not asked:
        return
    texts = [
        one.session.generate(
            None,
            max_tokens=one.how.max_tokens,
            temperature=one.how.temperature,
            top_k=0,
            top_p=1.0,
            min_p=0.0,
            repeat_penalty=1.0,
            seed=one.how.seed,
        )
        for one in asked
    ]
    for _ in engine.generate_batch(texts, len(texts)):
        pass
    for one, text in zip(asked, texts, strict=True):
        usage = text.usage
        assert usage.ttft_s is not None  # an answer has a token at least
        one.tokens = text.tokens
        _measure(one, usage.generated_tokens, usage.finish_reason, usage.ttft_s, usage.decode_s)


def _until_newline(model: livekv.Model, engine: livekv.Engine, asked: Sequence[Asked]) -> None:
    """Greedy, token by token: the stop is a token, not a text, and the first token is chosen among the others."""
    newline = model.tokenize("\n", add_special=False)[-1]
    ends = [newline, *(token for token in range(model.n_vocab) if model.is_end_of_generation(token))]
    first_s = {}
    for one in asked:
        begin = time.perf_counter()
        one.logits[ends] = -np.inf
        one.tokens = [int(np.argmax(one.logits))]
        first_s[id(one)] = time.perf_counter() - begin

    begin = time.perf_counter()

    def goes_on(one: Asked) -> bool:
        reason = "length" if len(one.tokens) == one.how.max_tokens else ""
        if len(one.tokens) > 1 and one.tokens[-1] in ends:
            reason = "stop" if one.tokens[-1] == newline else "eos"
        if reason:
            _measure(one, len(one.tokens), reason, first_s[id(one)], time.perf_counter() - begin)
            one.tokens = one.tokens[:-1] if reason == "eos" else one.tokens
        return not reason

    running = [one for one in asked if goes_on(one)]
    while running:
        rows = engine.step([(one.session, one.tokens[-1:]) for one in running], generated=True)
        for one, row in zip(running, rows, strict=True):
            one.tokens.append(int(np.argmax(row)))
        running = [one for one in running if goes_on(one)]


def _measure(one: Asked, n_generated: int, reason: str, first_s: float, decode_s: float) -> None:
    one.measures = {
        "generated_tokens": n_generated,
        "finish_reason": reason,
        "ttft_s": one.prefill_s + first_s,
        "prefill_s": one.prefill_s,
        "decode_s": decode_s,
        "seal_s": one.seal_s,
    }
