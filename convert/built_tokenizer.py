"""The tokenizers that classes of transformers 5 build from a vocabulary and merges alone.

Such a class takes no rule for texts from tokenizer.json, only what is put around them. What it builds is written here
as the tokenizer.json that it would save, so that both kinds are read in one way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from convert_error import ConvertError
from json_fields import Fields
from pretokenizer_names import QWEN2_SPLIT, QWEN35_SPLIT

SPACE = "\u2581"
REPLACED_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
END = "<|endoftext|>"
NFC = {"type": "NFC"}


@dataclass(frozen=True)
class BuiltClass:
    """The special tokens that it has where no file names them, and what it makes of a configuration."""

    names: dict[str, str | None]
    rules: Callable[[Fields], dict]  # tokenizer_config.json -> normalizer, pre_tokenizer and flags of the model
    byte_level: bool = True
    has_unknown: bool = False  # its model gives the unk token for what is no token; others drop that
    extra: tuple[str, ...] = ()  # of `names`, those that are listed without a name too
    adds_twice: bool = False  # all special tokens again in the end, without flags
    around: tuple[bool, bool] | None = None  # whether bos and eos are added, whatever tokenizer.json says


def _llama(config: Fields) -> dict:
    behind_special = config.flag("legacy", False)
    return _metaspace(config, "always" if behind_special else "first")


def _code_llama(config: Fields) -> dict:
    return _metaspace(config, "first")


def _metaspace(config: Fields, scheme: str) -> dict:
    if not config.flag("add_prefix_space", True):
        scheme = "never"
    step = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": False}
    return {"pre_tokenizer": step, "fuse_unk": True, "byte_fallback": True}


def _gemma(_: Fields) -> dict:
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    return {"normalizer": REPLACED_SPACES, "pre_tokenizer": split, "fuse_unk": True, "byte_fallback": True}


def _bytes(config: Fields, **more: object) -> dict:
    if config.flag("add_prefix_space"):
        raise ConvertError(
            f"{config.wrong('add_prefix_space', 'false')}: the tokenizer's class puts a space in front of texts, which "
            "is not supported for byte-level BPE"
        )
    return {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True, **more}


def _gpt2(config: Fields) -> dict:
    return {"pre_tokenizer": _bytes(config)}


def _split(expression: str) -> Callable[[Fields], dict]:
    def rules(config: Fields) -> dict:
        split = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
        steps = [split, _bytes(config, use_regex=False)]
        return {"normalizer": NFC, "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}}

    return rules


def _names(unk: str, bos: str | None, eos: str, **more: str | None) -> dict[str, str | None]:
    given = {"unk": unk, "bos": bos, "eos": eos, **more}
    return {f"{kind}_token": text for kind, text in given.items()}


_INFILL = {"prefix": "\u2581<PRE>", "middle": "\u2581<MID>", "suffix": "\u2581<SUF>", "eot": "\u2581<EOT>"}
_INFILL |= {"fill": "<FILL_ME>"}

CLASSES = {
    "LlamaTokenizer": BuiltClass(_names("<unk>", "<s>", "</s>"), _llama, byte_level=False),
    "CodeLlamaTokenizer": BuiltClass(
        _names("<unk>", "<s>", "</s>", **_INFILL),
        _code_llama,
        byte_level=False,
        has_unknown=True,
        extra=tuple(f"{kind}_token" for kind in _INFILL),
        around=(True, False),
    ),
    "GemmaTokenizer": BuiltClass(
        _names("<unk>", "<bos>", "<eos>", pad="<pad>", mask="<mask>"), _gemma, byte_level=False, has_unknown=True
    ),
    "GPT2Tokenizer": BuiltClass(_names(END, END, END, pad=None), _gpt2),
    "CodeGenTokenizer": BuiltClass(_names(END, END, END, pad=None), _gpt2),
    "GPTNeoXTokenizer": BuiltClass(
        _names(END, END, END, pad="<|padding|>"),
        lambda config: {"normalizer": NFC, "pre_tokenizer": _bytes(config)},
        around=(False, False),
    ),
    "Qwen2Tokenizer": BuiltClass(_names(END, None, END, pad=END), _split(QWEN2_SPLIT), adds_twice=True),
    "Qwen3_5Tokenizer": BuiltClass(_names(END, None, END, pad=END), _split(QWEN35_SPLIT)),
}


def built(kind: BuiltClass, tokenizer: Fields, tokenizer_config: Fields, unk: str | None) -> Fields:
    """The tokenizer.json of what the class builds from the vocabulary and merges of another. unk: the unk token."""
    model = tokenizer.object("model")
    if model is None:
        raise tokenizer.wrong("model", "an object")
    kept = {key: model.data[key] for key in ("type", "vocab", "merges") if key in model.data}
    rules = kind.rules(tokenizer_config)
    flags = {key: rules.pop(key) for key in ("fuse_unk", "byte_fallback") if key in rules}
    flags["unk_token"] = unk if kind.has_unknown else None
    rules = {"normalizer": None, "decoder": None, **rules, "model": kept | flags}
    return Fields(tokenizer.data | rules, tokenizer.file)
