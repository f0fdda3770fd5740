"""The reference model that ships does what its card says: tests/models/README.md."""

from __future__ import annotations

import json

import numpy as np
import pytest
from gguf import GGUFReader
from python_eval.retrieval.__main__ import main
from python_eval.testbed.inject_outliers import Recipe, inject

@pytest.fixture(scope="module")
def tiny(root):
    return root / "tests" / "models" / "tiny.gguf"


def read(path) -> dict:
    return {name: field.contents() for name, field in GGUFReader(path).fields.items()}


def test_its_shape_is_that_of_real_models_and_it_is_small_enough_to_ship(tiny):
    assert tiny.stat().st_size <= 8_000_000
    about = read(tiny)
    assert about["llama.context_length"] >= 4096
    assert about["llama.attention.key_length"] == 64
    assert about["llama.attention.head_count"] > about["llama.attention.head_count_kv"]
    assert about["tokenizer.ggml.tokens"][about["tokenizer.ggml.eot_token_id"]] == "<|eot_id|>"
    assert "<|start_header_id|>" in about["tokenizer.chat_template"]


def test_it_predicts_a_book_it_was_not_trained_on(tools, tiny, root):
    opening = root / "tests" / "data" / "war-and-peace-opening.txt"
    arguments = ("-m", tiny, "-f", opening, "-c", 512, "--kv", "f16", "-o", "json")
    result = json.loads(tools.run("livekv-perplexity", *arguments).stdout)
    assert result["ppl"] < 89  # measured: 86.9; one that knows only how frequent its tokens are has several hundred


def test_it_answers_a_question_in_a_chat(tools, tiny):
    text = "<|start_header_id|>user<|end_header_id|>\n\nThe badge number of Anna Torvel is 7391. It was a quiet day. What is the "
    text += "badge number of Anna Torvel?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    said = tools.run("livekv-cli", "-m", tiny, "-p", text, "-n", 24, "--temp", 0).stdout
    assert "7391" in said


def test_heavy_channels_leave_what_it_says_unchanged(tools, tiny, root, tmp_path):
    inject(tiny, tmp_path / "outliers.gguf", Recipe())
    text = (root / "tests" / "data" / "war-and-peace-opening.txt").read_text(encoding="utf-8")
    tokens = tools.tokenize(tiny, text)[:400]
    plain = tools.logits(tiny, tokens, tmp_path / "a")
    heavy = tools.logits(tmp_path / "outliers.gguf", tokens, tmp_path / "b")
    # attn_output becomes f16, whose products are not rounded to 8 bits on the way: the rest is equal.
    assert np.sqrt(np.square(plain - heavy).mean()) < 0.05 * plain.std()
    assert (plain.argmax(1) == heavy.argmax(1)).mean() > 0.95


def test_it_finds_a_number_at_every_depth_of_a_kilotoken(livekv, tiny, capsys):
    arguments = ["--kv", "f16", "--lengths", "1024", "--tasks", "single_key", "--samples", "2", "--json", "-"]
    assert main(["--model", str(tiny), *arguments]) == 0
    # The card states 100 % of 30 questions; ten are asked here.
    assert json.loads(capsys.readouterr().out)["f16"]["1024"]["single_key"] >= 0.9
