"""Several sessions of a model that advance together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from livekv import _livekv
from livekv._livekv import Error
from livekv.arguments import checked_threads, core_of, shown, whole
from livekv.generation import Generation
from livekv.options import kv_options_of

if TYPE_CHECKING:
    from livekv.model import Model, Tokens
    from livekv.options import KVOptions
    from livekv.session import Session

F32 = npt.NDArray[np.float32]


class Engine:
    """What the sessions of a model compute with; a step of several takes little longer than a step of one.

    A model has one for each number of threads, whose weights and workspace all sessions with that number share; every
    object for the same number is the same engine. Calls from several threads take turns at it. n_threads: None: the
    model's.
    """

    def __init__(self, model: Model, n_threads: int | None = None) -> None:
        core = core_of("model", model, _livekv.Model)
        self.model = model
        self._core = _livekv.Engine(core, model.n_threads if n_threads is None else checked_threads(n_threads))

    def __repr__(self) -> str:
        return f"livekv.Engine({self.model.path!r}, n_threads={self.n_threads})"

    @property
    def n_threads(self) -> int:
        return self._core.n_threads()

    @property
    def workspace_bytes(self) -> int:
        """What passes compute with, beside weights and caches. Waits for the step that another thread is in."""
        return self._core.workspace_bytes()

    @property
    def prefix_idle_bytes(self) -> int:
        """Of chunks kept for prompts to come, which no session uses (Model's prefix_cache_bytes). Waits as above."""
        return self._core.prefix_idle_bytes()

    def fetch(self, tokens: Tokens, n_ctx: int, kv: KVOptions) -> None:
        """Brings what the remote of the model's store has of a text into its folder, for sessions like that. In any
        thread; others do not wait for it."""
        self._core.fetch(tokens, n_ctx, kv_options_of(kv)._core())

    def prefix_nodes(self) -> list[dict[str, Any]]:
        """The tree of chunks that sessions share or may share: depth (pieces in front of it), n_tokens, bytes, in_use
        (by a session). Each is followed by those that go on from it. Waits as above."""
        return self._core.prefix_nodes()

    def step(
        self,
        batch: Sequence[tuple[Session, Tokens]],
        all_logits: bool = False,
        generated: bool | Sequence[bool] = False,
        to_come: int | Sequence[int] = 0,
    ) -> list[F32]:
        """Appends to every session its tokens: prompts, parts of them and single tokens in any mix.

        Returns for each the logits of its last token, float32 [n_vocab], or with all_logits of every one, [n, n_vocab].
        They may differ in the last digits from those of a session alone, as products depend on the number of columns.

        A session takes as many tokens in a pass of the model as are left of its chunk; who brings more is advanced in
        several passes, and the call returns when all are through. A pass takes prompts of up to 512 tokens together and
        up to 16 sessions whose policy is not livekv; the others follow in the next one. generated: the tokens were made
        from the logits, which matters to caches that do not seal those (seal_decode); one for all, or one for each.
        to_come: tokens of the same prompt that later steps bring, one for all or each, which matters to caches whose
        chunks depend on the prompt's length (guided), that end a chunk with the prompt (seal_decode off), and that
        judge a prompt when it is complete (guided with guide last, and fastkv, whose logits are NaN before its end, and
        at its end its last token's alone are known).

        Raises Error, before anything is computed, when a session is listed twice, closed, in use by another call, of
        another model or number of threads, or has no room for its tokens, or there are none, or an id is not in the
        vocabulary; and when memory runs out: then, and after Ctrl-C, every session is what it was after the last pass.
        """
        origins = _for_each("generated", generated, len(batch))
        for origin in origins:
            if not isinstance(origin, bool | np.bool_):
                raise Error(f"generated is {shown(origin)}; it must be true or false")
        later = [whole("to_come", n, 0, 2**31 - 1) for n in _for_each("to_come", to_come, len(batch))]
        return self._core.step([_pair(i, item) for i, item in enumerate(batch)], all_logits, origins, later)

    def generate_batch(self, texts: Iterable[Generation], at_most: int = 8) -> Iterator[Generation]:
        """Runs texts, made by Session.generate and not begun or begun, together; gives each out when it has ended.

        texts is drawn from as places become free, so that a generator may open sessions when they are needed. Each text
        samples as it would alone, with its own settings; the times of its usage are those of the steps it shared.
        Raises Error for at_most below 1, and as iterating a text does; that, and Ctrl-C, ends all texts under way.
        """
        at_most = whole("at_most", at_most, 1, 2**31 - 1)
        waiting = iter(texts)
        running: list[Generation] = []
        while True:
            while len(running) < at_most and (text := next(waiting, None)) is not None:
                core_of("a text of the batch", text, _livekv.Generation)
                running.append(text)
            if not running:
                return
            if all(not text.ended for text in running):
                self._core.advance([text._core for text in running])
            done = [text for text in running if text.ended]
            running = [text for text in running if not text.ended]
            yield from done


def _for_each(name: str, value: Any, n: int) -> list[Any]:
    """value for each of n items of a batch, or one for all."""
    values = list(value) if isinstance(value, Iterable) else [value] * n
    if len(values) != n:
        raise Error(f"{name} has {len(values)} entries for a batch of {n}")
    return values


def _pair(i: int, item: tuple[Session, Tokens]) -> tuple[_livekv.Session, Tokens]:
    try:
        session, tokens = item
    except (TypeError, ValueError):
        raise Error(f"item {i} of the batch is not a session and its tokens") from None
    return core_of(f"the session of item {i} of the batch", session, _livekv.Session), tokens
