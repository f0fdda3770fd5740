"""livekv.serve's scheduler, without HTTP: many texts at a time are what each would be alone, and what does not fit waits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scheduling import CHUNK, Asked, alone, ids, kv, run, scheduler, serve, tiny  # noqa: F401 (fixtures)

def test_texts_together_are_those_of_each_alone(scheduler, serve, tiny, kv, ids):
    """Prompts from one token to seven chunks, greedy and sampled, more of them than there are places."""
    cases = [(ids[7 * i : 7 * i + 1 + 45 * i], 12 + 3 * i, {"temperature": 0.9 * (i % 2), "seed": 100 + i}) for i in range(11)]
    asked = [Asked(serve, p, max_tokens=n, seed=g["seed"], sampling={"temperature": g["temperature"]}) for p, n, g in cases]
    s = scheduler(parallel=4)
    run(s, asked)
    for one, (prompt, n, given) in zip(asked, cases, strict=True):
        text, reason = alone(tiny, kv, prompt, n, **given)
        assert one.text == text
        assert one.reasons == {0: {"eos": "stop"}.get(reason, reason)}
    assert s.kv_bytes == 0 and s.n_texts == 0 and s.n_waiting == 0
    assert s.counters.requests == 11 and s.counters.prompt_tokens == sum(len(p) for p, _, _ in cases)
    assert s.counters.generated_tokens == sum(one.request.n_generated for one in asked)


def test_a_cache_that_depends_on_the_prompts_length_is_told_it_and_shares_nothing(serve, livekv, root, ids):
    model = livekv.Model(root / "tests" / "models" / "tiny.gguf", n_threads=2, prefix_cache_bytes=1 << 26)
    # Tokens are exact or dropped by the logarithm of their position in that of the prompt's length.
    kv = livekv.KVOptions(policy="guided", chunk_size=CHUNK, alpha=0, beta=1, gamma=0, theta_h=0.8, theta_m=0.8,
                          level_bits=(16, 16, 0))  # fmt: skip
    s = serve.scheduler.Scheduler(model, serve.limits.Limits(step_tokens=CHUNK, parallel=3), 1000, kv)
    prompts = [ids[:350], ids[:300], [*ids[:200], *ids[500:600]]]
    for _ in range(2):  # those of the first round have ended by the second
        asked = [Asked(serve, prompt, max_tokens=30) for prompt in prompts]
        run(s, asked)
        assert [one.text for one in asked] == [alone(model, kv, prompt, 30)[0] for prompt in prompts]
    assert len(s.kept) == 0 and s.counters.cached_tokens == 0


def test_a_long_prompt_keeps_nobody_waiting(scheduler, serve, ids):
    """A text goes on by a token in every step, and a short prompt is read after one chunk of the long one."""
    s = scheduler()
    running, long, short = Asked(serve, ids[:5], max_tokens=40, ignore_eos=True), Asked(serve, ids[:900]), Asked(serve, ids[:20], max_tokens=3)
    run(s, [running, long, short])
    assert short.when[0] <= 4 < 900 // CHUNK <= long.when[0]
    assert running.request.n_generated == 40
    assert running.when == sorted(running.when) and max(np.diff(running.when)) <= 3  # held back characters at most


def test_prompts_are_read_within_the_budget_of_a_step(scheduler, serve, ids, monkeypatch):
    s = scheduler(step_tokens=2 * CHUNK)
    asked = [Asked(serve, ids[i : i + 300], max_tokens=1) for i in range(4)]
    sizes, compute = [], s._compute

    def noted(work, all_logits):
        if not all_logits:
            sizes.append([len(one.tokens) for one in work if not one.generated])
        compute(work, all_logits)

    monkeypatch.setattr(s, "_compute", noted)
    run(s, asked)
    assert all(sum(size) <= 2 * CHUNK for size in sizes)
    assert sizes[:4] == [[CHUNK] * 2] * 4


def test_of_prompts_as_long_the_first_is_read_first(scheduler, serve, ids):
    s = scheduler()
    asked = [Asked(serve, ids[i : i + 5 * CHUNK], max_tokens=1) for i in range(4)]
    run(s, asked)
    assert [one.when[-1] for one in asked] == [5, 10, 15, 20]


def test_a_long_prompt_is_read_beside_short_ones_without_end(scheduler, serve, ids):
    """Who has least left is first, but what others read since it began counts for it."""
    s = scheduler(queue=1000)
    long = Asked(serve, ids[: 8 * CHUNK], max_tokens=1)
    shorts = []

    def one_more(*told):
        if not long.events:
            n = len(shorts)
            shorts.append(Asked(serve, ids[n : n + CHUNK], max_tokens=1))
            shorts[-1].request.on_event = lambda event: (Asked.take(shorts[n], event), one_more())
            s.submit(shorts[-1].request)

    long.clock = lambda: s.counters.steps
    s.submit(long.request)
    one_more()
    for _ in range(100):
        if long.events:
            break
        s.step()
    assert long.events, "it waits for ever"
    assert 8 * CHUNK // (2 * CHUNK) <= len(shorts) <= 9, "as many as fit into what it had left, not more"


def test_choices_share_their_prompt_and_have_seeds_of_their_own(scheduler, serve, tiny, kv, ids):
    one = Asked(serve, ids[:150], n=3, seed=7, max_tokens=20, sampling={"temperature": 1.0})
    s = scheduler()
    run(s, [one])
    for choice in range(3):
        assert one.texts[choice] == alone(tiny, kv, ids[:150], 20, temperature=1.0, seed=7 + choice)[0]
    assert len(set(one.texts.values())) == 3 and s.counters.prompt_tokens == 150


def test_a_text_ends_for_its_own_reason(scheduler, serve, tiny, kv, ids):
    text, _ = alone(tiny, kv, ids[:50], 30)
    stop = text[20:24]
    asked = [
        Asked(serve, ids[:50], max_tokens=30, stop=[stop, "never there"]),
        Asked(serve, ids[:50], max_tokens=3),
        Asked(serve, ids[:90], max_tokens=None, ignore_eos=True),
        Asked(serve, ids[:50], max_tokens=0),
    ]
    run(scheduler(n_ctx=100), asked)
    assert asked[0].text == text[: text.index(stop)] and asked[0].reasons == {0: "stop"} and asked[0].events[-1].stop == stop
    assert [one.reasons[0] for one in asked] == ["stop", "length", "length", "length"]
    assert asked[2].request.n_generated == 11  # the last one has no place in the context, and needs none
    assert asked[3].text == "" and asked[3].request.n_generated == 0


def test_chances_are_the_logits(scheduler, serve, tiny, kv, ids):
    one = Asked(serve, ids[:50], max_tokens=8, n_chances=3)
    run(scheduler(), [one])
    assert len(one.chances) == one.request.n_generated == 8
    with tiny.session(1000, kv=kv) as session:
        logits = session.prefill(ids[:50]).astype(np.float64)
        for chance in one.chances:
            right = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
            assert math.isclose(chance.logprob, right[chance.token], abs_tol=1e-3)
            assert [token for token, _ in chance.best] == list(np.argsort(-right)[:3])
            assert chance.best[0] == (chance.token, chance.logprob)  # greedy
            logits = session.eval([chance.token])[0].astype(np.float64)


def test_a_prompt_is_scored(scheduler, serve, livekv, tiny, kv, ids):
    """Beside other texts, and though its beginning is known."""
    known = livekv.Model(tiny.path, n_threads=2, prefix_cache_bytes=1 << 26)
    s = scheduler(known)
    run(s, [Asked(serve, ids[:400], max_tokens=1)])
    asked = [Asked(serve, ids[:n], max_tokens=2, n_chances=1, scores_prompt=True) for n in (1, 64, 300)]
    other = Asked(serve, ids[:300], max_tokens=9)
    run(s, [*asked, other])
    with tiny.session(1000, kv=kv) as session:
        logits = session.eval(ids[:300], all_logits=True).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    right = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    for one in asked:
        chances, n = one.request.prompt_chances, len(one.request.prompt)
        assert [chance.token for chance in chances] == ids[1:n] and one.request.n_cached == 0
        np.testing.assert_allclose([chance.logprob for chance in chances], right[np.arange(n - 1), ids[1:n]], atol=5e-3)
        assert [chance.best[0][0] for chance in chances[:50]] == list(right[: n - 1].argmax(axis=1)[:50])
        assert len(one.chances) == 2
    assert other.text == alone(tiny, kv, ids[:300], 9)[0] and other.request.prompt_chances == []


class OnlyThese:
    def __init__(self, tiny, tokens):
        self.tokens, self.n_words = list(tokens), -(-tiny.n_vocab // 32)

    def allowed(self):
        bits = np.zeros(self.n_words, np.uint32)
        bits[self.tokens[0] // 32] |= np.uint32(1 << self.tokens[0] % 32)
        return bits

    def take(self, token):
        assert token == self.tokens.pop(0)

    def complete(self):
        return not self.tokens


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_a_constraint_is_kept_to(scheduler, serve, tiny, ids, temperature):
    wanted = ids[300:312]
    one = Asked(serve, ids[:20], constraint=lambda: OnlyThese(tiny, wanted), sampling={"temperature": temperature}, n=2)
    run(scheduler(), [one])
    assert one.texts[0] == one.texts[1] == tiny.detokenize(wanted) and one.reasons == {0: "stop", 1: "stop"}


def test_what_has_begun_is_shared_and_read_once(scheduler, serve, livekv, tiny, kv, ids):
    """Of twelve prompts over one document of ten chunks, asked at the same time, the document is computed once."""
    known = livekv.Model(tiny.path, n_threads=2, prefix_cache_bytes=1 << 26)
    prompts = [ids[:640] + ids[640 + 20 * i : 660 + 20 * i] for i in range(12)]
    s = scheduler(known, parallel=6)
    asked = [Asked(serve, prompt, max_tokens=6) for prompt in prompts]
    run(s, asked)
    computed = s.counters.prompt_tokens - s.counters.cached_tokens
    assert computed <= 1.1 * (640 + 12 * 20)
    assert [one.request.n_cached for one in asked] == [0] + [640] * 11
    assert [one.text for one in asked] == [alone(tiny, kv, prompt, 6)[0] for prompt in prompts]


def test_a_leader_that_goes_leaves_its_followers_to_themselves(scheduler, serve, livekv, tiny, kv, ids):
    known = livekv.Model(tiny.path, n_threads=2, prefix_cache_bytes=1 << 26)
    s = scheduler(known)
    leader, follower = Asked(serve, ids[:700]), Asked(serve, ids[:660], max_tokens=4)
    s.submit(leader.request)
    s.submit(follower.request)
    for _ in range(3):
        s.step()
    leader.request.cancelled = True
    run(s, [])
    assert follower.text == alone(tiny, kv, ids[:660], 4)[0] and leader.events == []
    assert s.counters.cancelled == 1 and s.kv_bytes == 0


def test_memory_is_never_over_the_budget_and_nobody_is_lost(scheduler, serve, tiny, kv, ids):
    with tiny.session(1000, kv=kv) as session:
        session.prefill(ids[:500])
        budget = 2 * session.kv_stats().f16_bytes
    s = scheduler(parallel=12, memory=budget)
    asked = [Asked(serve, ids[11 * i : 11 * i + 60 + 30 * i], max_tokens=10, n=1 + i % 3) for i in range(12)]
    most_texts, most_bytes = 0, 0
    for one in asked:
        s.submit(one.request)
    while s.step():
        most_texts, most_bytes = max(most_texts, s.n_texts), max(most_bytes, s.kv_bytes)
    assert all(set(one.reasons) == set(range(one.request.n)) for one in asked)
    assert 2 <= most_texts < 12 and 0 < most_bytes <= budget


def test_a_cache_that_takes_its_context_at_once_counts_so(serve, livekv, tiny, ids):
    f16 = livekv.KVOptions.parse("f16")
    with tiny.session(300, kv=f16) as session:
        whole = session.kv_bytes
    s = serve.scheduler.Scheduler(tiny, serve.limits.Limits(memory=3 * whole + whole // 2), 300, f16)
    asked = [Asked(serve, ids[9 * i : 9 * i + 20], max_tokens=6) for i in range(7)]
    for one in asked:
        s.submit(one.request)
    most = 0
    while s.step():
        most = max(most, s.n_texts)
        assert s.kv_bytes <= s.limits.memory
    assert most == 3 and [one.text for one in asked] == [alone(tiny, f16, one.request.prompt, 6)[0] for one in asked]


def test_a_request_that_needs_more_than_all_memory_is_ended(scheduler, serve, ids):
    s = scheduler(memory=400_000)
    large, small = Asked(serve, ids[:700]), Asked(serve, ids[:10], max_tokens=3)
    run(s, [large, small])
    assert large.failure.status == 503 and "needs more than the 400000 bytes" in large.failure.message
    assert small.reasons == {0: "length"} and s.kv_bytes == 0


def test_a_full_queue_refuses(scheduler, serve, ids):
    s = scheduler(parallel=2, queue=3)
    asked = [Asked(serve, ids[:10], max_tokens=2) for _ in range(6)]
    for one in asked[:5]:
        s.submit(one.request)
    with pytest.raises(serve.request.Refused) as refused:
        s.submit(asked[5].request)
    assert refused.value.status == 429 and refused.value.retry_after_s >= 1
    asked[0].request.cancelled = True
    s.submit(asked[5].request)  # its place is free
    run(s, [])
    assert [bool(one.reasons) for one in asked] == [False] + [True] * 5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompt": []}, "has no tokens"),
        ({"prompt": [1] * 1000}, r"the context of 1000 \(-c\) leaves no room"),
        ({"prompt": [4096]}, "outside the vocabulary"),
        ({"prompt": [-1]}, "outside the vocabulary"),
        ({"n": 9}, "n is 9; this server writes at most 8"),
        ({"sampling": {"top_p": 2}}, "top_p 2"),
        ({"stop": [""]}, "a stop string is empty"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_what_can_never_be_done_is_refused_at_once(scheduler, serve, given, message):
    s = scheduler()
    with pytest.raises(serve.request.Refused, match=message) as refused:
        s.submit(Asked(serve, **{"prompt": [1, 2], **given}).request)
    assert refused.value.status == 400 and s.n_waiting == 0


def test_time_limits_end_requests(scheduler, serve, ids):
    s = scheduler(parallel=1, wait_s=50, run_s=100)
    asked = [Asked(serve, ids[:10], max_tokens=None, ignore_eos=True) for _ in range(2)]
    for one in asked:
        s.submit(one.request)
    s.step()
    asked[1].request.arrived -= 51
    s.step()
    assert asked[1].failure.status == 503 and asked[0].failure is None
    asked[0].request.arrived -= 101
    s.step()
    assert asked[0].failure.status == 504 and s.n_texts == 0


def test_only_the_guilty_fails(scheduler, serve, tiny, kv, ids, livekv, monkeypatch):
    """A step that fails is done one by one; who had advanced before goes on from its logits."""
    s = scheduler()
    asked = [Asked(serve, ids[20 * i : 20 * i + 30], max_tokens=8) for i in range(3)]
    compute, calls = s.engine.step, []

    class Engine:
        prefix_idle_bytes = 0

        def step(self, batch, all_logits, generated, to_come):
            calls.append(len(batch))
            if len(calls) == 4:  # the first has advanced, then memory runs out
                compute(batch[:1], all_logits, generated[:1], to_come[:1])
                raise livekv.Error("not enough memory for a pass")
            if len(calls) > 4 and any(session is guilty for session, _ in batch):
                raise livekv.Error("not enough memory")
            return compute(batch, all_logits, generated, to_come)

    for one in asked:
        s.submit(one.request)
    s.step()
    guilty = s._writing[1].session
    calls[:] = [1, 1, 1]
    monkeypatch.setattr(s, "engine", Engine())
    run(s, [])
    assert asked[1].failure.status == 503 and "not enough memory" in asked[1].failure.message
    for i in (0, 2):
        assert asked[i].text == alone(tiny, kv, ids[20 * i : 20 * i + 30], 8)[0]


def test_a_prompt_that_is_scored_is_scored_once(scheduler, serve, livekv, ids, monkeypatch):
    """Though the step that read a part of it failed behind it."""
    s = scheduler()
    compute, failed = s.engine.step, []

    class Engine:
        prefix_idle_bytes = 0

        def step(self, batch, all_logits, generated, to_come):
            logits = compute(batch, all_logits, generated, to_come)
            if not failed:
                failed.append(True)
                raise livekv.Error("not enough memory for a pass")
            return logits

    monkeypatch.setattr(s, "engine", Engine())
    one = Asked(serve, ids[:100], max_tokens=1, n_chances=0, scores_prompt=True)
    run(s, [one])
    again = Asked(serve, ids[:100], max_tokens=1, n_chances=0, scores_prompt=True)
    run(scheduler(), [again])
    assert failed and one.request.prompt_chances == again.request.prompt_chances and one.text == again.text


def test_all_can_be_ended(scheduler, serve, ids):
    s = scheduler(parallel=1)
    asked = [Asked(serve, ids[:10]) for _ in range(3)]
    for one in asked:
        s.submit(one.request)
    s.step()
    s.fail_all(serve.request.Failure(503, "the server ends"))
    assert all(one.failure.message == "the server ends" for one in asked) and not s.step()


OPTIONS = {"parallel": "--parallel", "memory": "--memory", "step_tokens": "--step-tokens", "wait_s": "--wait-timeout", "run_s": "--timeout"}


@pytest.mark.parametrize("field", OPTIONS)
def test_limits_are_checked(serve, livekv, field):
    for value in (0, -1, math.nan):
        if isinstance(value, float) and field not in ("wait_s", "run_s"):
            continue
        with pytest.raises(livekv.Error, match=f"{OPTIONS[field]} is"):
            serve.limits.Limits(**{field: value})




def test_a_request_that_comes_as_the_engine_ends_is_told(scheduler, serve, ids, monkeypatch):
    """Whether the thread ends before, while or after it is taken."""
    import livekv.serve.worker

    for moment in ("before", "while", "after"):
        s = scheduler()
        worker = livekv.serve.worker.Worker(s)
        worker.start()
        submit = s.submit

        def taken(request, worker=worker, submit=submit, moment=moment):
            if moment == "while":
                worker.close()
            submit(request)
            if moment == "after":
                worker.close()

        monkeypatch.setattr(s, "submit", taken)
        one = Asked(serve, ids[:10], max_tokens=None, ignore_eos=True)
        if moment == "before":
            worker.close()
            with pytest.raises(serve.request.Refused, match="the server ends"):
                worker.submit(one.request)
        else:
            worker.submit(one.request)
            assert one.failure.message == "the server ends"
