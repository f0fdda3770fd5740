"""Byte-level BPE from tokenizer.json: tokens, merges, and the name of the regular expression that splits the text."""

from __future__ import annotations

import json

from gguf import TokenType

from convert_error import ConvertError
from hf_vocab import Vocab

# The published expressions, which are part of the tokenizers' definitions.
GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
GPT2_SPLIT_SHORT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)

# Steps of the pre-tokenizer -> tokenizer.ggml.pre. The ByteLevel step splits like GPT-2 unless told not to.
PRE_NAMES = {
    (("ByteLevel", True),): "gpt-2",
    (("Split", GPT2_SPLIT), ("ByteLevel", False)): "gpt-2",
    (("Split", GPT2_SPLIT_SHORT), ("ByteLevel", False)): "gpt-2",
    (("Split", LLAMA3_SPLIT), ("ByteLevel", False)): "llama-bpe",
    (("Digits", True), ("ByteLevel", True)): "smollm",
}


def steps_of(component: dict | None, list_key: str) -> list[dict]:
    """A normalizer, pre-tokenizer or decoder as a flat list, whether it is one step or a Sequence."""
    if not component:
        return []
    if component.get("type") != "Sequence":
        return [component]
    return [step for part in component[list_key] for step in steps_of(part, list_key)]


def is_byte_level(tokenizer: dict) -> bool:
    steps = steps_of(tokenizer.get("pre_tokenizer"), "pretokenizers") + steps_of(tokenizer.get("decoder"), "decoders")
    return any(step.get("type") == "ByteLevel" for step in steps)


def pre_name(tokenizer: dict) -> str:
    steps = steps_of(tokenizer.get("pre_tokenizer"), "pretokenizers")
    name = PRE_NAMES.get(tuple(_describe(step) for step in steps))
    if name is None:
        found = json.dumps(tokenizer.get("pre_tokenizer"), ensure_ascii=False)
        known = ", ".join(sorted(set(PRE_NAMES.values())))
        raise ConvertError(f"unknown pre_tokenizer (known are those of {known}): {found}")
    return name


def _describe(step: dict) -> tuple:
    kind = step.get("type")
    if kind == "ByteLevel" and not step.get("add_prefix_space", True):
        return kind, step.get("use_regex", True)
    if kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
        return kind, step.get("pattern", {}).get("Regex")
    if kind == "Digits":
        return kind, step.get("individual_digits", False)
    return kind, None


def merge_pairs(model: dict) -> list[tuple[str, str]]:
    """Merges, best first; tokenizer.json has them as "left right" or, newer, as [left, right]."""
    pairs = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in model.get("merges", [])]
    broken = next((pair for pair in pairs if len(pair) != 2), None)
    if broken is not None:
        raise ConvertError(f"tokenizer.json has a merge that is no pair: {broken}")
    return pairs


def read_byte_level(tokenizer: dict, n_vocab: int) -> Vocab:
    model = tokenizer["model"]
    if model.get("type") != "BPE":
        raise ConvertError(f"byte-level tokenizer of type {model.get('type')} is not supported (BPE is)")
    normalizers = [step["type"] for step in steps_of(tokenizer.get("normalizer"), "normalizers")]
    if normalizers:
        raise ConvertError(f"byte-level BPE with the normalizer {', '.join(normalizers)} is not supported")
    pre = pre_name(tokenizer)
    if model.get("ignore_merges") and pre != "llama-bpe":
        raise ConvertError(f"ignore_merges is not supported with the pre_tokenizer of {pre}")
    vocab = Vocab("gpt2", pre, n_vocab)
    for text, id_ in model["vocab"].items():
        vocab.put(id_, text, TokenType.NORMAL)
    vocab.merges = [f"{left} {right}" for left, right in merge_pairs(model)]
    return vocab
