"""Drafts of texts that are alone in the server: fewer steps, the same text."""

from __future__ import annotations

import numpy as np
import pytest

from scheduling import Asked, CHUNK, alone, ids, kv, run, scheduler, serve, tiny  # noqa: F401


@pytest.fixture(scope="module")
def repeated(tiny, opening):
    """A prompt that says one thing three times, and begins to say it again."""
    text = opening.read_text()
    return tiny.tokenize("\n\n".join([text[:300]] * 3) + text[:40])


@pytest.mark.parametrize("temperature", [0, 0.7])
def test_a_text_alone_takes_fewer_steps_and_is_the_same(scheduler, serve, tiny, kv, repeated, temperature):
    steps, lookup = {}, {}
    for n in (0, 3, 20):
        one = Asked(serve, repeated, max_tokens=150, seed=5, ignore_eos=True, n_chances=0, sampling={"temperature": temperature})
        s = scheduler(lookup=n)
        run(s, [one])
        assert (one.text, one.reasons) == (alone(tiny, kv, repeated, 150, temperature=temperature, seed=5, ignore_eos=True)[0], {0: "length"})
        assert one.request.n_generated == s.counters.generated_tokens == 150 and len(one.chances) == 150
        steps[n], lookup[n] = s.counters.steps, (s.counters.drafted_tokens, s.counters.accepted_tokens)
        # What was made is in the cache, and what was drafted in vain is not.
        (kept,) = s.kept.sessions() or [None] if s._keeps else [None]
        assert kept is None or kept.n_tokens == len(repeated) + 149
    assert lookup[0] == (0, 0) and 0 < lookup[3][1] <= lookup[3][0]
    assert steps[3] == steps[0] - lookup[3][1] and steps[20] <= steps[3]


def test_stops_and_constraints_end_a_text_inside_a_draft(scheduler, serve, tiny, kv, repeated):
    whole, _ = alone(tiny, kv, repeated, 120, ignore_eos=True)
    for at in range(20, 100, 7):
        stop = whole[at : at + 3]
        one = Asked(serve, repeated, max_tokens=120, stop=[stop], ignore_eos=True)
        s = scheduler(lookup=20)
        run(s, [one])
        assert one.text == whole[: whole.index(stop)] and one.reasons == {0: "stop"}

    class Bounded:
        """Tokens of what there was, and no more than 33."""

        def __init__(self):
            self.n = 0

        def allowed(self):
            return np.full((tiny.n_vocab + 31) // 32, 0xFFFFFFFF, np.uint32)

        def take(self, token):
            self.n += 1

        def complete(self):
            return self.n == 33

    one = Asked(serve, repeated, max_tokens=120, ignore_eos=True, constraint=Bounded)
    s = scheduler(lookup=20)
    run(s, [one])
    assert one.request.n_generated == 33 and whole.startswith(one.text) and one.reasons == {0: "stop"}
    assert s.counters.accepted_tokens > 0


def test_texts_beside_others_have_no_drafts(scheduler, serve, tiny, kv, repeated):
    s = scheduler(lookup=8)
    two = Asked(serve, repeated, n=2, max_tokens=40, ignore_eos=True)
    run(s, [two])
    said = alone(tiny, kv, repeated, 40, ignore_eos=True)[0]
    assert s.counters.drafted_tokens == 0 and two.texts == {0: said, 1: said}
    long, short = (Asked(serve, repeated, max_tokens=n, ignore_eos=True) for n in (90, 20))
    run(s, [long, short])
    assert long.text == alone(tiny, kv, repeated, 90, ignore_eos=True)[0] and said.startswith(short.text)
    assert s.counters.drafted_tokens > 0, "it is alone in the end"


def test_a_failure_inside_a_draft_ends_that_text_alone(scheduler, serve, livekv, repeated, monkeypatch):
    from livekv.serve.text import Text

    s, take, n_left = scheduler(lookup=8), Text.take, [10]

    def failing(self, logits):
        n_left[0] -= 1
        if n_left[0] == 0:
            raise livekv.Error("no token can be chosen")
        return take(self, logits)

    monkeypatch.setattr(Text, "take", failing)
    for n in range(1, 14):
        n_left[0] = n
        one = Asked(serve, repeated, max_tokens=40, ignore_eos=True)
        run(s, [one])
        assert one.failure.status == 500 and "no token can be chosen" in one.failure.message and list(s.jobs()) == []
    assert s.counters.drafted_tokens > 0


def test_what_is_verified(livekv, tiny, repeated):
    """Session.verify keeps what is right, whatever choose does."""
    with tiny.session(1000) as session, tiny.session(1000) as other:
        session.prefill(repeated)
        other.prefill(repeated)
        first = int(np.argmax(session.last_logits))
        right = [first]
        for _ in range(4):
            right.append(int(np.argmax(other.eval(right[-1:], False))))
        wrong = (right[3] + 1) % tiny.n_vocab
        n = len(repeated)
        assert session.verify([first, right[1], right[2], wrong], lambda logits: int(np.argmax(logits))) == 3
        assert session.tokens[n:] == right[:3] and int(np.argmax(session.last_logits)) == right[3]

        def raising(logits):
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            session.verify([right[3], right[4], 5], raising)
        assert session.tokens[n:] == right[:4]
        assert session.verify([right[4]], lambda logits: None) == 1
        before = session.tokens
        for tokens, part in [([], "no tokens"), ([1] * 600, "600 tokens to verify; there is room for"), ([10**9], "vocabulary")]:
            with pytest.raises(livekv.Error, match=part):
                session.verify(tokens, raising)
        assert session.tokens == before


@pytest.mark.parametrize("most", [0, -1, 65])
def test_bounds(livekv, serve, most):
    with pytest.raises(livekv.Error, match="most is"):
        livekv.Lookup(most)
    if most:
        with pytest.raises(livekv.Error, match="lookup is"):
            serve.limits.Limits(lookup=most)
