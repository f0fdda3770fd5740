"""One text under way: its session, and what turns logits into tokens and tokens into pieces."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from livekv.sampling import Lookup, Sampler, TextStream
from livekv.serve.request import Piece, Request, TokenChance
from livekv.session import Session

F32 = npt.NDArray[np.float32]


class Text:
    """A choice of a request, from its prompt's last logits on."""

    def __init__(self, request: Request, choice: int, session: Session, lookup: int = 0) -> None:
        """lookup: tokens of a draft, at most."""
        self.request = request
        self.choice = choice
        self.session = session
        self.ended = False
        self.last_token = -1
        """Sampled, and not yet in the session."""
        self.n_left = min(
            session.n_ctx - session.n_tokens + 1,
            session.n_ctx if request.max_tokens is None else request.max_tokens,
        )
        """Tokens that may still be sampled: the last one needs no place in the context."""
        self._sampler = Sampler(session.model, (request.seed + choice) % 2**64, request.ignore_eos, **request.sampling)
        self._sampler.observe(request.prompt)
        self._stream = TextStream(session.model, request.stop)
        self._constraint = request.constraint() if request.constraint else None
        self._tokens: list[int] = []  # generated
        self._lookup = Lookup(lookup) if lookup else None
        if self._lookup:
            self._lookup.observe(request.prompt)
        self._chances: list[TokenChance] = []  # of tokens whose text is held back

    @property
    def n_written(self) -> int:
        return len(self._tokens)

    def draft(self) -> list[int]:
        """Tokens that may come behind the last one, often none; take tells which do."""
        return self._lookup.draft(min(self.n_left, self.session.room_for_draft) - 1) if self._lookup else []

    def learn(self, n_drafted: int, n_accepted: int) -> None:
        assert self._lookup
        self._lookup.learn(n_drafted, n_accepted)

    def take(self, logits: F32) -> Piece | None:
        """Samples a token from float32 [n_vocab]: what there is to say then, None for nothing yet. Raises Error when no
        token can be chosen."""
        if self.n_left == 0:
            return self._end("length")
        token = self._sampler.next(logits, self._constraint.allowed() if self._constraint else None)
        self.last_token = token
        self.n_left -= 1
        if self._lookup:
            self._lookup.observe([token])
        self.request.n_generated += 1
        if self.session.model.is_end_of_generation(token) and not self.request.ignore_eos:
            return self._end("stop")
        self._tokens.append(token)
        if self._constraint:
            self._constraint.take(token)
        if self.request.n_chances is not None:
            self._chances.append(chance_of(logits, token, self.request.n_chances))
        text = self._stream.push(token)
        if self._stream.stopped or (self._constraint and self._constraint.complete()):
            return self._end("stop", text)
        if self.n_left == 0:
            return self._end("length", text)
        if not text:
            return None
        chances, self._chances = self._chances, []
        return Piece(self.choice, text, chances)

    def _end(self, reason: Literal["stop", "length"], text: str = "") -> Piece:
        self.ended = True
        text += self._stream.finish()
        return Piece(self.choice, text, self._chances, reason, self._stopped_by())

    def _stopped_by(self) -> str | None:
        if not self._stream.stopped:
            return None
        said = self.session.model.detokenize(self._tokens)
        found = [(said.find(stop) + len(stop), -len(stop), stop) for stop in self.request.stop if stop in said]
        return min(found)[2] if found else None


def chance_of(logits: F32, token: int, n_best: int) -> TokenChance:
    """Of a token and the n_best most likely ones, from float32 [n_vocab]."""
    x = logits.astype(np.float64)
    highest = x.max()
    x -= highest + np.log(np.exp(x - highest).sum())
    best = np.argpartition(-x, n_best)[:n_best] if n_best < len(x) else np.arange(len(x))
    best = best[np.lexsort((best, -x[best]))]
    return TokenChance(token, float(x[token]), [(int(i), float(x[i])) for i in best])
