"""The keys of config.json that are taken for harmless: transformers computes the same whatever they say."""

from __future__ import annotations

import json

import config_keys
import pytest
import tiny_models
from families import FAMILIES

LLAMA3 = tiny_models.SHAPES["llama3_rope"].rope
# Those that transformers refuses other values of, and what it takes.
TAKEN = {"dtype": "float32", "torch_dtype": "float32", "problem_type": "regression", "_attn_implementation": "eager"}
TAKEN |= {"attn_implementation": "eager", "id2label": {"0": "a"}, "label2id": {"a": 0}, "pruned_heads": {"0": [1]}}
TAKEN |= {"task_specific_params": {"a": {"b": 1}}, "use_cache": False, "return_dict": True}
TAKEN |= {"cache_implementation": "dynamic", "do_sample": True, "early_stopping": True, "top_p": 0.5, "typical_p": 0.5}
TAKEN |= {"suppress_tokens": [1], "begin_suppress_tokens": [1], "bad_words_ids": [[1]]}
TAKEN |= {"exponential_decay_length_penalty": [1, 1.1]}


@pytest.mark.parametrize("architecture", list(FAMILIES))
def test_keys_taken_for_harmless_change_nothing_in_transformers(tmp_path, architecture):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers", minversion="5")
    own = {"rope": LLAMA3}
    if architecture == "Phi3ForCausalLM":
        own = {"n_head_kv": 4, "head_dim": 32, "rope": tiny_models.longrope(32, 16)}
    folder = tiny_models.make(tmp_path / "m", tiny_models.Shape("m", architecture, **own))

    def logits():
        with torch.no_grad():
            model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
            return model(torch.tensor([[5, 9, 7, 30]])).logits

    expected = logits()
    odd = {key: TAKEN.get(key, 0.5 if "drop" in key or "initializer" in key else 3) for key in config_keys.HARMLESS}
    config = json.loads((folder / "config.json").read_text())
    tiny_models.write_json(folder / "config.json", config | odd)
    assert torch.equal(logits(), expected)
