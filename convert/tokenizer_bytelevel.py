"""Byte-level BPE from tokenizer.json: tokens, merges, and the name of the expressions that split the text."""

from __future__ import annotations

import json

from gguf import TokenType

from convert_error import ConvertError
from hf_vocab import Vocab
from json_fields import Fields
from pretokenizer_names import PRE_NAMES

LIST_KEYS = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}


def steps_of(tokenizer: Fields, component: str) -> list[Fields]:
    """A normalizer, pre_tokenizer or decoder as a flat list, whether it is one step or a Sequence."""
    step = tokenizer.object(component)
    return _flat(step, LIST_KEYS[component]) if step else []


def _flat(step: Fields, list_key: str) -> list[Fields]:
    if step.text("type") != "Sequence":
        return [step]
    return [inner for part in step.objects(list_key) for inner in _flat(part, list_key)]


def is_byte_level(tokenizer: Fields) -> bool:
    steps = steps_of(tokenizer, "pre_tokenizer") + steps_of(tokenizer, "decoder")
    return any(step.text("type") == "ByteLevel" for step in steps)


def pre_name(tokenizer: Fields) -> str:
    steps = steps_of(tokenizer, "pre_tokenizer")
    for step in steps:
        if step.text("type") == "ByteLevel" and step.flag("add_prefix_space", True):
            raise ConvertError(f"{step.wrong('add_prefix_space', 'false')}; no space is put in front")
    name = PRE_NAMES.get(tuple(_describe(step) for step in steps))
    if name is None:
        found = json.dumps(tokenizer.data.get("pre_tokenizer"), ensure_ascii=False)
        known = ", ".join(sorted(set(PRE_NAMES.values())))
        raise ConvertError(f"unknown pre_tokenizer (known are those of {known}): {found}")
    return name


def _describe(step: Fields) -> tuple:
    kind = step.text("type")
    if kind == "ByteLevel":
        return kind, step.flag("use_regex", True)
    if kind == "Split":
        pattern = step.object("pattern")
        # Line ends stand in some files as they are, in others as escapes.
        expression = ((pattern.text("Regex") if pattern else None) or "").replace("\r", r"\r").replace("\n", r"\n")
        isolated = step.text("behavior") == "Isolated" and not step.flag("invert")
        # What the expression does not match is removed: nothing, by those that end in any white space.
        removed = step.text("behavior") == "Removed" and step.flag("invert") and expression.endswith(r"|\s+")
        return kind, expression if isolated or removed else None
    if kind == "Digits":
        return kind, step.flag("individual_digits", False)
    return kind, None


def bpe_model(tokenizer: Fields) -> Fields:
    """The model, with only what a GGUF can carry."""
    model = tokenizer.object("model")
    if model is None:
        raise tokenizer.wrong("model", "an object")
    # Without a type it is recognized by its fields, as older files are.
    if model.text("type", "BPE") != "BPE":
        raise ConvertError(f"tokenizer.json of type {model.text('type')} is not supported (BPE is)")
    if model.number("dropout"):
        raise ConvertError("a tokenizer with dropout gives other tokens each time; dropout must be null")
    for affix in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.text(affix):
            raise ConvertError(f"tokenizer.json: {affix} '{model.text(affix)}' is not supported")
    return model


def vocabulary(model: Fields) -> dict[str, int]:
    """Text -> id."""
    entries = model.object("vocab")
    if entries is None:
        raise model.wrong("vocab", "an object")
    return {text: entries.required_integer(text) for text in entries.data}


def merge_pairs(model: Fields, vocab: dict[str, int]) -> list[tuple[str, str]]:
    """Merges, best first; tokenizer.json has them as "left right" or, newer, as [left, right]."""
    pairs = []
    for i, merge in enumerate(model.list("merges") or []):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(side, str) for side in pair):
            raise ConvertError(f"tokenizer.json has a merge that is no pair: {merge!r}")
        missing = next((text for text in (*pair, "".join(pair)) if text not in vocab), None)
        if missing is not None:
            raise ConvertError(f"tokenizer.json: merge {i} needs the token {missing!r}, which the vocabulary lacks")
        pairs.append((pair[0], pair[1]))
    return pairs


def byte_characters() -> list[str]:
    """What stands for each byte in a token: GPT-2's alphabet, itself where it prints, else the next from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def read_byte_level(tokenizer: Fields, n_vocab: int) -> Vocab:
    model = bpe_model(tokenizer)
    normalizers = [step.text("type") or "?" for step in steps_of(tokenizer, "normalizer")]
    if normalizers not in ([], ["NFC"]):
        raise ConvertError(
            f"byte-level BPE with the normalizer {', '.join(normalizers)} is not supported (NFC alone is)"
        )
    vocab = Vocab("gpt2", pre_name(tokenizer), n_vocab)
    vocab.normalizes_nfc = bool(normalizers)
    vocab.ignore_merges = bool(model.flag("ignore_merges"))
    texts = vocabulary(model)
    vocab.unk = texts.get(model.text("unk_token"))
    for text, id_ in texts.items():
        vocab.put(id_, text, TokenType.NORMAL)
    vocab.merges = [f"{left} {right}" for left, right in merge_pairs(model, texts)]
    if not vocab.merges:
        raise model.wrong("merges", "at least one merge, without which the engine takes no byte-level vocabulary")
    return vocab
