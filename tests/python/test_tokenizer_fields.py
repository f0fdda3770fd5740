"""Fields of the tokenizer's files that are null or of another type: the folder is converted, or refused in one line."""

from __future__ import annotations

import copy
import json

import pytest
import tiny_models
import tiny_tokenizers
from convert_error import ConvertError
from gguf import GGUFWriter
from hf_tokenizer import read_vocab
from tiny_models import SHAPES

VALUES = (None, [], ["x"], [None], {}, {"x": 1}, {"x": None}, "x", "", "\ud800", 3, -1, 2.5, True)
MANY = 8  # of more entries than this, the first and the last stand for all


def spm_files() -> dict[str, dict]:
    tokenizer, config = tiny_tokenizers.spm_json()
    config |= {
        "add_bos_token": True,
        "added_tokens_decoder": {"0": tiny_tokenizers.added(0, "<unk>")},
        "chat_template": [{"name": "default", "template": "{{ messages }}"}],
        "eos_token": {"content": "</s>", "lstrip": False},
        "add_prefix_space": True,
        "legacy": False,
    }
    return {
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": config,
        "special_tokens_map.json": {"pad_token": {"content": "<unk>"}, "eos_token": "</s>", "image_token": "<x>"},
        "generation_config.json": {"eos_token_id": [2, 7]},
    }


def byte_level_files() -> dict[str, dict]:
    tokenizer, config = tiny_tokenizers.byte_level()
    n = len(tokenizer["model"]["vocab"])
    template = {"type": "Sequence", "processors": [{"type": "ByteLevel"}, tiny_tokenizers.bos_template("<s>", n)]}
    tokenizer |= {"pre_tokenizer": tiny_tokenizers.LLAMA3_PRE, "post_processor": template}
    more = {"chat_template": {"default": "{{ x }}"}, "extra_special_tokens": {"image_token": "<x>"}}
    special = {"additional_special_tokens": ["<x>", {"__type": "AddedToken", "content": "<y>", "special": True}]}
    return {
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": config | more,
        "special_tokens_map.json": special,
    }


def slow_files() -> dict[str, dict]:
    """Beside a tokenizer.model: what slow tokenizers keep."""
    entry = {"content": "<tag>", "lstrip": True, "normalized": False, "special": False}
    config = {"legacy": True, "add_prefix_space": True, "added_tokens_decoder": {"300": entry}}
    return {"tokenizer_config.json": config}


def slow_files_before() -> dict[str, dict]:
    return {"added_tokens.json": {"<tag>": 300}, "tokenizer_config.json": {"tokenizer_class": "LlamaTokenizer"}}


FOLDERS = {
    "spm": (SHAPES["hd8"], spm_files),
    "bytelevel": (SHAPES["gqa_hd64"], byte_level_files),
    "slow": (SHAPES["hd8"], slow_files),
    "slow-before": (SHAPES["hd8"], slow_files_before),
}


def places(data: object, path: tuple = ()) -> list[tuple]:
    """The way to every value of a JSON file, the whole of it included."""
    found = [path]
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    keys = [key for key, _ in items]
    for key in keys if len(keys) <= MANY else (keys[0], keys[-1]):
        found += places(data[key], (*path, key))
    return found


def replaced(data: object, path: tuple, value: object) -> object:
    if not path:
        return value
    data = copy.deepcopy(data)
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return data


@pytest.fixture(scope="module")
def sentencepiece_model() -> bytes:
    proto = pytest.importorskip("sentencepiece.sentencepiece_model_pb2").ModelProto()
    proto.trainer_spec.model_type = proto.trainer_spec.BPE
    for text, score, type_ in tiny_tokenizers.spm_pieces():
        proto.pieces.add(piece=text, score=score, type=type_)
    return proto.SerializeToString()


@pytest.mark.parametrize("name", FOLDERS)
def test_a_field_of_another_type_is_one_line(tmp_path, sentencepiece_model, name):
    shape, make = FOLDERS[name]
    files = make()
    for file, data in files.items():
        tiny_models.write_json(tmp_path / file, data)
    if "tokenizer.json" not in files:
        (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model)
    config = tiny_models.config(shape)
    wrong, n_refused, n_read = [], 0, 0
    for file, data in files.items():
        for path in places(data):
            for value in VALUES:
                (tmp_path / file).write_text(json.dumps(replaced(data, path, value)))
                try:
                    read_vocab(tmp_path, config, shape.n_vocab).write(GGUFWriter(None, "llama"))
                    n_read += 1
                except ConvertError as refused:
                    n_refused += 1
                    if "\n" in str(refused):
                        wrong.append((file, path, value, str(refused)))
                except Exception as problem:
                    wrong.append((file, path, value, f"{type(problem).__name__}: {problem}"))
        tiny_models.write_json(tmp_path / file, data)
    assert not wrong, "\n".join(map(str, wrong[:20]))
    assert n_refused > 10 and n_read > 10
