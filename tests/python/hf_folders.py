"""Folders of tokenizer files, in every combination that AutoTokenizer of transformers 5 tells apart."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import tiny_tokenizers
from hypothesis import strategies as st

METASPACE = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
BYTE_LEVEL, SPM = tiny_tokenizers.byte_level()[0], tiny_tokenizers.spm_json()[0] | {"post_processor": None}
TOKENIZERS = {
    "byte-level": BYTE_LEVEL,
    "llama-3": BYTE_LEVEL | {"pre_tokenizer": tiny_tokenizers.LLAMA3_PRE, "normalizer": {"type": "NFC"}},
    "prepends": SPM,
    "metaspace": SPM | {"normalizer": None, "pre_tokenizer": METASPACE},
}
MODEL_TYPES = ("llama", "llama", "llama", "qwen2", "qwen3", "gemma3_text", "mistral", "phi3")
SPM_CLASSES = ("LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer", "GemmaTokenizer")
BYTE_LEVEL_CLASSES = ("GPT2Tokenizer", "Qwen2TokenizerFast", "GPTNeoXTokenizer", "CodeGenTokenizer", "Qwen3_5Tokenizer")
WHOLE = ("PreTrainedTokenizerFast", "TokenizersBackend", "NoSuchTokenizer")
# What files may name: tokens of every list, words of a vocabulary, and some that only the names have.
CONTENTS = ("<s>", "</s>", "<unk>", "<tag>", "<x>", "<y>", "<|endoftext|>", "the", "\u2581and", "\u0120and", "!", "t", "<0x41>")
FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")
NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "mask_token", "image_token", "prefix_token")

contents = st.sampled_from(CONTENTS)
flags = st.dictionaries(st.sampled_from(FLAGS), st.booleans(), max_size=3)
typed = st.builds(lambda content, more: {"__type": "AddedToken", "content": content, **more}, contents, flags)
in_map = st.builds(lambda content, more: {"content": content, **more}, contents, flags)


def maybe(strategy: st.SearchStrategy, key: str, often: int = 1) -> st.SearchStrategy[dict]:
    """An object with the key, or without: so many times to one."""
    return st.one_of(st.just({}), *[strategy.map(lambda value: {key: value})] * often)


def merged(*parts: st.SearchStrategy[dict]) -> st.SearchStrategy[dict]:
    return st.tuples(*parts).map(lambda dicts: {key: value for part in dicts for key, value in part.items()})


@st.composite
def tokenizer_configs(draw, classes: tuple[str, ...]) -> dict:
    value = st.one_of(st.none(), contents, typed)
    named = st.dictionaries(st.sampled_from(NAMES), value, max_size=4)
    lists = st.lists(st.one_of(contents, typed), max_size=3)
    ids = st.integers(255, 330).map(str)
    decoder = st.dictionaries(ids, st.builds(lambda c, more: {"content": c, **more}, contents, flags), max_size=4)
    return draw(
        merged(
            maybe(st.sampled_from(classes), "tokenizer_class", 6),
            maybe(st.sampled_from((None, True, False)), "add_prefix_space"),
            maybe(st.sampled_from((None, True, False)), "legacy"),
            named,
            maybe(st.one_of(st.none(), lists, st.dictionaries(st.sampled_from("ab"), contents)), "extra_special_tokens"),
            maybe(st.one_of(st.none(), lists), "additional_special_tokens"),
            maybe(st.dictionaries(st.sampled_from("ab"), st.one_of(contents, typed)), "model_specific_special_tokens"),
            maybe(decoder, "added_tokens_decoder"),
            maybe(st.just(False), "split_special_tokens"),
        )
    )


@st.composite
def tokenizers(draw, name: str) -> dict:
    """With more added tokens: two may have one content, and flags of every kind."""
    tokenizer = copy.deepcopy(TOKENIZERS[name])
    entries = draw(st.lists(st.tuples(contents, flags), max_size=4))
    next_id = max(*tokenizer["model"]["vocab"].values(), *(token["id"] for token in tokenizer["added_tokens"])) + 1
    ids = tokenizer["model"]["vocab"] | {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    for content, more in entries:
        id_ = ids.setdefault(content, next_id)
        next_id += id_ == next_id
        tokenizer["added_tokens"].append(tiny_tokenizers.added(id_, content) | more)
    if draw(st.integers(0, 4)) == 0:
        tokenizer["padding"] = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None}
        tokenizer["padding"] |= {"pad_id": 0, "pad_type_id": 0, "pad_token": draw(contents)}
    return tokenizer


@st.composite
def folders(draw, sentencepiece_model: bytes | None) -> dict[str, bytes]:
    """File name -> what it holds."""
    kind = draw(st.sampled_from((*TOKENIZERS, "model", "prepends and model", "byte-level and model")))
    if sentencepiece_model is None:
        kind = kind.removesuffix(" and model") if kind != "model" else "prepends"
    is_byte_level = kind.startswith(("byte-level", "llama-3"))
    classes = WHOLE + (BYTE_LEVEL_CLASSES + SPM_CLASSES[:2] if is_byte_level else SPM_CLASSES)
    config = draw(tokenizer_configs(classes))
    model_types = MODEL_TYPES if is_byte_level else (*MODEL_TYPES[:3], *MODEL_TYPES[5:])
    files: dict = {"config.json": {"model_type": draw(st.sampled_from(model_types))}, "tokenizer_config.json": config}
    if config.get("tokenizer_class") in SPM_CLASSES + BYTE_LEVEL_CLASSES and draw(st.integers(0, 5)) == 0:
        config["auto_map"] = {"AutoTokenizer": ["code.Slow", None]}  # which is not run where the class is known
    elif config.get("tokenizer_class", "NoSuchTokenizer") != "NoSuchTokenizer" and draw(st.integers(0, 5)) == 0:
        files["config.json"]["tokenizer_class"] = config.pop("tokenizer_class")
    if kind != "model":
        files["tokenizer.json"] = draw(tokenizers(kind.removesuffix(" and model")))
    value = st.one_of(st.none(), contents, in_map)
    special_map = merged(
        st.dictionaries(st.sampled_from(NAMES), value, max_size=3),
        maybe(st.one_of(st.lists(st.one_of(contents, in_map), max_size=3)), "extra_special_tokens"),
        maybe(st.lists(contents, max_size=3), "additional_special_tokens"),
    )
    files |= draw(maybe(special_map, "special_tokens_map.json"))
    added = st.dictionaries(contents, st.integers(255, 330), max_size=4)
    files |= draw(maybe(added, "added_tokens.json"))
    written = {name: json.dumps(data).encode() for name, data in files.items()}
    if "model" in kind:
        written["tokenizer.model"] = sentencepiece_model
    return written


def sentencepiece_model(pieces: list[tuple[str, float, int]] | None = None, byte_fallback: bool = True) -> bytes:
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    proto = ModelProto()
    proto.trainer_spec.model_type = proto.trainer_spec.BPE
    proto.trainer_spec.byte_fallback = byte_fallback
    proto.normalizer_spec.remove_extra_whitespaces = False
    for text, score, type_ in pieces or tiny_tokenizers.spm_pieces():
        proto.pieces.add(piece=text, score=score, type=type_)
    return proto.SerializeToString()


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder
