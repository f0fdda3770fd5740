"""Sequences that have ended go on in prompts that begin as they do: what is known is not computed again, and answers are
those of a server that knows nothing."""

from __future__ import annotations

import numpy as np
import pytest
from scheduling import CHUNK, Asked, alone, ids, kv, run, scheduler, serve, tiny  # noqa: F401 (fixtures)


@pytest.fixture
def knowing(livekv, tiny):
    return livekv.Model(tiny.path, n_threads=2, prefix_cache_bytes=1 << 26)


def computed(s):
    return s.counters.prompt_tokens - s.counters.cached_tokens


def alone_tokens(tiny, kv, prompt, n):
    with tiny.session(1000, kv=kv) as session:
        text = session.generate(prompt, n, temperature=0, ignore_eos=True)
        list(text)
        return text.tokens


def parts(one, tokens):
    """Whether a greedy answer parts from these tokens: only where its two best ones are as good as equal, as passes of
    other lengths round the last digits of logits otherwise."""
    for chance, token in zip(one.chances, tokens, strict=True):
        if chance.token != token:
            (_, best), (_, second) = chance.best[:2]
            assert best - second < 0.05, (one.text, tokens)
            return True
    return False


def test_conversations_over_a_document_compute_what_is_new(scheduler, serve, knowing, tiny, kv, ids):
    """Three rounds of eight conversations, six at a time: a document of ten and a half chunks, questions, and answers that
    come back in the next round's prompt."""
    s = scheduler(knowing, parallel=6)
    document = ids[:672]
    talks = [document + ids[700 + 20 * i : 720 + 20 * i] for i in range(8)]
    unique = len(document) + 8 * 20
    n_parted = 0
    for n_round in range(3):
        asked = [Asked(serve, talk, max_tokens=8, ignore_eos=True, n_chances=2) for talk in talks]
        run(s, asked)
        for i, one in enumerate(asked):
            n_parted += parts(one, alone_tokens(tiny, kv, talks[i], 8))
            talks[i] = talks[i] + tiny.tokenize(one.text, add_special=False) + ids[900 + 3 * i : 912 + 3 * i]
            unique += 8 + 12 if n_round < 2 else 0
    assert computed(s) <= 1.1 * unique and n_parted <= 3
    assert s.kv_bytes == 0 and s.kept.n_bytes > 0


def test_a_beginning_in_the_middle_of_a_chunk_is_read_once(scheduler, serve, knowing, tiny, kv, ids):
    """By prompts that are there at the same time, and by some that come one after the other."""
    at = 2 * CHUNK + CHUNK // 2 + 5
    prompts = [ids[:at] + ids[300 + 90 * i : 320 + 90 * i] for i in range(4)]
    assert len({prompt[at] for prompt in prompts}) == 4
    together = scheduler(knowing)
    asked = [Asked(serve, prompt, max_tokens=4) for prompt in prompts]
    run(together, asked)
    assert [one.request.n_cached for one in asked] == [0, at, at, at]
    one_by_one = scheduler(livekv_model(knowing))
    again = []
    for prompt in prompts:
        again.append(Asked(serve, prompt, max_tokens=4))
        run(one_by_one, again[-1:])
    assert [one.request.n_cached for one in again] == [0, at, at, at]
    assert [one.text for one in asked] == [one.text for one in again] == [alone(tiny, kv, p, 4)[0] for p in prompts]


def livekv_model(model):
    """The same, knowing nothing yet."""
    return type(model)(model.path, n_threads=2, prefix_cache_bytes=1 << 26)


def test_a_long_prompt_leaves_whole_chunks_behind_a_short_one_that_begins_alike(scheduler, serve, knowing, ids):
    """Though both are there at the same time, or one after the other."""
    s = scheduler(knowing)
    short, long = ids[: CHUNK + 40], ids[: 9 * CHUNK + 20]
    asked = [Asked(serve, prompt, max_tokens=2) for prompt in (short, long)]
    run(s, asked)
    s.kept.shrink(0)
    again = Asked(serve, long, max_tokens=2)
    run(s, [again])
    assert again.request.n_cached == 9 * CHUNK and asked[1].request.n_cached <= CHUNK
    fresh = scheduler(livekv_model(knowing))
    for prompt in (short, long):
        run(fresh, [Asked(serve, prompt, max_tokens=2)])
    fresh.kept.shrink(0)
    once_more = Asked(serve, long, max_tokens=2)
    run(fresh, [once_more])
    assert once_more.request.n_cached == 9 * CHUNK


def test_the_same_prompt_again_computes_its_last_tokens(scheduler, serve, knowing, ids):
    """As many as make attention go the way that it goes for all of them: tiny.gguf has two query heads for each other."""
    from livekv.serve.passes import Passes

    s = scheduler(knowing)
    prompt = ids[: CHUNK + 60]
    asked = [Asked(serve, prompt, max_tokens=4) for _ in range(3)]
    run(s, asked)
    least = Passes.of(knowing, CHUNK).least(CHUNK)
    assert 1 < least < 60  # more rows than a tile: 17 tokens with AVX-512, 9 with AVX2
    assert [one.request.n_cached for one in asked] == [0, len(prompt) - least, len(prompt) - least]
    assert asked[0].text == asked[1].text == asked[2].text


def bits(one):
    return [(chance.token, chance.logprob, list(chance.best)) for chance in one.chances]


def test_a_written_token_that_a_prompt_has_by_chance_changes_no_bit(scheduler, serve, knowing, ids):
    """A document that comes in pieces, of which the model guesses the next word."""
    at = 2 * CHUNK + 40
    first = Asked(serve, ids[:at], max_tokens=16, ignore_eos=True, n_chances=2)
    s = scheduler(knowing)
    run(s, [first])
    guessed, other = first.chances[0].token, next(i for i in ids if i != first.chances[1].token)
    longer = ids[:at] + [guessed, other] + ids[at : at + CHUNK]
    asked = [Asked(serve, longer, max_tokens=4, n_chances=2) for _ in range(2)]
    run(s, asked[:1])
    run(scheduler(livekv_model(knowing)), asked[1:])
    assert asked[0].request.n_cached == 2 * CHUNK
    assert bits(asked[0]) == bits(asked[1])


@pytest.mark.parametrize("at", [40, 100, 356, 2348])
def test_what_is_known_of_a_prompt_changes_no_bit(serve, livekv, story, opening, at):
    """Of answers to the same prompt again, to one that parts from it anywhere, and to one that goes on behind it; with
    a context that attention cuts into spans where few tokens read it, and with none."""
    model = livekv.Model(story, n_threads=1, prefix_cache_bytes=1 << 26)
    plain = livekv.Model(story, n_threads=1)
    ids = model.tokenize(opening.read_text() * 2)
    kv = livekv.KVOptions(chunk_size=128 if at < 2000 else 512)
    n_chunk = kv.chunk_tokens

    def made(of):
        return serve.scheduler.Scheduler(of, serve.limits.Limits(), 2900, kv)

    s = made(model)
    n_known = 0
    first = ids[:at]
    prompts = [first, first, *([*ids[: at - n], *ids[30 + n : 60 + n]] for n in (1, 5, 20)), first + ids[at + 5 : at + 45]]
    prompts += [prompts[-1], first + ids[at + 5 : at + 7], ids[: at - at % n_chunk] + ids[300:303], first + ids[:300]]
    for prompt in prompts:
        one, alone = (Asked(serve, prompt, max_tokens=8, ignore_eos=True, n_chances=3) for _ in range(2))
        run(s, [one])
        run(made(plain), [alone])
        assert bits(one) == bits(alone), (len(prompt), one.request.n_cached)
        n_known += one.request.n_cached % n_chunk > 0
    assert at == 40 or n_known > 1


def test_prompts_that_part_at_the_same_time_change_no_bit(serve, livekv, story, opening):
    model, plain = (livekv.Model(story, n_threads=1, prefix_cache_bytes=size) for size in (1 << 26, 0))
    ids, kv = model.tokenize(opening.read_text()), livekv.KVOptions(chunk_size=128)
    s = serve.scheduler.Scheduler(model, serve.limits.Limits(), 1000, kv)
    prompts = [ids[:at] + ids[400 + at : 400 + at + more] for at, more in ((290, 80), (290, 40), (290, 3), (310, 50), (200, 90), (383, 30))]
    asked = [Asked(serve, prompt, max_tokens=6, ignore_eos=True, n_chances=3) for prompt in prompts]
    run(s, asked)
    assert sum(one.request.n_cached % 128 > 0 for one in asked) > 1
    for prompt, one in zip(prompts, asked):
        alone = Asked(serve, prompt, max_tokens=6, ignore_eos=True, n_chances=3)
        run(serve.scheduler.Scheduler(plain, serve.limits.Limits(), 1000, kv), [alone])
        assert bits(one) == bits(alone), (len(prompt), one.request.n_cached)


def test_memory_that_is_needed_is_given_back(scheduler, serve, knowing, tiny, kv, ids):
    with tiny.session(1000, kv=kv) as session:
        session.prefill(ids[:500])
        budget = 2 * session.kv_stats().f16_bytes
    s = scheduler(knowing, memory=budget)
    most_kept = 0
    for i in range(10):
        for one in [Asked(serve, ids[40 * i : 40 * i + 120 + 37 * k], max_tokens=10) for k in range(3)]:
            s.submit(one.request)
        while s.step():
            most_kept = max(most_kept, len(s.kept))
            assert s.kv_bytes + s.kept.n_bytes <= budget
    assert s.counters.failed == 0 and most_kept > 2


def test_who_goes_in_the_middle_leaves_what_was_read(scheduler, serve, knowing, tiny, kv, ids):
    s = scheduler(knowing)
    gone = Asked(serve, ids[:500])
    s.submit(gone.request)
    for _ in range(3):
        s.step()
    gone.request.cancelled = True
    run(s, [])
    asked = Asked(serve, ids[:500], max_tokens=4)
    run(s, [asked])
    assert asked.request.n_cached == 3 * CHUNK and asked.text == alone(tiny, kv, ids[:500], 4)[0]


def test_nothing_is_kept_without_a_prefix_cache(scheduler, serve, tiny, ids):
    s = scheduler(tiny)
    asked = [Asked(serve, ids[:300], max_tokens=4) for _ in range(2)]
    run(s, asked)
    assert len(s.kept) == 0 and [one.request.n_cached for one in asked] == [0, 0]


def test_a_sequence_is_taken_or_copied(serve, knowing, kv, ids):
    from livekv.serve.kept import Kept
    from livekv.serve.passes import Passes

    kept = Kept(Passes.of(knowing, CHUNK))
    ended, beginning = knowing.session(1000, kv=kv), knowing.session(1000, kv=kv)
    ended.prefill(ids[:280])
    beginning.prefill(ids[200:300])
    kept.add(ended, 275, 275)
    kept.add(beginning, 100, 100, is_beginning=True)

    def array(tokens):
        return np.asarray(tokens, np.int32)

    least = Passes.of(knowing, CHUNK).least(274)
    for n in (275, 279):  # what was read, and a few that were written: the rest is read as all of the chunk would be
        with kept.take(array(ids[:n]), 0) as copy:
            assert copy.n_tokens == min(275, n - least) and len(kept) == 2
    with kept.take(array(ids[:262]), 0) as copy:  # of which there is not enough in this chunk
        assert copy.n_tokens == 4 * CHUNK
    with kept.take(array(ids[:230]), 0) as copy:  # in the middle of its fourth, sealed chunk
        assert copy.n_tokens == 3 * CHUNK
    assert kept.take(array(ids[:230]), 3 * CHUNK) is None and kept.take(array(ids[400:500]), 0) is None
    assert sorted(len(tokens) for tokens in kept.tokens()) == [100, 280]
    with kept.take(array(ids[200:320]), 0) as copy:
        assert copy.n_tokens == 100 and copy is not beginning and len(kept) == 2
    assert kept.take(array(ids[:280] + ids[:200]), 0) is None  # much is left: whole chunks are read
    assert kept.take(array(ids[:281]), 0) is ended and len(kept) == 1
    again = knowing.session(1000, kv=kv)
    again.prefill(ids[200:300])
    kept.add(again, 100, 100)
    assert len(kept) == 1
    with kept.take(array(ids[200:320]), 0) as copy:
        assert copy is not again  # it is a beginning of several still
    kept.shrink(-1)
    assert len(kept) == 0 and kept.n_bytes == 0
    answered = knowing.session(1000, kv=kv)
    answered.prefill(ids[:120])
    kept.add(answered, 70, 70)
    with kept.take(array(ids[:110]), 0) as copy:  # most of what was written
        assert copy.n_tokens == 109
