"""From the logits of Engine.step to tokens, and from tokens to text, for programs that drive an engine themselves."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from livekv import _livekv
from livekv.arguments import core_of, whole

if TYPE_CHECKING:
    from livekv.model import Model, Tokens

F32 = npt.NDArray[np.float32]
U32 = npt.NDArray[np.uint32]

DEFAULTS: dict[str, Any] = _livekv.sampling_defaults()
"""By name, from the engine's table (engine/session/sampling_fields.h)."""


def drawn_seed(seed: int | None) -> int:
    """A seed as it was given, checked, or a new one for None."""
    return random.SystemRandom().getrandbits(63) if seed is None else whole("seed", seed, 0, 2**64 - 1)


def stop_strings(stop: str | Iterable[str]) -> list[str]:
    """One or several, as the extension takes them; what is none is its to refuse."""
    return [stop] if isinstance(stop, str) or not isinstance(stop, Iterable) else list(stop)


class Sampler:
    """Chooses tokens from logits as Session.generate does: the same options, seed and logits give the same tokens.

    options: those of Session.generate by name (temperature, top_k, top_p, min_p, repeat_penalty). seed: None: a new
    one. ignore_eos: the model's ends of text are never chosen. Raises Error for options out of range.
    """

    def __init__(self, model: Model, seed: int | None = None, ignore_eos: bool = False, **options: Any) -> None:
        self.seed = drawn_seed(seed)
        core = core_of("model", model, _livekv.Model)
        self._core = _livekv.Sampler(core, sampling=options, seed=self.seed, ignore_eos=ignore_eos)

    def observe(self, tokens: Tokens) -> None:
        """Tells the repetition penalty of the prompt."""
        self._core.observe(tokens)

    def next(self, logits: F32, allowed: U32 | None = None) -> int:
        """The next token. logits: float32 [n_vocab]. allowed: uint32 [ceil(n_vocab / 32)], a bit for each token, the
        lowest first; None: every token. Raises Error when no token is allowed, or a logit is not finite."""
        return self._core.next(logits, allowed)


class Lookup:
    """Drafts how a text goes on: as it did where its last three tokens stood before (prompt lookup). most: tokens of a
    draft, 1..64."""

    def __init__(self, most: int) -> None:
        self._core = _livekv.Lookup(whole("most", most, 1, 64))

    def observe(self, tokens: Tokens) -> None:
        """The text's next ones."""
        self._core.observe(tokens)

    def draft(self, room: int) -> list[int]:
        """What may come behind the text: room tokens at most, often none."""
        return self._core.draft(room)

    def learn(self, n_drafted: int, n_accepted: int) -> None:
        """How many tokens of the last draft were right: wrong ones make drafts shorter and rarer."""
        self._core.learn(n_drafted, n_accepted)


class TextStream:
    """Text from generated tokens: pieces are never a part of a character or of a stop string.

    stop: the text ends before the first of these. Raises Error for an empty one.
    """

    def __init__(self, model: Model, stop: str | Iterable[str] = ()) -> None:
        self._core = _livekv.TextStream(core_of("model", model, _livekv.Model), stop_strings(stop))

    def push(self, token: int) -> str:
        """The text that is certain now."""
        return self._core.push(token)

    def finish(self) -> str:
        """What was held back."""
        return self._core.finish()

    @property
    def stopped(self) -> bool:
        """A stop string has come; nothing more will."""
        return self._core.stopped()
