"""Prompts that begin alike are computed once where a model is told to remember them."""

from __future__ import annotations

import pytest
from conftest import ROOT

STORY = ROOT / "tests" / "models" / "story.gguf"


@pytest.fixture(scope="module")
def texts(opening):
    beginning = opening.read_text()[:3000]
    return [beginning + end for end in (" Then", " But", " The prince said", " And so")]


def answers(model, texts, kv):
    got = []
    for text in texts:
        with model.session(1500, kv=kv) as session:
            generation = session.generate(text, max_tokens=30, temperature=0)
            got.append(("".join(generation), generation.usage.cached_tokens, generation.usage.prompt_tokens))
    return got


def test_a_model_that_remembers_says_the_same_and_computes_less(livekv, texts):
    kv = livekv.KVOptions(chunk_size=128)
    plain = answers(livekv.Model(STORY, n_threads=1), texts, kv)
    known = answers(livekv.Model(STORY, n_threads=1, prefix_cache_bytes=1 << 28), texts, kv)
    assert [text for text, _, _ in known] == [text for text, _, _ in plain]
    assert [n for _, n, _ in plain] == [0, 0, 0, 0]
    assert known[0][1] == 0 and all(n >= 128 * 5 and n % 128 == 0 for _, n, _ in known[1:])
    assert [n for _, _, n in known] == [n for _, _, n in plain]


def test_a_small_budget_keeps_what_fits(livekv, texts):
    kv = livekv.KVOptions(chunk_size=128)
    known = answers(livekv.Model(STORY, n_threads=1, prefix_cache_bytes=1), texts, kv)
    assert [n for _, n, _ in known] == [0, 0, 0, 0]
    with pytest.raises(livekv.Error, match="prefix_cache_bytes is -1"):
        livekv.Model(STORY, prefix_cache_bytes=-1)


def test_texts_that_run_together_start_from_what_is_known(livekv, texts):
    model = livekv.Model(STORY, n_threads=1, prefix_cache_bytes=1 << 28)
    kv = livekv.KVOptions(chunk_size=128)
    expected = answers(livekv.Model(STORY, n_threads=1), texts, kv)
    answers(model, texts[:1], kv)
    engine = livekv.Engine(model)
    sessions = [model.session(1500, kv=kv) for _ in texts]
    generations = [s.generate(t, max_tokens=30, temperature=0) for s, t in zip(sessions, texts, strict=True)]
    done = {id(g): g.text for g in engine.generate_batch(generations)}
    assert [done[id(g)] for g in generations] == [text for text, _, _ in expected]
    assert all(g.usage.cached_tokens >= 128 * 5 for g in generations)
