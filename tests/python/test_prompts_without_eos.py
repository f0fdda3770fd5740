"""A model that puts eos behind a text: prompts and contexts end where they end."""

from __future__ import annotations

import json

import convert_hf
import pytest
import tiny_models
from tiny_models import SHAPES


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tiny_models.make(tmp_path_factory.mktemp("eos") / "m", SHAPES["gqa_hd64"])
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    around = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
              {"SpecialToken": {"id": "</s>", "type_id": 0}}]  # fmt: skip
    special = {token: {"id": token, "ids": [ids[token]], "tokens": [token]} for token in ("<s>", "</s>")}
    template = {"type": "TemplateProcessing", "single": around, "pair": around, "special_tokens": special}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer | {"post_processor": template}))
    convert_hf.convert(folder, folder.with_suffix(".gguf"), "f32")
    return folder.with_suffix(".gguf")


@pytest.fixture(scope="module")
def model(livekv, path):
    return livekv.Model(path, n_threads=1)


TEXT = "the king and the queen"


def test_a_prompt_is_the_text_without_its_end(model):
    whole = model.tokenize(TEXT, parse_special=True)
    assert whole[-1] == model.eos_token  # else this file tests nothing
    assert model.tokenize_prompt(TEXT) == whole[:-1]
    assert model.eos_token not in model.tokenize_prompt("")


def test_a_model_without_it_loses_nothing(livekv, story):
    model = livekv.Model(story, n_threads=1)
    assert model.tokenize_prompt(TEXT) == model.tokenize(TEXT, parse_special=True)


def test_generate_continues_the_text(model):
    session = model.session(64)
    "".join(session.generate(TEXT, max_tokens=1, temperature=0))
    assert session.tokens == model.tokenize_prompt(TEXT)


def test_longbench_prompts_do_not_end(model):
    from python_eval.longbench.data import Sample
    from python_eval.longbench.prepare import prepare
    from python_eval.longbench.tasks import task

    for context in (TEXT, TEXT * 100):  # whole, and cut in the middle
        prompt = prepare(model, task("qasper"), Sample(("a",), (), 5, context, "who?"), 800)
        assert prompt.cut == (context != TEXT) and model.eos_token not in prompt.ids


def test_lm_eval_contexts_do_not_end(path, model):
    pytest.importorskip("lm_eval")
    from python_eval.lm_eval.model import LiveKV

    harness = LiveKV(path=str(path), kv="f16", threads=1)
    context, continuation = harness._encode_pair("Answer:", " the king")
    assert model.eos_token not in context + continuation and model.detokenize(continuation).strip() == "the king"
    assert model.eos_token not in harness.tok_encode(TEXT) + harness.tok_encode(TEXT, add_special_tokens=False)


def test_half_of_a_surrogate_pair_is_an_error(livekv, model):
    for call in (model.tokenize, model.tokenize_prompt, lambda t: model.session(64).generate(t)):
        with pytest.raises(livekv.Error, match="half of a surrogate pair at character 2"):
            call("ab\ud800c")
