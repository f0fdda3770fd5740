"""--kv guided --propagate layers: tokens of a prompt leave on the way up, and everything else is what it would be without
them. Which tokens leave is held to the scalar reference in tests/unit/test_guided_policy.cpp."""

from __future__ import annotations

import numpy as np
import pytest

from sequences import go_on, kl, same_dumps


def held(livekv, session, layer):
    """Which tokens a layer's cache has, bool [n_tokens]."""
    return session.kv_dump(layer)["k_kind"] != livekv.kv.DROPPED


def share_of(kv, layer, n_layer):
    first = layer < 3 * n_layer // 10
    return kv.early_ratio if first else kv.middle_ratio if layer < 7 * n_layer // 10 else kv.later_ratio


def test_layers_of_a_share_have_the_same_tokens_and_later_ones_some_of_these(livekv, model, tokens):
    kv = livekv.KVOptions.parse("guided:chunk-size=64:propagate=layers:guide-tokens=4:keep-last=2")
    session = model.session(400, kv=kv)
    session.prefill(tokens[:230])
    before = np.ones(230, bool)
    for layer, of_layer in enumerate(session.kv_stats().guided["layers"]):
        share = share_of(kv, layer, model.n_layer)
        here = held(livekv, session, layer)
        assert not (here & ~before).any()
        for first in range(0, 230, 64):
            n = min(64, 230 - first)
            assert here[first : first + n].sum() == int(share * n + 1e-9), (layer, first)
        assert of_layer["tokens_in"] == before[:192].sum() and of_layer["tokens_kept"] == here[:192].sum()
        assert of_layer["budget_use"] == pytest.approx(here[:192].sum() / (share * 192))
        assert here[:4].all() and here[228:].all()
        before = here
    stats = session.kv_stats().guided
    n_kept = sum(held(livekv, session, layer)[:192].sum() for layer in range(model.n_layer))
    assert stats["dropped_ratio"] == pytest.approx(1 - n_kept / (192 * model.n_layer), abs=1e-12)


def test_what_goes_on_is_what_it_would_be_with_all_tokens(livekv, model, tokens):
    """A token's row in layer 1 depends on layer 0 alone, where none has left yet."""
    sessions = {}
    for propagate in ("layers", "off"):
        kv = livekv.KVOptions.parse(f"guided:chunk-size=64:guide-tokens=5:propagate={propagate}")
        sessions[propagate] = model.session(400, kv=kv)
        sessions[propagate].prefill(tokens[:60])
    here = held(livekv, sessions["layers"], 1)
    assert 0.4 * 60 < here.sum() < 60 and not here.all()
    for side in "kv":
        mine, all_ = (sessions[p].kv_dump(1)[f"{side}_stored"][:, here] for p in ("layers", "off"))
        np.testing.assert_allclose(mine, all_, rtol=4e-3, atol=4e-3 * np.abs(all_).max())


def test_tokens_that_all_go_on_are_computed_as_if_nothing_left_behind_them(livekv, model, tokens):
    """Only the guide stays, the prompt's first tokens: they see none of the others, in any layer."""
    spec = "guided:chunk-size=64:guide-tokens=20:keep-last=0:sink-tokens=0"
    few = model.session(400, kv=livekv.KVOptions.parse(
        f"{spec}:propagate=layers:early-ratio=0.01:middle-ratio=0.01:later-ratio=0.01"))  # fmt: skip
    all_ = model.session(400, kv=livekv.KVOptions.parse(f"{spec}:propagate=off"))
    for one in (few, all_):
        one.prefill(tokens[:60])
    for layer in range(model.n_layer):
        expected = np.r_[np.ones(20, bool), np.zeros(39, bool), True]  # whose logits are wanted goes on, too
        np.testing.assert_array_equal(held(livekv, few, layer), expected)
        for side in "kv":
            mine, theirs = (one.kv_dump(layer)[f"{side}_stored"][:, :20] for one in (few, all_))
            np.testing.assert_allclose(mine, theirs, rtol=6e-3, atol=6e-3 * np.abs(theirs).max())


def test_what_was_let_go_is_not_seen_by_what_comes_later(livekv, model, tokens):
    """Two prompts that differ in tokens that leave in layer 0 alone, and only the first tokens go on."""
    kv = livekv.KVOptions.parse("guided:chunk-size=64:guide-tokens=20:keep-last=0:sink-tokens=0:propagate=layers:"
                                "early-ratio=0.01:middle-ratio=0.01:later-ratio=0.01")  # fmt: skip
    dumps = []
    for prompt in (tokens[:64], tokens[:20] + tokens[100:144]):
        session = model.session(400, kv=kv)
        session.prefill([*prompt, *tokens[64:128]])
        dumps.append([session.kv_dump(layer) for layer in range(model.n_layer)])
    for one, other in zip(*dumps, strict=True):
        np.testing.assert_array_equal(one["k_stored"][:, :20], other["k_stored"][:, :20])
        assert not one["k_stored"][:, 20:64].any()


def test_shares_of_one_change_nothing(livekv, model, tokens):
    spec = "guided:chunk-size=64:guide-tokens=9"
    sessions = [model.session(400, kv=livekv.KVOptions.parse(f"{spec}:{more}"))
                for more in ("propagate=off", "propagate=layers:early-ratio=1:middle-ratio=1:later-ratio=1")]  # fmt: skip
    for one in sessions:
        one.prefill(tokens[:150])
    same_dumps(model, *sessions)
    np.testing.assert_array_equal(*(go_on(one, tokens[150:200]) for one in sessions))
    assert sessions[0].kv_stats().guided == sessions[1].kv_stats().guided


def test_a_token_whose_logits_are_wanted_goes_on_whatever_its_score(livekv, model, tokens):
    kv = livekv.KVOptions.parse("guided:chunk-size=32:propagate=layers:protect=off:beta=0:later-ratio=0.1")
    session = model.session(400, kv=kv)
    assert np.isfinite(session.prefill(tokens[:90])).all()
    for layer in range(model.n_layer):
        assert held(livekv, session, layer)[89]
    list(session.generate(None, max_tokens=20, temperature=0, ignore_eos=True))
    for layer in range(model.n_layer):
        assert held(livekv, session, layer)[90:].all()


def test_logits_of_every_token_are_computed_and_the_caches_drop_all_the_same(livekv, model, tokens):
    kv = livekv.KVOptions.parse("guided:chunk-size=32:propagate=layers:guide-tokens=4:keep-last=0:level-bits=16,16,16")
    evaluated = model.session(400, kv=kv)
    exact = model.session(400, kv=livekv.KVOptions.parse("f16:chunk-size=32"))
    logits, reference = (one.eval(tokens[:128], all_logits=True) for one in (evaluated, exact))
    assert logits.shape[0] == 128
    assert kl(logits[:32], reference[:32]) < 6e-4  # a chunk sees itself, all of it
    assert kl(logits[32:], reference[32:]) > 6e-3
    for layer in range(model.n_layer):
        n = held(livekv, evaluated, layer).reshape(4, 32).sum(1)
        assert (np.abs(n - int(share_of(kv, layer, model.n_layer) * 32)) <= 1).all()  # the chunk's last one as well


def test_prompts_of_different_lengths_and_other_caches_share_passes(livekv, model, tokens):
    specs = ["guided:chunk-size=64:propagate=layers", "livekv:chunk-size=64", "f16",
             "guided:chunk-size=32:propagate=layers:early-ratio=0.5:middle-ratio=0.4:later-ratio=0.2",
             "guided:chunk-size=64:propagate=cache", "q8_0"]  # fmt: skip
    engine = livekv.Engine(model)
    together = [model.session(400, kv=livekv.KVOptions.parse(spec)) for spec in specs]
    alone = [model.session(400, kv=livekv.KVOptions.parse(spec)) for spec in specs]
    done = [0] * len(specs)
    for step in range(6):
        parts = []
        for i in range(len(specs)):
            n = (1 + 7 * i + 11 * step) % 45 + 1
            parts.append(tokens[done[i] : done[i] + n])
            done[i] += n
        results = engine.step(list(zip(together, parts, strict=True)))
        for spec, logits, other, part in zip(specs, results, alone, parts, strict=True):
            assert kl(logits[None], other.eval(part)) < 1e-6, spec
    for one, other, spec in zip(together, alone, specs, strict=True):
        if spec.startswith("guided"):
            for layer in range(model.n_layer):
                np.testing.assert_array_equal(one.kv_dump(layer)["k_kind"], other.kv_dump(layer)["k_kind"])


def test_a_budget_of_bits_is_refused(livekv, tools, story):
    assert livekv.KVOptions.parse("guided:propagate=layers:budget=tokens").propagate == "layers"
    with pytest.raises(livekv.Error, match="budget: bits are counted with propagate cache only"):
        livekv.KVOptions.parse("guided:propagate=layers:budget=bits")
    done = tools.run("livekv-cli", "-m", story, "-p", "x", "--kv", "guided", "--preset", "reference", "--propagate",
                     "layers", check=False)  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "bits are counted with propagate cache only" in done.stderr
