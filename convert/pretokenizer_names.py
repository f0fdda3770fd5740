"""The published pre-tokenizers of byte-level BPE, by what tokenizer.json says, and their names in GGUF files."""

from __future__ import annotations


def _any_of(*alternatives: str) -> str:
    return "|".join(alternatives)


# The expressions are part of the tokenizers' definitions, character for character.
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_MARKS = r" ?[^\s\p{L}\p{N}]+"
_SPACES = r"\s+(?!\S)|\s+"
_LINES = r"\s*[\r\n]+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+"
_CAPITALS = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"

GPT2_SPLIT = _any_of("'s|'t|'re|'ve|'m|'ll|'d", r" ?\p{L}+", r" ?\p{N}+", _MARKS, _SPACES)
GPT2_SPLIT_SHORT = _any_of("'(?:[sdmt]|ll|ve|re)", r" ?\p{L}+", r" ?\p{N}+", _MARKS, _SPACES)
LLAMA3_SPLIT = _any_of(_CONTRACTION, _LETTERS, r"\p{N}{1,3}", _MARKS + r"[\r\n]*", _LINES, _SPACES)
QWEN2_SPLIT = _any_of(_CONTRACTION, _LETTERS, r"\p{N}", _MARKS + r"[\r\n]*", _LINES, _SPACES)
QWEN35_SPLIT = _any_of(
    _CONTRACTION,
    r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",
    r"\p{N}",
    r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
    _LINES,
    _SPACES,
)
SEED_SPLIT = _any_of(_CONTRACTION, _LETTERS, r"\p{N}{1}", r" ?[^\s\p{L}\p{N}\r\n]+", _LINES, _SPACES)
TEKKEN_SPLIT = _any_of(_CASED, _CAPITALS, r"\p{N}", _MARKS + r"[\r\n/]*", _LINES, _SPACES)
GPT4O_SPLIT = _any_of(
    f"{_CASED}{_CONTRACTION}?",
    f"{_CAPITALS}{_CONTRACTION}?",
    r"\p{N}{1,3}",
    _MARKS + r"[\r\n/]*",
    _LINES,
    _SPACES,
)
DEEPSEEK_CODER_SPLITS = r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"

# Steps of the pre-tokenizer -> tokenizer.ggml.pre. The ByteLevel step splits like GPT-2 unless told not to.
PRE_NAMES = {
    (("ByteLevel", True),): "gpt-2",
    (("Split", GPT2_SPLIT), ("ByteLevel", False)): "gpt-2",
    (("Split", GPT2_SPLIT_SHORT), ("ByteLevel", False)): "gpt-2",
    (("Split", LLAMA3_SPLIT), ("ByteLevel", False)): "llama-bpe",
    (("Split", QWEN2_SPLIT), ("ByteLevel", False)): "qwen2",
    (("Split", QWEN35_SPLIT), ("ByteLevel", False)): "qwen35",
    (("Split", TEKKEN_SPLIT), ("ByteLevel", False)): "tekken",
    (("Split", GPT4O_SPLIT), ("ByteLevel", False)): "gpt-4o",
    (("Split", SEED_SPLIT), ("ByteLevel", False)): "seed-coder",
    (*(("Split", e) for e in DEEPSEEK_CODER_SPLITS), ("Digits", True), ("ByteLevel", False)): "deepseek-coder",
    (("Digits", True), ("ByteLevel", True)): "smollm",
}
