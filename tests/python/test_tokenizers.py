"""Ids equal those of Hugging Face's tokenizers built from the same tokenizer.json, for every family that is converted:
over texts that try each rule, over random Unicode and over joins of the vocabulary's pieces and added tokens."""

from __future__ import annotations

import copy
import dataclasses
import itertools

import convert_hf
import livekv
import pytest
import tiny_models
import tiny_tokenizers
from tiny_models import SHAPES

hypothesis = pytest.importorskip("hypothesis")
tokenizers = pytest.importorskip("tokenizers")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

SPM, BYTELEVEL = SHAPES["hd8"], dataclasses.replace(SHAPES["gqa_hd64"], n_vocab=640)
WEIGHTS = {shape.name: tiny_models.weights(shape) for shape in (SPM, BYTELEVEL)}
SPACE = "\u2581"
FLAGS = ("lstrip", "rstrip", "single_word", "normalized")


def metaspace(scheme: str, split: bool) -> dict:
    step = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": split}
    return {"normalizer": None, "pre_tokenizer": step}


def spaces_replaced(*first: dict) -> dict:
    steps = [*first, {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]
    return {"normalizer": {"type": "Sequence", "normalizers": steps}, "pre_tokenizer": None}


SPLIT_AT_SPACES = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
SPM_RULES = {
    "gemma": {"normalizer": spaces_replaced()["normalizer"]["normalizers"][0], "pre_tokenizer": SPLIT_AT_SPACES},
    "prepend": spaces_replaced({"type": "Prepend", "prepend": SPACE}),
    "replace": spaces_replaced(),
    "replace-first": spaces_replaced() | {"pre_tokenizer": metaspace("first", False)["pre_tokenizer"]},
    "always": metaspace("always", False),
    "first": metaspace("first", False),
    "never": metaspace("never", False),
    "always-split": metaspace("always", True),
    "first-split": metaspace("first", True),
}


def with_flags(tokenizer: dict, *more: tuple) -> dict:
    """With an added token of each kind, some of which lie inside or beside each other."""
    tokenizer = copy.deepcopy(tokenizer)
    contents = [
        ("<mask>", True, ("lstrip",)),
        ("<r>", True, ("rstrip",)),
        ("<both>", False, ("lstrip", "rstrip", "normalized")),
        ("foo", False, ("single_word",)),
        ("foot", False, ("single_word", "normalized")),
        ("ot", False, ()),
        ("  ", False, ("normalized",)),
        ("tha", True, ("normalized",)),
        (" s p", False, ("normalized", "rstrip")),
        (f"{SPACE}x", False, ("normalized",)),
        (f"{SPACE}y", False, ()),
        ("\t", False, ("rstrip",)),
        ("\n\n", False, ("normalized", "lstrip")),
        *more,
    ]
    known = [*tokenizer["model"]["vocab"].values(), *(token["id"] for token in tokenizer["added_tokens"])]
    for id_, (content, special, flags) in enumerate(contents, max(known) + 1):
        entry = tiny_tokenizers.added(id_, content, special)
        tokenizer["added_tokens"].append(entry | {flag: True for flag in flags})
    return tokenizer


def families() -> dict[str, tuple]:
    """Name -> (shape, tokenizer.json)."""
    made = {}
    spm, byte_level = tiny_tokenizers.spm_json()[0], tiny_tokenizers.byte_level()[0]
    spm["post_processor"] = None
    # Runs of spaces, whose merges are listed in another order than from the left.
    ids = spm["model"]["vocab"]
    for run in (2, 3, 4):
        ids[SPACE * run] = len(ids)
    spm["model"]["merges"] += [[SPACE * 2, SPACE], [SPACE, SPACE], [SPACE, SPACE * 2], [SPACE * 2, SPACE * 2]]
    for name, rules in SPM_RULES.items():
        made[f"spm-{name}"] = (SPM, spm | rules)
        made[f"spm-{name}-flags"] = (SPM, with_flags(spm | rules))
    # In front of the added tokens: a word that merging does not lead to, and merges of bytes that stand on both sides of
    # where words end, so that another cut gives other ids.
    vocab = byte_level["model"]["vocab"]
    n = len(vocab)
    vocab["ox"] = n
    characters = tiny_tokenizers.byte_characters()
    borders = [characters[byte] for byte in sorted(set("aAb12's/\n =.\u00e9\u00c9\u0301".encode()))]
    for left, right in itertools.product(borders, borders):
        if left + right not in vocab:
            vocab[left + right] = len(vocab)
            byte_level["model"]["merges"].append([left, right])
    byte_level["added_tokens"] = [t | {"id": t["id"] + len(vocab) - n} for t in byte_level["added_tokens"]]
    for name, pre in tiny_tokenizers.PRE_TOKENIZERS.items():
        for ignore in (False, True):
            model = copy.deepcopy(byte_level["model"]) | {"ignore_merges": ignore}
            made[f"{name}{'-ignore' * ignore}"] = (BYTELEVEL, byte_level | {"pre_tokenizer": pre, "model": model})
        made[f"{name}-flags"] = (BYTELEVEL, with_flags(byte_level | {"pre_tokenizer": pre}))
    # As converters of tiktoken's files write it.
    removed = copy.deepcopy(tiny_tokenizers.PRE_TOKENIZERS["gpt-4o"])
    removed["pretokenizers"][0] |= {"behavior": "Removed", "invert": True}
    made["gpt-4o-removed"] = (BYTELEVEL, byte_level | {"pre_tokenizer": removed})
    nfc = {"normalizer": {"type": "NFC"}, "pre_tokenizer": tiny_tokenizers.PRE_TOKENIZERS["qwen2"]}
    made["qwen2-nfc"] = (BYTELEVEL, byte_level | nfc)
    made["qwen2-nfc-flags"] = (BYTELEVEL, with_flags(byte_level | nfc, ("e\u0301", False, ("normalized",))))
    return made


FAMILIES = families()


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    made: dict[str, tuple] = {}

    def of(name: str) -> tuple:
        """(Hugging Face's tokenizer, our model)"""
        if name not in made:
            shape, tokenizer = FAMILIES[name]
            folder = tmp_path_factory.mktemp("tokenizers") / name
            tiny_models.make(folder, shape, WEIGHTS[shape.name])
            tiny_models.write_json(folder / "tokenizer.json", tokenizer)
            convert_hf.convert(folder, folder.with_suffix(".gguf"), "f16")
            theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
            made[name] = theirs, livekv.Model(folder.with_suffix(".gguf"), n_threads=1)
        return made[name]

    return of


def check(pair, name: str, text: str) -> None:
    theirs, ours = pair(name)
    try:
        expected = theirs.encode(text, add_special_tokens=False).ids
    except BaseException as problem:  # tokens that overlap in what they take along make the package panic
        if type(problem).__name__ != "PanicException":
            raise
        return
    assert ours.tokenize(text, add_special=False, parse_special=True) == expected, repr(text)


FIXED = [
    "", " ", "  ", "   ", "    ", "     ", "the and", " the", "  the", "the</s>and", "</s>\nthe", "<s>the", "</s> the", "the <mask> and",
    "the <r>  and", "food", "foo", "foo bar", "a foot", "foot", "the foot,", "a  b", f"the{SPACE}and", SPACE, f"{SPACE}x", f"a{SPACE}x y x",
    " s p  the", "tha that", "\n\n", "a \n\nb", "  <both>  x", " s p\n\nx", "<r>\t x", "<mask><mask>", "<r> <mask>", "ox fox ox", "<unk>", "caf\u00e9 \u4f60\u597d \U0001f600",
    "foo\u0301", "foo\u200d", "foo_", "x foo9", "1234 and 5", "it's\r\n\r\n  they'll", "\u00a0<mask>\u2003", "<0x41>", "the <tag> the<tag>", "a\t\t \t <mask>\t b",
]  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_ids_of_texts_that_try_the_rules(pair, name):
    for text in FIXED:
        check(pair, name, text)


def texts(name: str) -> st.SearchStrategy[str]:
    _, tokenizer = FAMILIES[name]
    pieces = [text.replace("\u0120", " ").replace(SPACE, " ") for text in tokenizer["model"]["vocab"]]
    contents = [token["content"] for token in tokenizer["added_tokens"]]
    marks = [" ", "  ", "\n", "\t", SPACE, "\u00a0", "a", "A", "9", "_", "'s", "/", "\u0301", "\u0323", "\u200d"]
    part = st.one_of(st.sampled_from(pieces), st.sampled_from(contents), st.sampled_from(marks), st.text(max_size=3))
    return st.lists(part, max_size=12).map("".join)


@pytest.mark.parametrize("name", FAMILIES)
def test_ids_of_any_text(pair, name):
    @settings(max_examples=150, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(texts(name))
    def same(text):
        check(pair, name, text)

    same()
