"""config.json and the files beside the weights: whatever stands in them, a conversion works or ends in one line."""

from __future__ import annotations

import dataclasses
import json
import re

import config_keys
import convert_hf
import hf_config
import hf_rope
import numpy as np
import pytest
import tensor_plan
import tiny_models
from conftest import ROOT
from families import FAMILIES
from gguf import GGUFReader
from hf_checkpoint import read_json
from tiny_models import SHAPES

SMALL = dataclasses.replace(SHAPES["gqa_hd64"], n_layer=1)
ODD_VALUES = (None, True, False, [], [1], {}, {"a": 1}, "", "text", 0, 1, -3, 7, 2.5, 1e300, 10**400, float("nan"))


@pytest.fixture
def folder(tmp_path):
    return tiny_models.make(tmp_path / "m", SMALL)


def edit(path, key, value):
    content = json.loads(path.read_text(encoding="utf-8"))
    content[key] = value
    tiny_models.write_json(path, content)


def convert(folder, capsys, type_name="f32") -> tuple[int, list[str]]:
    """The exit status and the lines on stderr that are no notes; a traceback is an exception here."""
    status = convert_hf.main([str(folder), str(folder) + ".gguf", "--type", type_name])
    lines = capsys.readouterr().err.splitlines()
    return status, [line for line in lines if not line.startswith("note: ")]


def assert_converts_or_says_why(folder, capsys, what) -> None:
    status, lines = convert(folder, capsys)
    assert (status, len(lines)) in ((0, 0), (1, 1)), (what, status, lines)
    if status == 1:
        assert lines[0].startswith("convert_hf: ") and len(lines[0]) < 300, (what, lines)


READ = sorted(config_keys.USED | config_keys.OFF | config_keys.EMPTY | config_keys.ONE)
READ += [*config_keys.TEXTS, *config_keys.COMPUTED]
# The tokenizer's; test_convert_tokenizer.py has them.
READ = [key for key in READ if not key.endswith("_token_id")]


@pytest.mark.parametrize("key", [*READ, "no_rope_layers", "unheard_of"])
def test_any_value_of_a_config_key_is_converted_or_refused_in_one_line(folder, capsys, key):
    original = (folder / "config.json").read_text()
    for architecture in FAMILIES:
        for value in ODD_VALUES:
            (folder / "config.json").write_text(original)
            edit(folder / "config.json", "architectures", [architecture])
            edit(folder / "config.json", key, value)
            assert_converts_or_says_why(folder, capsys, (architecture, key, value))


ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
ROPE["original_max_position_embeddings"] = 32


@pytest.mark.parametrize("name", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("key", [*hf_rope.USED, "full_attention"])
def test_any_value_of_a_scaling_key_is_converted_or_refused_in_one_line(folder, capsys, name, key):
    for kind in ("llama3", "linear"):
        for value in ODD_VALUES:
            edit(folder / "config.json", name, ROPE | {"rope_type": kind, key: value})
            assert_converts_or_says_why(folder, capsys, (kind, key, value))


@pytest.mark.parametrize("value", ODD_VALUES)
def test_any_value_in_an_index_is_converted_or_refused_in_one_line(tmp_path, capsys, value):
    source = tiny_models.weights(SMALL)
    folder = tiny_models.make(tmp_path / "m", SMALL, {})
    tiny_models.save_shards(folder, source, 2)
    index = folder / "model.safetensors.index.json"
    original = index.read_text()
    for key in ("metadata", "weight_map"):
        index.write_text(original)
        edit(index, key, value)
        assert_converts_or_says_why(folder, capsys, (key, value))
    files = json.loads(original)["weight_map"]
    for name in ("lm_head.weight", "one.too.many"):
        index.write_text(original)
        edit(index, "weight_map", files | {name: value})
        assert convert(folder, capsys)[0] == 1


@pytest.mark.parametrize("value", ODD_VALUES)
def test_any_value_in_a_safetensors_header_is_converted_or_refused_in_one_line(folder, capsys, value):
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:end])

    def store(changed) -> None:
        text = json.dumps(changed).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + raw[end:])

    store(value)
    assert convert(folder, capsys)[0] == 1
    store(header | {"__metadata__": value})
    assert convert(folder, capsys)[0] == 0
    store(header | {"lm_head.weight": value})
    assert convert(folder, capsys)[0] == 1
    for key in ("dtype", "shape", "data_offsets"):
        store(header | {"lm_head.weight": header["lm_head.weight"] | {key: value}})
        assert_converts_or_says_why(folder, capsys, (key, value))
        store(header | {"lm_head.weight": header["lm_head.weight"] | {key: [value, value]}})
        assert_converts_or_says_why(folder, capsys, (key, [value, value]))


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a": ' + "9" * 5000 + "}", "\ufeff{}", "[]", "", "\x00", '{"a'])
def test_files_that_are_no_json_object_are_refused_in_one_line(folder, capsys, text):
    (folder / "config.json").write_text(text, encoding="utf-8")
    assert convert(folder, capsys)[0] == 1
    (folder / "config.json").write_bytes(b"\xff\xfe")
    assert_converts_or_says_why(folder, capsys, text)


@pytest.mark.parametrize(
    "key, neutral, other",
    [
        ("logits_scaling", 1.0, 8.0),
        ("embedding_multiplier", 1, 12),
        ("residual_multiplier", 1.0, 0.22),
        ("attention_multiplier", 0.125, 0.015625),
        ("query_pre_attn_scalar", 64, 256),
        ("scale_depth", 1.0, 1.4),
        ("dim_model_base", 128, 256),
        ("num_local_experts", 0, 8),
        ("clip_qkv", None, 8.0),
        ("final_logit_softcapping", None, 30.0),
        ("use_qk_norm", False, True),
        ("hidden_act", "swish", "gelu"),
        ("hidden_activation", "silu", "gelu_pytorch_tanh"),
        ("no_rope_layers", [1, 1], [1, 0]),
        ("layer_types", ["full_attention"], ["linear_attention"]),
        ("layer_types", ["full_attention"], ["sliding_attention"]),
        ("layer_types", ["full_attention"], ["full_attention"] * 2),
        ("partial_rotary_factor", None, 0.5),
        ("per_layer_config", {}, {"0": {"intermediate_size": 64}}),
        ("kv_sharing_modes", [], ["reuse"]),
        ("transformers_weights", None, "other.safetensors"),
        ("model_type", "llama", "granite"),
        ("pretraining_tp", 2, None),
    ],
)
def test_keys_that_change_the_predictions_are_refused_unless_neutral(folder, capsys, key, neutral, other):
    edit(folder / "config.json", key, neutral)
    assert convert(folder, capsys) == (0, [])
    if other is not None:
        edit(folder / "config.json", key, other)
        status, lines = convert(folder, capsys)
        assert status == 1 and key in lines[0]


def test_unknown_keys_are_said(folder, capsys):
    edit(folder / "config.json", "future_gate", 3)
    assert convert_hf.main([str(folder), str(folder) + ".gguf"]) == 0
    assert "note: config.json has keys that are not known and not read: future_gate" in capsys.readouterr().err


def test_a_null_count_of_key_value_heads_means_the_heads_and_mistral_without_it_has_eight(folder, capsys):
    config = read_json(folder / "config.json") | {"num_attention_heads": 16, "architectures": ["MistralForCausalLM"]}
    assert hf_config.read_hparams(config | {"num_key_value_heads": None}).n_head_kv == 16
    del config["num_key_value_heads"]
    assert hf_config.read_hparams(config).n_head_kv == 8


def test_a_window_that_is_switched_off_cuts_nothing(folder):
    config = read_json(folder / "config.json") | {"sliding_window": 64, "architectures": ["MistralForCausalLM"]}
    assert hf_config.read_hparams(config).n_ctx == 64
    assert hf_config.read_hparams(config | {"use_sliding_window": False}).n_ctx == 512


def test_a_window_that_the_class_has_not_is_told_and_cuts_nothing(folder):
    config = read_json(folder / "config.json") | {"sliding_window": 64, "architectures": ["LlamaForCausalLM"]}
    hparams = hf_config.read_hparams(config)
    assert hparams.n_ctx == 512
    assert hparams.notes == ["sliding_window is not read, as in transformers: the class has none"]


# At, just inside and just outside what a float32, a uint32 and the engine can hold.
EDGES = (1e-320, 1e-46, 1e-45, 1e-39, 1e-38, 1.2e-38, 0.99999999, 0.9999999, 3.4e38, 3.5e38, 2**32 - 1, 2**32, 8, 64)
NUMBERS = ("rms_norm_eps", "rope_theta", "max_position_embeddings", "head_dim", "sliding_window")


@pytest.mark.parametrize("key", [*NUMBERS, "factor", "low_freq_factor", "original_max_position_embeddings"])
def test_what_is_converted_loads(livekv, folder, capsys, key):
    n_loaded = 0
    for value in (*ODD_VALUES, *EDGES):
        for kind in ("linear", "llama3"):
            config = tiny_models.config(SMALL) | {"rope_scaling": ROPE | {"rope_type": kind}}
            (config if key in NUMBERS else config["rope_scaling"])[key] = value
            tiny_models.write_json(folder / "config.json", config)
            if convert(folder, capsys)[0] == 0:
                session = livekv.Model(str(folder) + ".gguf", n_threads=1).session(n_ctx=1)
                assert np.isfinite(session.eval([5])).all(), (key, value, kind)
                n_loaded += 1
    assert n_loaded > 0


LIMITS = {
    "max_layers": "MAX_LAYERS",
    "max_width": "MAX_WIDTH",
    "max_vocab": "MAX_VOCAB",
    "max_head_dim": "MAX_HEAD_DIM",
}


def test_limits_are_the_engines():
    model = ROOT / "engine" / "model"
    names = ("hparams.h", "hparams.cpp", "arch/common_shape.cpp")
    source = "".join((model / name).read_text() for name in names)
    for name, value in re.findall(r"constexpr uint32_t (max_\w+) = (.*);", source):
        base, _, shift = value.partition(" << ")
        assert getattr(hf_config, LIMITS.pop(name)) == int(base) << int(shift or 0), name
    assert not LIMITS
    assert f"head_dim_unit = {hf_config.HEAD_DIM_UNIT};" in source
    precheck = (model / "gguf_precheck.cpp").read_text()
    assert f"max_names = {tensor_plan.MAX_TENSORS};" in precheck


@pytest.mark.parametrize(
    "key, most",
    [
        ("num_hidden_layers", hf_config.MAX_LAYERS),
        ("hidden_size", hf_config.MAX_WIDTH),
        ("intermediate_size", hf_config.MAX_WIDTH),
        ("vocab_size", hf_config.MAX_VOCAB),
        ("max_position_embeddings", hf_config.MAX_CONTEXT),
        ("head_dim", hf_config.MAX_HEAD_DIM),
    ],
)
def test_what_the_engine_would_refuse_is_refused(folder, capsys, key, most):
    config = read_json(folder / "config.json")
    hf_config.read_hparams(config | {key: most})
    edit(folder / "config.json", key, most + 1)
    status, lines = convert(folder, capsys)
    assert status == 1 and key in lines[0]


@pytest.mark.parametrize("value", [36, 4])
def test_a_head_dim_that_is_no_multiple_of_eight_is_refused(folder, capsys, value):
    edit(folder / "config.json", "head_dim", value)
    status, lines = convert(folder, capsys)
    assert status == 1 and "no multiple of 8" in lines[0]


def rope_of(folder, capsys, **config) -> tuple[float, float | None]:
    """theta and the linear factor of the converted file."""
    for key, value in config.items():
        edit(folder / "config.json", key, value)
    assert convert(folder, capsys) == (0, [])
    reader = GGUFReader(str(folder) + ".gguf")
    factor = reader.get_field("llama.rope.scaling.factor")
    return reader.get_field("llama.rope.freq_base").contents(), factor and factor.contents()


LINEAR = {"type": "linear", "factor": 4.0}
NEW = {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}
TWICE = [  # and the theta and the factor it means
    ({"rope_scaling": LINEAR, "rope_parameters": NEW, "rope_theta": 700.0}, (700.0, 4.0)),
    ({"rope_scaling": {}, "rope_parameters": NEW, "rope_theta": 700.0}, (500.0, 2.0)),
    ({"rope_scaling": None, "rope_parameters": {"rope_type": "default"}, "rope_theta": 700.0}, (700.0, None)),
    ({"rope_scaling": LINEAR | {"rope_theta": 300.0}, "rope_theta": 700.0}, (300.0, 4.0)),
    ({"rope_scaling": LINEAR | {"rope_type": "default"}}, (10000.0, None)),
]


@pytest.mark.parametrize("config, expected", TWICE)
def test_scaling_given_twice_is_read_as_transformers_reads_it(folder, capsys, config, expected):
    assert rope_of(folder, capsys, **config) == expected


@pytest.mark.parametrize("config, expected", TWICE)
def test_scaling_given_twice_is_read_so_by_transformers_now(folder, config, expected):
    transformers = pytest.importorskip("transformers")
    for key, value in config.items():
        edit(folder / "config.json", key, value)
    rope = transformers.LlamaConfig.from_pretrained(folder).rope_parameters
    assert expected == (rope["rope_theta"], rope["factor"] if rope["rope_type"] == "linear" else None)


def test_llama3_scaling_without_the_original_context_takes_the_context(folder):
    config = read_json(folder / "config.json")
    assert np.array_equal(
        hf_config.read_hparams(config | {"rope_scaling": ROPE | {"original_max_position_embeddings": None}}).rope.freqs,
        hf_config.read_hparams(config | {"rope_scaling": ROPE | {"original_max_position_embeddings": 512}}).rope.freqs,
    )
