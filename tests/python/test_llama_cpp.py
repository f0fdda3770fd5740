"""llama.cpp reads the converter's files as livekv does; by its Python package, where that is installed."""

from __future__ import annotations

import convert_hf
import pytest
from recorded import make_recorded

llama_cpp = pytest.importorskip("llama_cpp", reason="the package llama-cpp-python is not installed")

pytestmark = pytest.mark.slow

N_GREEDY = 64
TINY = ("gqa_hd64", "hd8", "llama3_rope")
PROMPTS = {
    "story-hf": "One day, Tim and his dog went to the park.",
    "trial-5m": "It was a fine day, and the two friends had 12 miles to walk;",
}
TEXTS = ["the thing that was on her", "and is the 2nd; that's it", " the  and\n"]


@pytest.fixture(scope="module", params=[*TINY, *PROMPTS])
def case(request, tmp_path_factory):
    """(GGUF, prompt: a text, or the recorded token ids, after which no choice is a near tie)"""
    name = request.param
    folder = tmp_path_factory.mktemp(name)
    if name in TINY:
        recorded = make_recorded(name, folder)
        return recorded.model, recorded.tokens
    out = folder / f"{name}.gguf"
    convert_hf.convert(request.getfixturevalue("shared") / "models" / name, out, "f32")
    return out, PROMPTS[name]


@pytest.fixture(scope="module")
def llama(case):
    return llama_cpp.Llama(str(case[0]), n_ctx=512, n_batch=512, n_threads=1, logits_all=False, verbose=False)


def tokenize(llama, text: str) -> list[int]:
    """With bos and eos as the file asks for."""
    return llama.tokenize(text.encode(), add_bos=True, special=True)


def test_texts_tokenize_the_same(case, llama, tools):
    """Of story-hf, transformers' LlamaTokenizer puts no space in front of a text that has one, and livekv neither; a
    GGUF file has no key by which llama.cpp could know."""
    model, prompt = case
    for text in [*TEXTS, *PROMPTS.values()]:
        if prompt != PROMPTS["story-hf"] or text[0] != " ":
            assert tools.tokenize(model, text) == tokenize(llama, text)


def test_greedy_continuations_are_the_same(case, llama, tools, tmp_path):
    model, prompt = case
    tokens = tokenize(llama, prompt) if isinstance(prompt, str) else prompt
    expected = []
    for token in llama.generate(tokens, top_k=1, temp=0.0, repeat_penalty=1.0):
        expected.append(token)
        if len(expected) == N_GREEDY:
            break
    assert tools.greedy(model, tokens, N_GREEDY, tmp_path / "logits") == expected
