"""Generated text as it comes, and what it took."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from livekv import _livekv
from livekv._livekv import Error

FinishReason = Literal["stop", "length", "eos", "context", "interrupted"]

_FINISH: dict[str, FinishReason] = {
    "stop_string": "stop",
    "n_predict": "length",
    "end_of_text": "eos",
    "context_full": "context",
    "interrupted": "interrupted",
}


@dataclass(frozen=True)
class Usage:
    """What a generated text took. Times in seconds; the caller's own between two pieces of text is not in them."""

    prompt_tokens: int
    """Prefilled for this text."""
    cached_tokens: int
    """Of these, not computed: known as another prompt's beginning (Model's prefix_cache_bytes)."""
    forgotten_tokens: int
    """That left the context to make room (Session.generate's keep)."""
    generated_tokens: int
    """Sampled, an end-of-text token included."""
    drafted_tokens: int
    """Of prompt lookup (Session.generate's lookup)."""
    accepted_tokens: int
    """Of these, those that were sampled."""
    finish_reason: FinishReason
    """A stop string, max_tokens, the model's end of text, a full context, or an exception of a signal's (Ctrl-C)."""
    ttft_s: float | None
    """To the first token; None when there is none (max_tokens 0)."""
    prefill_s: float
    """To the prompt's last logits."""
    decode_s: float
    """From the first token to the last."""
    seal_s: float
    """Of the prefill, in sealing chunks."""
    prefill_tokens_per_s: float | None
    """None when nothing was prefilled."""
    decode_tokens_per_s: float | None
    """None with fewer than two tokens."""
    seed: int
    """Of the sampling."""


class Generation(Iterator[str]):
    """A text in the making: iterate over its pieces. Made by Session.generate;
    Engine.generate_batch runs several together.

    A piece is never a part of a character or of a stop string. The session holds the prompt and all tokens but the last
    one sampled. Ctrl-C raises KeyboardInterrupt after the token or chunk at hand and ends the text.
    """

    def __init__(self, core: _livekv.Generation, seed: int) -> None:
        self._core = core
        self._seed = seed

    def __iter__(self) -> Generation:
        return self

    def __next__(self) -> str:
        try:
            piece = self._core.next()
        except Error:
            raise
        except BaseException:  # a signal's
            self._core.interrupt()
            raise
        if piece is None:
            raise StopIteration
        return piece

    @property
    def text(self) -> str:
        """What was generated so far."""
        return self._core.text()

    @property
    def tokens(self) -> list[int]:
        """Token ids generated so far, without an end-of-text token; with those of a stop string."""
        return self._core.tokens()

    @property
    def ended(self) -> bool:
        """Whether there is no more text to come, be it that a step has failed."""
        return self._core.over()

    @property
    def usage(self) -> Usage:
        """What the text took. Raises Error while it has not ended."""
        raw = self._core.result()
        if not self._core.ended():
            raise Error("the text has not ended; its usage is known then")
        return Usage(
            prompt_tokens=raw["n_prompt"],
            cached_tokens=raw["n_reused"],
            forgotten_tokens=raw["n_forgotten"],
            generated_tokens=raw["n_generated"],
            drafted_tokens=raw["n_drafted"],
            accepted_tokens=raw["n_accepted"],
            finish_reason=_FINISH[raw["reason"]],
            ttft_s=raw["ttft_s"],
            prefill_s=raw["prefill_s"],
            decode_s=raw["decode_s"],
            seal_s=raw["seal_s"],
            prefill_tokens_per_s=raw["prefill_tps"],
            decode_tokens_per_s=raw["decode_tps"],
            seed=self._seed,
        )
