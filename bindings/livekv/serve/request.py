"""What the scheduler is asked for, and what it tells while it works on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

U32 = npt.NDArray[np.uint32]


class Constraint(Protocol):
    """What one text may be, token by token: a JSON schema's grammar, for example."""

    def allowed(self) -> U32:
        """uint32 [ceil(n_vocab / 32)]: a bit for each token that may come next, the lowest first."""

    def take(self, token: int) -> None:
        """The token that came."""

    def complete(self) -> bool:
        """Whether nothing may follow any more."""


@dataclass(frozen=True)
class TokenChance:
    """A token and the natural logarithm of its probability before sampling options."""

    token: int
    logprob: float
    best: Sequence[tuple[int, float]]
    """The most likely tokens there, best first, as many as were asked for."""


@dataclass(frozen=True)
class Piece:
    """More text of one choice."""

    choice: int
    text: str
    chances: Sequence[TokenChance] = ()
    """Of the tokens that the text is of, where they were asked for."""
    reason: Literal["stop", "length"] | None = None
    """Why the choice ends with this piece; None: it goes on."""
    stop: str | None = None
    """The stop string that ended it."""


@dataclass(frozen=True)
class Failure:
    """The request is over, without what it asked for."""

    status: int
    """As HTTP numbers it: 500, 503 (no memory, or waited too long), 504 (took too long)."""
    message: str


@dataclass(eq=False)
class Request:
    """A prompt to be continued once or several times, and how far that has come.

    on_event is called in the thread that steps, for every choice until a piece with a reason, or once with a Failure.
    """

    prompt: Sequence[int]
    max_tokens: int | None = None
    """None: until the text or the context ends."""
    n: int = 1
    seed: int = 0
    """Choice i samples with seed + i."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Options of livekv.Sampler."""
    stop: Sequence[str] = ()
    ignore_eos: bool = False
    n_chances: int | None = None
    """Logarithms of probabilities: of each token and of the n best beside it; None: none at all."""
    scores_prompt: bool = False
    """Whether prompt_chances are wanted, for which all of the prompt is computed."""
    constraint: Callable[[], Constraint] | None = None
    """Makes one for each choice."""
    on_event: Callable[[Piece | Failure], None] = lambda event: None

    arrived: float = field(default_factory=time.monotonic)
    cancelled: bool = False
    """Set by anybody: nobody waits for it any more."""
    n_cached: int = 0
    """Tokens of the prompt that were not computed."""
    prompt_chances: list[TokenChance] = field(default_factory=list)
    """Of the prompt's tokens behind the first."""
    n_generated: int = 0
    """Tokens sampled for all choices, ends of text included."""

    @cached_property
    def ids(self) -> npt.NDArray[np.int32]:
        """The prompt, int32 [n]."""
        return np.asarray(self.prompt, np.int32)


class Refused(Exception):
    """A request that is not taken, in one line."""

    def __init__(self, status: int, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s
