"""Trained models of ../shared: they convert, tokenize as their own tokenizers do, and say what they said elsewhere."""

from __future__ import annotations

import json

import convert_hf
import llama2c
import numpy as np
import pytest

TEXTS = [
    "Once upon a time, there was a little girl named Lily.",
    "It's 1923; they'll have paid $1,250.75 -- wouldn't you?",
    "  two leading spaces, a\ttab, and\n\nblank lines \n at   the end  ",
    "Caf\u00e9, na\u00efve, \u00fcber; \u041c\u043e\u0441\u043a\u0432\u0430 \u2014 \u6771\u4eac \U0001f600.",
    "<|begin|>not only text<|end|>",
]
FACT = " The secret number of Olga Felix is 48213."
QUESTION = " Remember: The secret number of Olga Felix is"


def references(shared, name: str) -> dict:
    return json.loads((shared / "models" / "reference-generations.json").read_text(encoding="utf-8"))[name]


def check_recorded(model, recorded: dict, tools, folder) -> None:
    """Prompt ids, greedy continuations, the last logits and the loss of a text, all made by transformers in float32."""
    for entry in recorded["prompts"]:
        assert tools.tokenize(model, entry["prompt"]) == entry["prompt_ids"]
        n = len(entry["greedy_ids"])
        assert tools.greedy(model, entry["prompt_ids"], n, folder / "logits") == entry["greedy_ids"]
    ids = recorded["nll_ids"]
    assert tools.tokenize(model, recorded["nll_text"]) == ids
    logits = tools.logits(model, ids, folder / "logits").astype(np.float64)
    range_ = logits.max() - logits.min()
    np.testing.assert_allclose(logits[-1, :16], recorded["last_logits_first16"], atol=1e-3 * range_, rtol=0)
    shifted = logits[:-1] - logits[:-1].max(axis=1, keepdims=True)
    nll = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(ids) - 1), ids[1:]]
    # A difference of two logits, each within 1e-3 of the range; the recorded losses are rounded to six digits.
    np.testing.assert_allclose(nll, recorded["nll_per_token"], atol=2e-3 * range_, rtol=0)
    assert nll.mean() == pytest.approx(recorded["nll_mean"], abs=5e-4 * range_)


def test_story_hf_says_what_transformers_says(shared, tools, tmp_path):
    convert_hf.convert(shared / "models" / "story-hf", tmp_path / "m.gguf", "f32")
    check_recorded(tmp_path / "m.gguf", references(shared, "story-hf"), tools, tmp_path)


@pytest.mark.parametrize("file_name", ["checkpoint_legacy.bin", "checkpoint_v1.bin"])
def test_stories260k_says_what_the_reference_says(shared, tools, tmp_path, file_name):
    folder = shared / "models" / "stories260k"
    llama2c.write_gguf(folder / file_name, folder / "tokenizer.bin", tmp_path / "m.gguf")
    check_recorded(tmp_path / "m.gguf", references(shared, "stories260k"), tools, tmp_path)


@pytest.mark.parametrize("name, add_bos", [("trial-5m", False), ("story-hf", True)])
def test_texts_tokenize_as_with_the_models_own_tokenizer(shared, tools, tmp_path, name, add_bos):
    tokenizers = pytest.importorskip("tokenizers")
    folder = shared / "models" / name
    convert_hf.convert(folder, tmp_path / "m.gguf", "f16")
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    known = set("".join(tokenizer.get_vocab())) | {" "}
    for text in TEXTS:
        if name == "story-hf":  # has no byte tokens: every letter it does not know is <unk>
            text = "".join(letter for letter in text if letter in known)
            # transformers builds a LlamaTokenizer anew, which puts no space in front of a text that has one.
            text = text.lstrip(" ")
        assert tools.tokenize(tmp_path / "m.gguf", text) == tokenizer.encode(text, add_special_tokens=add_bos).ids


@pytest.mark.parametrize("type_name", ["bf16", "q8_0"])
def test_trial_5m_recalls_a_fact_from_far_back(shared, tools, tmp_path, type_name):
    convert_hf.convert(shared / "models" / "trial-5m", tmp_path / "m.gguf", type_name)
    book = (shared / "books" / "2600-0.txt").read_text(encoding="utf-8")[200_000:203_000]
    prompt = book[:1500] + FACT + book[1500:] + QUESTION
    tokens = tools.tokenize(tmp_path / "m.gguf", prompt)
    assert 600 < len(tokens) < 1500  # the fact lies chunks away
    answer = tools.tokenize(tmp_path / "m.gguf", " 48213")
    assert tools.greedy(tmp_path / "m.gguf", tokens, len(answer), tmp_path / "logits") == answer
