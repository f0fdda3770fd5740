"""One answer of the model, with what it cost in time and memory."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..memory import begin_peak, current_rss, peak_rss
from .tasks import V2_MAX_GEN, V2_TEMPERATURE, Task

if TYPE_CHECKING:
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


def answer(
    model: livekv.Model, prompt: list[int], how: Decoding, kv: livekv.KVOptions, n_threads: int | None
) -> dict[str, Any]:
    """The answer as `pred` and its measures: counts in tokens, times in seconds (`_s`), memory in bytes.

    The session is as long as prompt and answer need. `kv_bytes` is what the cache's allocations hold when the answer
    ends, `kv_f16_bytes` what plain 16-bit numbers would take for the same tokens. `rss_before` is the process's
    resident memory before the session exists, `rss_peak` the most since then; None where the system does not reset it.
    """
    resettable = begin_peak()
    before = current_rss()
    session = model.session(n_ctx=len(prompt) + how.max_tokens, kv=kv, n_threads=n_threads)
    produce = _until_newline if how.stop_at_newline else _generate
    tokens, measures = produce(model, session, prompt, how)
    stats = session.kv_stats()
    return {
        # As the official code: the answer's tokens on their own, so without a SentencePiece model's first space.
        "pred": model.detokenize(tokens, skip_special=True),
        **measures,
        "prompt_tokens": len(prompt),
        "kv_bytes": stats.bytes.total,
        "kv_f16_bytes": stats.f16_bytes,
        "kv_bits_per_value": stats.bits_per_value,
        "rss_before": before,
        "rss_peak": peak_rss() if resettable else None,
    }


Produced = tuple[list[int], dict[str, Any]]
"""The answer's tokens, an end-of-text token not included, and what they took."""


def _generate(model: livekv.Model, session: livekv.Session, prompt: list[int], how: Decoding) -> Produced:
    text = session.generate(
        prompt,
        max_tokens=how.max_tokens,
        temperature=how.temperature,
        top_k=0,
        top_p=1.0,
        min_p=0.0,
        repeat_penalty=1.0,
        seed=how.seed,
    )
    for _ in text:
        pass
    usage = text.usage
    return text.tokens, {
        "generated_tokens": usage.generated_tokens,
        "finish_reason": usage.finish_reason,
        "ttft_s": usage.ttft_s,
        "prefill_s": usage.prefill_s,
        "decode_s": usage.decode_s,
        "seal_s": usage.seal_s,
    }


def _until_newline(model: livekv.Model, session: livekv.Session, prompt: list[int], how: Decoding) -> Produced:
    """Greedy, token by token: the stop is a token, not a text, and the first token is chosen among the others."""
    newline = model.tokenize("\n", add_special=False)[-1]
    begin = time.perf_counter()
    logits = session.prefill(prompt)
    prefilled, seal_s = time.perf_counter(), session.kv_stats().seal_s
    ends = [newline, *(token for token in range(model.n_vocab) if model.is_end_of_generation(token))]
    logits[ends] = -np.inf
    tokens = [int(np.argmax(logits))]
    first = time.perf_counter()
    reason = "length"
    while len(tokens) < how.max_tokens and reason == "length":
        tokens.append(int(np.argmax(session.eval(tokens[-1:]))))
        if tokens[-1] in ends:
            reason = "stop" if tokens[-1] == newline else "eos"
    measures = {
        "generated_tokens": len(tokens),
        "finish_reason": reason,
        "ttft_s": first - begin,
        "prefill_s": prefilled - begin,
        "decode_s": time.perf_counter() - first,
        "seal_s": seal_s,
    }
    return tokens[:-1] if reason == "eos" else tokens, measures
