"""Ids that the converter carries, leaves out or refuses, and texts that go on behind others."""

from __future__ import annotations

import copy
import re
import warnings

import convert_hf
import livekv
import numpy as np
import pytest
import tiny_models
import tiny_tokenizers
from against_transformers import check_ids
from convert_error import ConvertError
from tiny_models import SHAPES

SPM, BYTELEVEL = SHAPES["hd8"], SHAPES["gqa_hd64"]
WEIGHTS = {shape.name: tiny_models.weights(shape) for shape in (SPM, BYTELEVEL)}


def convert(folder, shape, weights=None, **files) -> livekv.Model:
    """The shape's model with changed files, named without .json."""
    tiny_models.make(folder, shape, weights or WEIGHTS[shape.name])
    for name, content in files.items():
        tiny_models.write_json(folder / f"{name}.json", content)
    convert_hf.convert(folder, folder.with_suffix(".gguf"), "f32")
    return livekv.Model(folder.with_suffix(".gguf"), n_threads=1)


def with_added(*tokens: dict) -> dict:
    tokenizer = copy.deepcopy(tiny_tokenizers.spm_json()[0])
    tokenizer["added_tokens"] += tokens
    return tokenizer


def test_every_listed_eos_ends_a_text(tmp_path):
    config = tiny_models.config(SPM) | {"eos_token_id": [2, 300, 301, 302, 999]}
    model = convert(tmp_path / "m", SPM, config=config, generation_config={"eos_token_id": [303, 2]})
    assert [id_ for id_ in range(SPM.n_vocab) if model.is_end_of_generation(id_)] == [2, 300, 301, 302, 303]
    assert model.eos_token == 2


def test_an_added_token_without_a_row_is_left_out_with_a_note(tmp_path, capsys):
    model = convert(tmp_path / "m", SPM, tokenizer=with_padding(SPM.n_vocab, "[PAD]"))
    assert "token 320 ('[PAD]') lies beyond the model's 320 rows and is left out" in capsys.readouterr().err
    assert model.n_vocab == SPM.n_vocab
    assert model.tokenize("[PAD]", parse_special=True) == model.tokenize("[PAD]")


def with_padding(n_vocab: int, last: str) -> dict:
    """Added tokens up to n_vocab, the one with that id included."""
    n = len(tiny_tokenizers.spm_json()[0]["model"]["vocab"])
    return with_added(*(tiny_tokenizers.added(id_, last if id_ == n_vocab else f"<{id_}>") for id_ in range(n, n_vocab + 1)))


@pytest.mark.parametrize("kind", ["bos", "eos"])
def test_a_bos_or_eos_without_a_row_is_refused(tmp_path, kind):
    config = tiny_tokenizers.spm_json()[1] | {f"{kind}_token": "<far>"}
    with pytest.raises(ConvertError, match=f"the {kind} token '<far>' lies beyond .*resize_token_embeddings"):
        convert(tmp_path / "m", SPM, tokenizer=with_padding(SPM.n_vocab, "<far>"), tokenizer_config=config)


def test_added_tokens_are_numbered_as_tokenizers_numbers_them(tmp_path, capsys):
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = with_added(tiny_tokenizers.added(319, "<late>"))
    model = convert(tmp_path / "m", SPM, tokenizer=tokenizer)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "m" / "tokenizer.json"))
    expected = theirs.encode("<late>", add_special_tokens=False).ids
    assert model.tokenize("<late>", add_special=False, parse_special=True) == expected != [319]
    assert "as tokenizers numbers it; the tokenizer's files say 319" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        {"dropout": 0.1},
        {"end_of_word_suffix": "</w>"},
        {"continuing_subword_prefix": "##"},
        {"merges": [["the", "nowhere"]]},
        {"ignore_merges": True},
    ],
)
def test_what_cannot_be_carried_is_refused(tmp_path, change):
    tokenizer = tiny_tokenizers.spm_json()[0]
    with pytest.raises(ConvertError):
        convert(tmp_path / "m", SPM, tokenizer=tokenizer | {"model": tokenizer["model"] | change})


@pytest.mark.parametrize(
    "config, texts",
    [
        ({}, ("the", "</s>and", "</s> and")),
        ({"legacy": False}, ("the", "</s>and")),
        ({"legacy": True}, ("the", " the", "</s>and", "</s> and", "<unk>the")),
        ({"add_prefix_space": False}, ("the", " the", "</s>and")),
    ],
)
def test_sentencepiece_alone_is_read_as_transformers_reads_it(tmp_path, config, texts):
    proto = pytest.importorskip("sentencepiece.sentencepiece_model_pb2").ModelProto()
    proto.trainer_spec.model_type = proto.trainer_spec.BPE
    proto.trainer_spec.byte_fallback = True
    proto.normalizer_spec.remove_extra_whitespaces = False
    for text, score, type_ in tiny_tokenizers.spm_pieces():
        proto.pieces.add(piece=text, score=score, type=type_)
    folder = tiny_models.make(tmp_path / "m", SPM, WEIGHTS[SPM.name])
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(proto.SerializeToString())
    config = tiny_tokenizers.spm_json()[1] | {"tokenizer_class": "LlamaTokenizer"} | config
    tiny_models.write_json(folder / "tokenizer_config.json", config)
    check_ids(livekv, folder, texts)


@pytest.mark.parametrize("parts", [("the", " and"), ("th", "e and"), ("the </s>", "and"), ("the</s>", " and")])
@pytest.mark.parametrize("scheme", ["first", "always", None])
def test_texts_that_follow_each_other_are_one_text(tmp_path, parts, scheme):
    tokenizer = tiny_tokenizers.spm_json()[0]
    if scheme is not None:
        step = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": False}
        tokenizer |= {"normalizer": None, "pre_tokenizer": step}
    model = convert(tmp_path / "m", SPM, tokenizer=tokenizer)
    whole, in_parts = model.session(n_ctx=64), model.session(n_ctx=64)
    list(whole.generate("".join(parts), max_tokens=0))
    for part in parts:
        list(in_parts.generate(part, max_tokens=0))
    assert model.detokenize(in_parts.tokens, skip_special=False) == model.detokenize(whole.tokens, skip_special=False)
    if parts != ("th", "e and"):  # where no token lies across the border, the tokens are the same too
        assert in_parts.tokens == whole.tokens
    assert model.tokenize(parts[1], behind=in_parts.tokens[0])[0] != model.bos_token


def test_a_saved_cache_goes_on_in_the_middle_of_a_word(tmp_path, tools):
    model = convert(tmp_path / "m", SPM)
    for file, text in (("a.kv", "the"), ("b.kv", " and")):
        load = ("--kv-load", tmp_path / "a.kv") if file == "b.kv" else ()
        tools.run("livekv-cli", "-m", tmp_path / "m.gguf", "-p", text, "-n", 0, "--kv-save", tmp_path / file, *load)
    session = model.session(n_ctx=64)
    session.load(tmp_path / "b.kv")
    assert session.tokens == model.tokenize("the and")


def test_a_second_bos_is_warned_of_once(tmp_path, tools):
    model = convert(tmp_path / "m", SPM)
    with pytest.warns(UserWarning, match="now there are two") as caught:
        list(model.session(n_ctx=64).generate("<s>the", max_tokens=1))
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(model.session(n_ctx=64).generate("<s>the", max_tokens=1, add_special=False))
        list(model.session(n_ctx=64).generate("<s>the", max_tokens=1, parse_special=False))
    done = tools.run("livekv-cli", "-m", tmp_path / "m.gguf", "-p", "<s>the", "-n", 1)
    assert done.stderr.count("now there are two") == 1
    assert "two" not in tools.run("livekv-cli", "-m", tmp_path / "m.gguf", "-p", "the", "-n", 1).stderr


def test_rows_without_a_token_are_never_chosen(tmp_path):
    import gguf

    rows = WEIGHTS[SPM.name]["lm_head.weight"].copy()
    rows[300:] = 100 * np.sign(rows[300:])  # chosen first by every context, one way or the other
    convert(tmp_path / "whole", SPM, WEIGHTS[SPM.name] | {"lm_head.weight": rows})
    reader = gguf.GGUFReader(tmp_path / "whole.gguf")
    writer = gguf.GGUFWriter(tmp_path / "short.gguf", "llama")
    for key, entry in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        value = entry.contents()
        if key in ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.scores"):
            value = value[:300]
        element = entry.types[-1] if entry.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, value, entry.types[0], sub_type=element)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert livekv.Model(tmp_path / "whole.gguf", n_threads=1).session(n_ctx=64).eval([1, 261])[0].argmax() >= 300
    short = livekv.Model(tmp_path / "short.gguf", n_threads=1)
    text = short.session(n_ctx=64).generate([1, 261], max_tokens=20, temperature=1.5, seed=1, ignore_eos=True)
    list(text)
    assert len(text.tokens) == 20 and max(text.tokens) < 300


def test_the_docs_name_the_pre_tokenizers(tmp_path, root, tools):
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("none such")
    writer.add_token_list(["a"])
    writer.add_token_merges(["a a"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    known = tools.run("livekv-cli", "-m", tmp_path / "m.gguf", "-p", "a", "--tokenize", check=False).stderr
    names = known.split("supported are ")[1].strip().split(", ")
    rows = re.findall(r"^\| ((?:`[^`|]+`(?:, )?)+) \|", (root / "docs" / "tokenizers.md").read_text(), re.MULTILINE)
    listed = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert len(names) > 5 and set(names) <= set(listed)
