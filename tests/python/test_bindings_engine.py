"""livekv.Engine: sessions that advance together are what each would be alone."""

from __future__ import annotations

import os
import signal
import threading

import numpy as np
import pytest

# A batch's products have other numbers of columns than a sequence's alone, and ggml rounds activations to 8 bits block by
# block either way: what is left is the order of float32 sums, and what it tips in a cache's rounding.
TOLERANCE = 2e-3  # of the range of the logits
SPECS = ["livekv:chunk-size=32", "f16", "q8_0", "quality:chunk-size=64", "q4_0", "reference:chunk-size=32"]


@pytest.fixture(scope="module")
def tiny(livekv, root):
    return livekv.Model(root / "tests" / "models" / "tiny.gguf", n_threads=2)


@pytest.fixture(scope="module")
def ids(tiny, opening):
    return tiny.tokenize(opening.read_text())[:1000]


@pytest.fixture
def engine(livekv, tiny):
    return livekv.Engine(tiny)


def open_sessions(livekv, model, n, n_ctx=700, specs=SPECS):
    return [model.session(n_ctx, kv=livekv.KVOptions.parse(specs[i % len(specs)])) for i in range(n)]


def near(a, b):
    assert a.dtype == b.dtype == np.float32 and a.shape == b.shape and a.flags.c_contiguous
    return float(np.abs(a - b).max()) <= TOLERANCE * float(b.max() - b.min())


@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_a_mixed_batch_gives_each_its_own_logits(livekv, tiny, ids, engine, n):
    together, alone = open_sessions(livekv, tiny, n), open_sessions(livekv, tiny, n)
    rounds = [[1 + (17 * i + 111 * r) % 200 if (i + r) % 3 else 1 for i in range(n)] for r in range(4)]
    at = [5 * i for i in range(n)]
    for counts in rounds:
        parts = [ids[a : a + count] for a, count in zip(at, counts, strict=True)]
        results = engine.step(list(zip(together, parts, strict=True)))
        for i, (session, part) in enumerate(zip(alone, parts, strict=True)):
            assert results[i].shape == (tiny.n_vocab,) and near(results[i], session.prefill(part)), i
            np.testing.assert_array_equal(together[i].last_logits, results[i])
            assert together[i].tokens == session.tokens and together[i].kv_bytes == session.kv_bytes
        at = [a + count for a, count in zip(at, counts, strict=True)]


def test_all_logits_are_those_of_eval(livekv, tiny, ids, engine):
    parts = [ids[:150], ids[7:8], ids[20:53]]
    rows = engine.step(list(zip(open_sessions(livekv, tiny, 3), parts, strict=True)), all_logits=True)
    for row, part, session in zip(rows, parts, open_sessions(livekv, tiny, 3), strict=True):
        assert row.shape == (len(part), tiny.n_vocab) and near(row, session.eval(part, all_logits=True))
    assert engine.step([]) == []


def test_one_session_in_a_batch_is_bit_for_bit_that_session(livekv, tiny, ids, engine):
    for spec in SPECS:
        one, other = open_sessions(livekv, tiny, 2, specs=[spec])
        for part in (ids[:300], ids[300:301], ids[301:340]):
            np.testing.assert_array_equal(engine.step([(one, part)], all_logits=True)[0], other.eval(part, all_logits=True))


def test_a_prompt_of_several_steps_ends_where_it_is_said_to(livekv, tiny, ids, engine):
    """Generated text that is not sealed begins behind a chunk that the prompt's end closes."""
    told, untold, whole = open_sessions(livekv, tiny, 3, specs=["livekv:chunk-size=64:seal-decode=off"])
    whole.prefill(ids[:150])
    for first in (0, 50, 100):
        engine.step([(told, ids[first : first + 50])], to_come=[100 - first])
        engine.step([(untold, ids[first : first + 50])])
    kinds = [session.kv_dump(0)["v_kind"].tolist() for session in (told, untold, whole)]
    assert kinds[0] == kinds[2]
    groups = [session.kv_dump(0)["k_group"].tolist() for session in (told, untold, whole)]
    assert groups[0] == groups[2] != groups[1]
    for bad, why in ((-1, "to_come is -1"), ([1, 2], "to_come has 2 entries"), ([1.5], "to_come is 1.5"), (1.5, "to_come is 1.5"), (2**40, "to_come")):
        with pytest.raises(livekv.Error, match=why):
            engine.step([(told, ids[:1])], to_come=bad)
    assert told.n_tokens == 150


def test_more_sessions_than_a_pass_takes_all_advance(livekv, tiny, ids, engine):
    sessions = open_sessions(livekv, tiny, 20, n_ctx=100, specs=["f16"])
    results = engine.step([(s, ids[i : i + 40]) for i, s in enumerate(sessions)])
    expected = open_sessions(livekv, tiny, 20, n_ctx=100, specs=["f16"])
    for i, session in enumerate(expected):
        assert near(results[i], session.prefill(ids[i : i + 40]))
        assert sessions[i].tokens == session.tokens
    results = engine.step([(s, ids[i : i + 1]) for i, s in enumerate(sessions)])  # a pass has room for all these rows
    for i, session in enumerate(expected):
        assert near(results[i], session.prefill(ids[i : i + 1]))


def test_forks_of_one_session_step_together(livekv, tiny, ids, engine):
    (stem,) = open_sessions(livekv, tiny, 1, n_ctx=400)
    stem.prefill(ids[:75])
    forks = [stem.fork() for _ in range(4)]
    parts = [ids[100 + 40 * i : 140 + 40 * i] for i in range(4)]
    results = engine.step(list(zip(forks, parts, strict=True)))
    assert stem.tokens == ids[:75]
    for fork, part, result in zip(forks, parts, results, strict=True):
        alone = stem.fork()
        assert near(result, alone.prefill(part)) and fork.tokens == ids[:75] + part


def test_greedy_texts_of_a_batch_of_eight_are_those_of_each_alone(livekv, tiny, ids, engine):
    prompts = [ids[40 * i : 40 * i + 10 + 37 * i] for i in range(8)]

    def texts():
        sessions = open_sessions(livekv, tiny, 8)
        return [s.generate(p, 40, temperature=0) for s, p in zip(sessions, prompts, strict=True)]

    alone, together = texts(), texts()
    said = ["".join(text) for text in alone]
    assert len(set(said)) == 8
    ended = list(engine.generate_batch(together))
    assert set(map(id, ended)) == set(map(id, together))
    assert [text.text for text in together] == said
    assert [text.tokens for text in together] == [text.tokens for text in alone]
    for one, other in zip(alone, together, strict=True):
        assert (one.usage.finish_reason, one.usage.generated_tokens, one.usage.prompt_tokens) == (
            other.usage.finish_reason, other.usage.generated_tokens, other.usage.prompt_tokens)  # fmt: skip
        assert other.usage.ttft_s >= other.usage.prefill_s > 0 and other.usage.seed == other.usage.seed


def test_texts_of_a_batch_end_each_for_its_own_reason(livekv, tiny, ids, engine):
    def texts():
        sessions = open_sessions(livekv, tiny, 4, n_ctx=60)
        plain = "".join(tiny.session(60, kv=livekv.KVOptions.parse("f16")).generate(ids[:30], 25, temperature=0))
        sessions[3].prefill(ids[:30])
        return [
            sessions[0].generate(ids[:20], 5, temperature=0),
            sessions[1].generate(ids[:30], 25, temperature=0, stop=plain[9:13]),
            sessions[2].generate(ids[:50], None, temperature=1.0, seed=7, ignore_eos=True),
            sessions[3].generate(None, 0),
        ]

    alone, together = texts(), texts()
    for text in alone:
        "".join(text)
    assert len(list(engine.generate_batch(iter(together), at_most=3))) == 4
    assert [t.usage.finish_reason for t in together] == ["length", "stop", "context", "length"]
    assert [t.text for t in together] == [t.text for t in alone]
    assert together[3].usage.generated_tokens == 0 and together[3].tokens == []


def test_texts_are_drawn_as_places_become_free(livekv, tiny, ids, engine):
    opened = []

    def texts():
        for i in range(7):
            session = tiny.session(100)
            opened.append(session)
            yield session.generate(ids[: 10 + i], 3 + 4 * i, temperature=0)

    n_seen = 0
    for text in engine.generate_batch(texts(), at_most=2):
        n_seen += 1
        assert text.ended and len(opened) <= n_seen + 1
        assert text.text == "".join(tiny.session(100).generate(ids[: text.usage.prompt_tokens], len(text.tokens), temperature=0))
    assert n_seen == 7
    assert list(engine.generate_batch([])) == []
    begun = tiny.session(100).generate(ids[:10], 9, temperature=0)
    next(begun)
    assert list(engine.generate_batch([begun])) == [begun] and len(begun.tokens) == 9
    assert list(engine.generate_batch([begun])) == [begun]  # has ended


def test_what_is_refused_changes_nothing(livekv, tiny, model, ids, engine):
    one, other, closed = open_sessions(livekv, tiny, 3, n_ctx=50)
    one.prefill(ids[:10])
    before = one.last_logits
    closed.close()
    foreign, same_file = model.session(50), livekv.Model(tiny.path, n_threads=2).session(50)
    threads = tiny.session(50, n_threads=1)
    for batch, message in [
        ([(one, ids[:5]), (one, ids[:5])], "a session is in the batch twice"),
        ([(one, ids[:5]), (closed, ids[:5])], "this session is closed"),
        ([(one, ids[:5]), (foreign, [1])], "a session of the batch is not one of this engine's model"),
        ([(one, ids[:5]), (same_file, [1])], "a session of the batch is not one of this engine's model"),
        ([(one, ids[:5]), (threads, [1])], "computes with 1 threads, this engine with 2"),
        ([(one, ids[:5]), (other, ids[:51])], "the context holds 50 tokens, 51 are needed"),
        ([(one, ids[:5]), (other, [])], "there are no tokens"),
        ([(one, ids[:5]), (other, [tiny.n_vocab])], f"token id {tiny.n_vocab} is not in the model's vocabulary"),
        ([(one, ids[:5]), (other, [0.5])], "token 0 is 0.5, not a whole number"),
        ([(one, ids[:5]), other], "item 1 of the batch is not a session and its tokens"),
        ([(one, ids[:5]), (other, [1], 2)], "item 1 of the batch is not a session and its tokens"),
        ([(tiny, ids[:5])], "the session of item 0 of the batch is "),
    ]:
        with pytest.raises(livekv.Error) as raised:
            engine.step(batch)
        assert message in str(raised.value) and "\n" not in str(raised.value)
        assert one.tokens == ids[:10] and other.tokens == []
        np.testing.assert_array_equal(one.last_logits, before)
    with pytest.raises(livekv.Error, match="n_threads is 0"):
        livekv.Engine(tiny, n_threads=0)
    with pytest.raises(livekv.Error, match="at_most is 0"):
        list(engine.generate_batch([], at_most=0))
    for texts, message in [
        ([one.generate(ids[:5], 5), one.generate(ids[:5], 5)], "a session is in the batch twice"),
        ([one.generate(ids[:5], 5), foreign.generate([1], 5)], "not one of this engine's model"),
    ]:
        with pytest.raises(livekv.Error, match=message):
            list(engine.generate_batch(texts))


@pytest.mark.parametrize("remembered", [0, 1 << 26])
def test_an_id_that_is_none_is_said_before_anything_is_computed(livekv, tiny, ids, remembered):
    model = livekv.Model(tiny.path, n_threads=2, prefix_cache_bytes=remembered)
    one, other, known = open_sessions(livekv, model, 3, specs=["livekv:chunk-size=32"])
    known.prefill(ids[:200])
    wrong = [*ids[:170], tiny.n_vocab]
    for call in (
        lambda: livekv.Engine(model).step([(one, ids[:90]), (other, wrong)]),
        lambda: other.prefill(wrong),
        lambda: other.eval(wrong),
        lambda: next(other.generate(wrong)),
    ):
        with pytest.raises(livekv.Error, match="not in the model's vocabulary"):
            call()
        assert one.tokens == other.tokens == []


def test_ctrl_c_in_a_step_leaves_whole_passes(livekv, tiny, ids, engine):
    sessions = open_sessions(livekv, tiny, 2, n_ctx=8000, specs=["livekv:chunk-size=32"])

    def interrupt():
        while True:
            try:
                _ = sessions[0].n_tokens
            except livekv.Error:  # in the step
                os.kill(os.getpid(), signal.SIGINT)
                return

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    other = threading.Thread(target=interrupt)
    other.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            engine.step([(s, ids * 6) for s in sessions])
            other.join()
    finally:
        other.join()
        signal.signal(signal.SIGINT, before)
    n = sessions[0].n_tokens
    assert n % 32 == 0 and n < 6 * len(ids)
    assert [s.tokens for s in sessions] == [(ids * 6)[:n]] * 2
    results = engine.step([(s, ids[:26]) for s in sessions])
    expected = open_sessions(livekv, tiny, 1, n_ctx=8000, specs=["livekv:chunk-size=32"])[0]
    assert all(near(result, expected.prefill((ids * 6)[:n] + ids[:26])) for result in results[:1])
    np.testing.assert_array_equal(results[0], results[1])


def test_other_threads_run_while_a_trim_computes(livekv, tiny, ids):
    session = tiny.session(2000, kv=livekv.KVOptions(chunk_size=960))
    session.prefill(ids[:960])
    stop, rounds = threading.Event(), [0]

    def count():
        while not stop.wait(0.0001):
            rounds[0] += 1

    other = threading.Thread(target=count)
    other.start()
    try:
        while rounds[0] == 0:
            pass
        before = rounds[0]
        session.trim(950)
        during = rounds[0] - before
    finally:
        stop.set()
        other.join()
    assert session.tokens == ids[:950]
    assert during > 5  # a lock that is held for all of it lets one round slip in before


def test_generated_tokens_are_kept_as_the_cache_keeps_them(livekv, tiny, ids, engine):
    """A cache that does not seal generated text keeps it raw in a batch as after generate."""
    spec = "reference:chunk-size=32"
    text, stepped, read = open_sessions(livekv, tiny, 3, n_ctx=200, specs=[spec])
    generation = text.generate(ids[:40], 50, temperature=0, ignore_eos=True)
    "".join(generation)
    for session, generated in ((stepped, True), (read, False)):
        engine.step([(session, ids[:40])])
        for token in generation.tokens[:-1]:
            engine.step([(session, [token])], generated=generated)
    assert text.tokens == stepped.tokens == read.tokens
    assert text.kv_stats().bytes.tail == stepped.kv_stats().bytes.tail > read.kv_stats().bytes.tail


def test_a_batch_may_step_while_others_use_open_and_close_sessions(livekv, tiny, ids, engine):
    batch = open_sessions(livekv, tiny, 4)
    expected = [s.eval(ids[:120])[0] for s in open_sessions(livekv, tiny, 4)]
    stop, failures, n_rounds = threading.Event(), [], [0, 0]

    def others(k):
        reference = None
        while not stop.is_set():
            with tiny.session(200, kv=livekv.KVOptions.parse(SPECS[k])) as session:
                logits = session.prefill(ids[k : k + 100])
                if reference is not None and not np.array_equal(reference, logits):
                    failures.append("another's logits")
                reference = logits
            n_rounds[k] += 1

    workers = [threading.Thread(target=others, args=[k]) for k in range(2)]
    for worker in workers:
        worker.start()
    try:
        while min(n_rounds) < 3:
            for session in batch:
                session.reset()
            results = engine.step([(s, ids[:120]) for s in batch])
            assert all(near(a, b) for a, b in zip(results, expected, strict=True))
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    assert not failures


def test_sessions_of_a_step_refuse_other_calls(livekv, tiny, ids, engine):
    one, other = open_sessions(livekv, tiny, 2, n_ctx=8000, specs=["livekv"])
    worker = threading.Thread(target=engine.step, args=[[(one, ids * 6), (other, ids * 6)]])
    worker.start()
    while worker.is_alive():
        try:
            _ = one.n_tokens
        except livekv.Error:
            break
    for call in (lambda: other.tokens, lambda: engine.step([(other, [1])]), one.close, other.fork):
        with pytest.raises(livekv.Error, match="this session is in use by another call"):
            call()
    assert worker.is_alive(), "the step was over before all others were refused"
    worker.join()
    assert one.tokens == other.tokens == ids * 6


def test_sessions_of_a_model_share_an_engine(livekv, tiny, ids):
    own = livekv.Model(tiny.path, n_threads=2)
    engine = livekv.Engine(own)
    idle = engine.workspace_bytes
    sessions = open_sessions(livekv, own, 3, specs=["f16"])
    sessions[0].prefill(ids[:256])
    size = engine.workspace_bytes
    assert size > idle
    for session in (*sessions[1:], sessions[0].fork()):
        session.reset()
        session.prefill(ids[:256])
    assert engine.workspace_bytes == livekv.Engine(own).workspace_bytes == size
    assert livekv.Engine(own, n_threads=1).workspace_bytes < size  # another, which has computed nothing
