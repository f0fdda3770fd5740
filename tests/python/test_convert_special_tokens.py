"""Tokens that other files than tokenizer.json name, and whose word a space in front of a text is: as transformers 5."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import tiny_models
import tiny_tokenizers
from against_transformers import check_ids
from convert_error import ConvertError
from gguf import TokenType
from hf_tokenizer import read_vocab
from hf_vocab import LSTRIP, NORMALIZED, RSTRIP, SINGLE_WORD

SPM = tiny_models.SHAPES["hd8"]
N = len(tiny_tokenizers.byte_level()[0]["model"]["vocab"])  # <s>, </s> and the plain <tag> come behind it
ROWS = N + 12
IN_WORD = "\u0120the"  # a token of the vocabulary, to be written as it is
TYPED = {"__type": "AddedToken", "content": "<t>", "lstrip": True}
TAG = {key: value for key, value in tiny_tokenizers.added(N + 2, "<tag>").items() if key != "id"}  # special

# Name -> (what tokenizer_config.json says, other files): token -> whether it is special, in the order of their ids.
CASES = {
    "none": ({}, {}, {}),
    "before": ({"additional_special_tokens": [IN_WORD, "<x>"]}, {}, {IN_WORD: True, "<x>": True}),
    "now": ({"extra_special_tokens": [IN_WORD, "<x>"]}, {}, {IN_WORD: True, "<x>": True}),
    "now wins": ({"extra_special_tokens": ["<x>"], "additional_special_tokens": ["<y>"]}, {}, {"<x>": True}),
    "now is empty": ({"extra_special_tokens": [], "additional_special_tokens": ["<y>"]}, {}, {"<y>": True}),
    "null": ({"extra_special_tokens": None, "additional_special_tokens": None}, {}, {}),
    "typed": ({"additional_special_tokens": [TYPED, "<x>"]}, {}, {"<t>": False, "<x>": True}),
    "named": ({"extra_special_tokens": {"b": "<x>", "a": "<tag>"}}, {}, {"<x>": True, "<tag>": True}),
    "listed already": ({"extra_special_tokens": ["<tag>"]}, {}, {}),
    "twice and empty": ({"extra_special_tokens": ["<x>", "", "<x>"]}, {}, {"<x>": True}),
    "pad": ({"pad_token": IN_WORD}, {}, {IN_WORD: True}),
    "pad listed as plain": ({"pad_token": "<tag>"}, {}, {"<tag>": True}),
    "order": (
        {"extra_special_tokens": ["<e>"], "mask_token": "<m>", "image_token": "<i>", "cls_token": "<c>"},
        {"special_tokens_map": {"video_token": "<v>", "extra_special_tokens": ["<f>", "<e>"]}},
        {"<c>": True, "<m>": True, "<v>": True, "<i>": True, "<e>": True, "<f>": True},
    ),
    "map": ({}, {"special_tokens_map": {"additional_special_tokens": ["<x>"]}}, {"<x>": True}),
    "map behind": (
        {"additional_special_tokens": ["<y>"]},
        {"special_tokens_map": {"additional_special_tokens": ["<x>"]}},
        {"<y>": True},
    ),
    "map of objects": (
        {},
        {"special_tokens_map": {"extra_special_tokens": [{"content": "<t>", "rstrip": True, "single_word": True}]}},
        {"<t>": True},
    ),
    "map of names": (
        {"extra_special_tokens": ["<e>"]},
        {"special_tokens_map": {"extra_special_tokens": {"a": "<a>"}}},
        {"<a>": True},
    ),
    "map first": ({"pad_token": "<2>"}, {"special_tokens_map": {"pad_token": {"content": "<1>"}}}, {"<1>": True}),
    "no map": (
        {"added_tokens_decoder": {}},
        {"special_tokens_map": {"additional_special_tokens": ["<x>"], "sep_token": "<y>"}},
        {},
    ),
    "decoder": ({"added_tokens_decoder": {str(N + 2): TAG}}, {}, {"<tag>": True}),
    "decoder elsewhere": (
        {
            "extra_special_tokens": ["<x>"],
            "added_tokens_decoder": {"999": TAG | {"content": "<late>"}, str(N + 3): TAG | {"content": "<early>"}},
        },
        {},
        {"<early>": True, "<late>": True, "<x>": True},
    ),
    "list beside": (
        {"extra_special_tokens": ["<x>"]},
        {"added_tokens": {"<y>": N + 3, "<x>": N + 4}},
        {"<y>": False, "<x>": True},
    ),
}


def folder_of(path, config, files, tokenizer=None, model_config=None):
    own, names = tiny_tokenizers.byte_level()
    path.mkdir(exist_ok=True)
    model = tiny_models.config(tiny_models.SHAPES["gqa_hd64"]) | (model_config or {})
    written = {"tokenizer": tokenizer or own, "tokenizer_config": names | config, "config": model}
    for name, content in (written | files).items():
        tiny_models.write_json(path / f"{name}.json", content)
    return path, model


def added_of(vocab) -> dict:
    """id -> (text, special, lstrip, rstrip, single_word, normalized)."""
    bits = (LSTRIP, RSTRIP, SINGLE_WORD, NORMALIZED)
    return {
        id_: (vocab.tokens[id_], vocab.types[id_] == TokenType.CONTROL, *(bool(flags & bit) for bit in bits))
        for id_, flags in vocab.added.items()
    }


@pytest.mark.parametrize("name", CASES)
def test_tokens_that_other_files_name_are_added(tmp_path, name):
    config, files, expected = CASES[name]
    folder, model = folder_of(tmp_path / "m", config, files)
    found = added_of(read_vocab(folder, model, ROWS))
    usual = {"<s>": True, "</s>": True, "<tag>": False}
    assert {text: special for text, special, *_ in found.values()} == usual | expected
    next_id = iter(range(N + 3, ROWS))
    fixed = {"<s>": N, "</s>": N + 1, "<tag>": N + 2, IN_WORD: tiny_tokenizers.byte_level()[0]["model"]["vocab"][IN_WORD]}
    ids = fixed | {text: next(next_id) for text in expected if text not in fixed}
    assert {text: id_ for id_, (text, *_) in found.items()} == {text: ids[text] for text in usual | expected}


@pytest.mark.parametrize("name", CASES)
def test_they_are_those_that_transformers_adds(tmp_path, name):
    transformers = pytest.importorskip("transformers", minversion="5")
    config, files, _ = CASES[name]
    folder, model = folder_of(tmp_path / "m", config, files)
    theirs = transformers.AutoTokenizer.from_pretrained(folder).added_tokens_decoder
    assert added_of(read_vocab(folder, model, ROWS)) == {
        id_: (token.content, token.special, token.lstrip, token.rstrip, token.single_word, token.normalized)
        for id_, token in theirs.items()
    }


def test_a_byte_that_is_a_special_token_is_text_too(tmp_path, livekv):
    folder = tiny_models.make(tmp_path / "m", dataclasses.replace(tiny_models.SHAPES["gqa_hd64"], n_vocab=ROWS))
    tokenizer, config = tiny_tokenizers.byte_level()
    tiny_models.write_json(folder / "tokenizer.json", tokenizer)
    tiny_models.write_json(folder / "tokenizer_config.json", config | {"pad_token": "!"})
    check_ids(livekv, folder, ("is it! the", "!!", "the!!the"), parse_special=False)


def test_those_without_a_row_are_named(tmp_path):
    config = {"extra_special_tokens": ["<x>", "<y>"], "pad_token": "<z>"}
    folder, model = folder_of(tmp_path / "m", config, {})
    notes = read_vocab(folder, model, N + 4).notes
    assert [note.split(" lies")[0] for note in notes] == [f"token {N + 4} ('<x>')", f"token {N + 5} ('<y>')"]
    assert read_vocab(folder, model, N + 4).pad == N + 3


@pytest.mark.parametrize(
    "config, message",
    [
        ({"extra_special_tokens": "<x>"}, "extra_special_tokens is '<x>', expected a list of tokens or an object"),
        ({"additional_special_tokens": {"a": "<x>"}}, "additional_special_tokens is .*, expected a list of tokens"),
        ({"extra_special_tokens": ["<x>", 3]}, r"extra_special_tokens\[1\] is 3, expected a token"),
        ({"extra_special_tokens": {"a": ["<x>"]}}, r"extra_special_tokens.a is \['<x>'\], expected a string"),
        ({"extra_special_tokens": [{"content": None}]}, r"extra_special_tokens\[0\].content is None, expected a string"),
    ],
)
def test_lists_that_are_none_are_refused(tmp_path, config, message):
    folder, model = folder_of(tmp_path / "m", config, {})
    with pytest.raises(ConvertError, match=message):
        read_vocab(folder, model, ROWS)


def test_ids_that_are_no_tokens_are_named(tmp_path):
    folder, model = folder_of(tmp_path / "m", {"bos_token": None, "eos_token": None}, {})
    ids = {"bos_token_id": ROWS, "eos_token_id": [ROWS + 1, N + 1], "pad_token_id": -1, "unk_token_id": 10**6}
    vocab = read_vocab(folder, model | ids, ROWS)
    assert (vocab.bos, vocab.eos, vocab.pad, vocab.unk, vocab.ends) == (None, N + 1, None, None, [N + 1])
    assert [note.split(" is none")[0] for note in vocab.notes] == [
        f"bos_token_id {ROWS}",
        "unk_token_id 1000000",
        f"eos_token_id {ROWS + 1}",
    ]


METASPACE = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}
PREFIXES = {
    "prepended": {},
    "first": {"normalizer": None, "pre_tokenizer": METASPACE},
    "never": {"normalizer": None, "pre_tokenizer": METASPACE | {"prepend_scheme": "never"}},
}
MODELS = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}
TEXTS = ("the the", " the", "</s>the", "</s> the")


@pytest.mark.parametrize("legacy", [None, True])
@pytest.mark.parametrize("wanted", [False, True])
@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("model_type", MODELS)
@pytest.mark.parametrize("name", ["LlamaTokenizer", "PreTrainedTokenizerFast"])
def test_a_space_in_front_is_where_transformers_puts_one(tmp_path, livekv, name, model_type, prefix, wanted, legacy):
    tokenizer, config = tiny_tokenizers.spm_json()
    config |= {"add_prefix_space": wanted, "legacy": legacy, "tokenizer_class": name}
    folder = tiny_models.make(tmp_path / "m", SPM)
    tiny_models.write_json(folder / "tokenizer.json", tokenizer | PREFIXES[prefix])
    tiny_models.write_json(folder / "tokenizer_config.json", config)
    kind = {"model_type": model_type, "architectures": [MODELS[model_type]]}
    tiny_models.write_json(folder / "config.json", tiny_models.config(SPM) | kind)
    check_ids(livekv, folder, TEXTS)


@pytest.mark.parametrize("name", ["LlamaTokenizerFast", "PreTrainedTokenizerFast"])
def test_what_decides_over_a_space_in_front_is_said(tmp_path, name):
    spm, _ = tiny_tokenizers.spm_json()
    config = {"add_prefix_space": False, "tokenizer_class": name, "bos_token": "<s>", "eos_token": "</s>"}
    folder, model = folder_of(tmp_path / "m", config, {}, spm)
    vocab = read_vocab(folder, model, SPM.n_vocab)
    decides = "which decides as in transformers" if name == "LlamaTokenizerFast" else "tokenizer.json puts one in front, and"
    assert len(vocab.notes) == 1 and decides in vocab.notes[0]
    assert vocab.prepend_scheme == ("never" if name == "LlamaTokenizerFast" else "always")


@pytest.mark.parametrize(
    "name, model_type, refused",
    [
        ("GPT2Tokenizer", "llama", True),
        ("Qwen2TokenizerFast", "qwen2", True),
        (None, "qwen3", True),
        ("GPT2Tokenizer", "mistral", False),
        ("PreTrainedTokenizerFast", "llama", False),
        (None, "llama", False),
    ],
)
def test_a_space_in_front_of_byte_level_is_refused_where_transformers_puts_one(tmp_path, name, model_type, refused):
    config = {"add_prefix_space": True, "tokenizer_class": name}
    folder, model = folder_of(tmp_path / "m", config, {}, model_config={"model_type": model_type})
    if refused:
        with pytest.raises(ConvertError, match="add_prefix_space is True, expected false"):
            read_vocab(folder, model, ROWS)
    else:
        assert "tokenizer.json puts none in front" in read_vocab(folder, model, ROWS).notes[0]
    tiny_models.write_json(folder / "tokenizer_config.json", config | {"add_prefix_space": False})
    assert read_vocab(folder, model, ROWS).notes == []


def test_byte_level_with_a_space_in_front_of_its_own_is_refused(tmp_path):
    tokenizer = copy.deepcopy(tiny_tokenizers.byte_level()[0])
    tokenizer["pre_tokenizer"]["add_prefix_space"] = True
    folder, model = folder_of(tmp_path / "m", {}, {}, tokenizer)
    with pytest.raises(ConvertError, match="tokenizer.json: pre_tokenizer.add_prefix_space is True, expected false"):
        read_vocab(folder, model, ROWS)
