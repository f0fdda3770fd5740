"""The requests of lm-evaluation-harness as token ids, answered by livekv in this process or a worker's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import EvalError
from .prefixes import STEP, sessions, split_runs

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
    """Answers requests, up to `batch` sequences at a time; loads the model at the first one."""

    def __init__(
        self, model: Path, kv: str, n_ctx: int, n_threads: int | None, n_gpu_layers: int, batch: int = 8
    ) -> None:
        self.path, self.kv, self.n_ctx, self.batch = model, kv, n_ctx, batch
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

    def __call__(self, requests: Sequence[Score | Generate]) -> list[Answer]:
        """Answers in the order of the requests; those that share the beginning of their contexts read it once."""
        import livekv

        room = max(map(_length, requests))
        if room > self.n_ctx:
            raise EvalError(f"a request needs {room} tokens; the context has {self.n_ctx}")
        engine = livekv.Engine(self.model, self.n_threads)
        answers: dict[int, Answer] = {}
        under_way: dict[livekv.Generation, tuple[int, livekv.Session, int, int]] = {}

        def texts() -> Iterator[livekv.Generation]:
            for index, session, n_read in self._sessions(requests):
                request = requests[index]
                n_reused = session.n_tokens - n_read
                if isinstance(request, Score):
                    values, n_tokens, last = _score(engine, self.batch, session, request)
                    answers[index] = _answer(values, n_read + n_tokens, n_reused, last)
                else:
                    text = _begin(session, request)
                    under_way[text] = index, session, n_read, n_reused
                    yield text

        for text in engine.generate_batch(texts(), self.batch):
            index, session, n_read, n_reused = under_way.pop(text)
            answers[index] = _answer(text.text, n_read + text.usage.generated_tokens, n_reused, session)
        return [answers[index] for index in range(len(requests))]

    def _sessions(self, requests: Sequence[Score | Generate]) -> Iterator[tuple[int, livekv.Session, int]]:
        """(index, a session that holds the head of its context, tokens read for it), those related one after another.

        A session has room for the longest of its relatives."""
        import livekv

        kv = livekv.KVOptions.parse(self.kv)
        for run in split_runs([request.context for request in requests], len(requests)):
            room = max(_length(requests[index]) for index in run)

            def open_session(n_ctx: int = room) -> livekv.Session:
                return self.model.session(n_ctx=n_ctx, kv=kv, n_threads=self.n_threads)

            for at, session, n_read in sessions(open_session, [_head(requests[index]) for index in run]):
                yield run[at], session, n_read


def _answer(value: Any, n_tokens: int, n_reused: int, session: livekv.Session) -> Answer:
    stats = session.kv_stats()
    return Answer(value, n_tokens, n_reused, stats.bytes.total, stats.f16_bytes)


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


def _score(
    engine: livekv.Engine, batch: int, session: livekv.Session, request: Score
) -> tuple[list[tuple[float, bool]], int, livekv.Session]:
    """`session` holds the head of the context; the rest of it is processed here, once for each continuation, in forks
    that advance together."""
    tail = request.context[session.n_tokens :]
    parts = [tail + continuation[:-1] for continuation in request.continuations]
    values: list[tuple[float, bool]] = []
    for group in _groups([len(part) for part in parts], batch):
        last = group[-1] + 1 == len(parts)
        forks = [session.fork() for _ in group[last:]] + [session] * last
        chosen = [request.continuations[at] for at in group]
        if len(group) == 1:
            values.append(_continue(forks[0], tail, chosen[0]))
            continue
        steps = engine.step([(fork, parts[at]) for fork, at in zip(forks, group, strict=True)], all_logits=True)
        values += [log_likelihood(rows[len(tail) - 1 :], one) for rows, one in zip(steps, chosen, strict=True)]
    return values, sum(map(len, parts)), session


def _groups(lengths: Sequence[int], at_most: int) -> list[list[int]]:
    """Indices in order, `at_most` together and no more than a piece of tokens, unless one alone has more."""
    groups: list[list[int]] = []
    n_tokens = 0
    for index, length in enumerate(lengths):
        if groups and len(groups[-1]) < at_most and n_tokens + length <= PIECE:
            groups[-1].append(index)
            n_tokens += length
        else:
            groups.append([index])
            n_tokens = length
    return groups


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


def _begin(session: livekv.Session, request: Generate) -> livekv.Generation:
    return session.generate(
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
