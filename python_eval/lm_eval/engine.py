"""The requests of lm-evaluation-harness as token ids, answered by livekv in this process or a worker's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import EvalError
from .prefixes import STEP, sessions

if TYPE_CHECKING:
    import numpy.typing as npt

    import livekv


@dataclass(frozen=True)
class Score:
    """Log-likelihoods of continuations of one context."""

    context: list[int]  # at least one token
    continuations: list[list[int]]  # at least one token each


@dataclass(frozen=True)
class Generate:
    """A text that goes on from one context."""

    context: list[int]
    max_tokens: int
    stop: tuple[str, ...]
    temperature: float  # 0: greedy
    top_k: int
    top_p: float
    min_p: float
    repeat_penalty: float
    seed: int


@dataclass(frozen=True)
class Answer:
    """Of one request, with what its sequence took."""

    value: Any  # Score: [(log-likelihood, is_greedy)] by continuation; Generate: the text
    n_tokens: int  # processed for it
    n_reused: int  # that other requests had read already
    kv_bytes: int  # of the cache when it was done
    kv_f16_bytes: int  # 16-bit numbers for the same tokens


# Tokens whose logits are held at once: 512 rows of 128,256 numbers are 250 MiB.
PIECE = 512


class Engine:
    """Answers batches; loads the model at the first one."""

    def __init__(self, model: Path, kv: str, n_ctx: int, n_threads: int | None, n_gpu_layers: int) -> None:
        self.path, self.kv, self.n_ctx = model, kv, n_ctx
        self.n_threads, self.n_gpu_layers = n_threads, n_gpu_layers
        self._model: livekv.Model | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_model": None}

    @property
    def model(self) -> livekv.Model:
        if self._model is None:
            import livekv

            self._model = livekv.Model(self.path, n_gpu_layers=self.n_gpu_layers)
        return self._model

    def __call__(self, batch: Sequence[Score | Generate]) -> list[Answer]:
        """Answers in the order of the requests, which share beginnings of their contexts."""
        import livekv

        kv = livekv.KVOptions.parse(self.kv)
        room = max(_length(request) for request in batch)
        if room > self.n_ctx:
            raise EvalError(f"a request needs {room} tokens; the context has {self.n_ctx}")
        answers: dict[int, Answer] = {}

        def open_session() -> livekv.Session:
            return self.model.session(n_ctx=room, kv=kv, n_threads=self.n_threads)

        for index, session, n_read in sessions(open_session, [_head(request) for request in batch]):
            request = batch[index]
            n_reused = session.n_tokens - n_read
            value: Any
            if isinstance(request, Score):
                value, n_tokens, last = _score(session, request)
            else:
                value, n_tokens, last = _generate(session, request)
            stats = last.kv_stats()
            answers[index] = Answer(value, n_read + n_tokens, n_reused, stats.bytes.total, stats.f16_bytes)
        return [answers[index] for index in range(len(batch))]


def _length(request: Score | Generate) -> int:
    """Tokens that a session must hold: the last one of a text is never processed."""
    if isinstance(request, Score):
        return len(request.context) + max(map(len, request.continuations)) - 1
    return len(request.context) + request.max_tokens


def _head(request: Score | Generate) -> list[int]:
    """What of the context is read before the request itself, and may be shared; to be scored, a step or two are left
    to be processed anew with each continuation."""
    n = len(request.context)
    return request.context[: max(0, n // STEP - 1) * STEP if isinstance(request, Score) else n - 1]


def _score(session: livekv.Session, request: Score) -> tuple[list[tuple[float, bool]], int, livekv.Session]:
    """`session` holds the head of the context; the rest of it is processed here, once for each continuation."""
    tail = request.context[session.n_tokens :]
    values, n_tokens, last = [], 0, session
    for at, continuation in enumerate(request.continuations):
        last = session if at + 1 == len(request.continuations) else session.fork()
        values.append(_continue(last, tail, continuation))
        n_tokens += len(tail) + len(continuation) - 1
    return values, n_tokens, last


def _continue(session: livekv.Session, tail: list[int], continuation: list[int]) -> tuple[float, bool]:
    """Log-likelihood of `continuation` after the session's tokens and `tail`; logits exist for a piece at a time."""
    tokens = tail + continuation[:-1]
    cuts = list(range(0, len(tokens) - STEP + 1, PIECE)) or [0]
    total, greedy = 0.0, True
    for begin, end in zip(cuts, [*cuts[1:], len(tokens)], strict=True):
        rows = session.eval(tokens[begin:end], all_logits=True)
        # Row i predicts what follows tokens[begin + i].
        first = max(begin, len(tail) - 1)
        value, best = log_likelihood(rows[first - begin :], continuation[first - len(tail) + 1 : end - len(tail) + 1])
        total, greedy = total + value, greedy and best
    return total, greedy


def log_likelihood(logits: npt.NDArray[np.float32], tokens: Sequence[int]) -> tuple[float, bool]:
    """Sum of ln p(token) in nats, and whether each token is the most likely; logits [len(tokens), n_vocab]."""
    rows = logits.astype(np.float64)
    top = rows.max(axis=1)
    normalizer = top + np.log(np.exp(rows - top[:, None]).sum(axis=1))
    chosen = rows[np.arange(len(tokens)), tokens]
    return float((chosen - normalizer).sum()), bool((rows.argmax(axis=1) == np.asarray(tokens)).all())


def _generate(session: livekv.Session, request: Generate) -> tuple[str, int, livekv.Session]:
    text = session.generate(
        request.context[-1:],
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        top_k=request.top_k,
        top_p=request.top_p,
        min_p=request.min_p,
        repeat_penalty=request.repeat_penalty,
        seed=request.seed,
        stop=list(request.stop),
    )
    for _ in text:
        pass
    return text.text, text.usage.generated_tokens, session
