"""The converter's output: tensors, types, metadata, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import math

import convert_hf
import numpy as np
import pytest
import tensor_plan
import tiny_models
from convert_error import ConvertError
from gguf import GGUFReader, quants
from tiny_models import SHAPES

GQA = SHAPES["gqa_hd64"]
BIASED = {**tiny_models.weights(GQA), "model.layers.0.self_attn.q_proj.bias": np.zeros(256, np.float32)}


def convert(folder, type_name="f32", out=None):
    out = out or folder.with_suffix(".gguf")
    convert_hf.convert(folder, out, type_name)
    return GGUFReader(out)


def values(reader) -> dict[str, np.ndarray]:
    """Tensors as float32 in numpy's order of dimensions."""
    return {t.name: quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}


def types(reader) -> dict[str, str]:
    return {t.name: t.tensor_type.name for t in reader.tensors}


def field(reader, key):
    entry = reader.get_field(key)
    return None if entry is None else entry.contents()


def edit(path, **changes):
    """Changes a JSON file; None removes the key."""
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    tiny_models.write_json(path, {key: value for key, value in content.items() if value is not None})


# Hugging Face's name of each GGUF tensor that is carried over as it is.
PLAIN = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
    "blk.1.attn_norm.weight": "model.layers.1.input_layernorm.weight",
    "blk.1.attn_v.weight": "model.layers.1.self_attn.v_proj.weight",
    "blk.1.attn_output.weight": "model.layers.1.self_attn.o_proj.weight",
    "blk.1.ffn_norm.weight": "model.layers.1.post_attention_layernorm.weight",
    "blk.1.ffn_gate.weight": "model.layers.1.mlp.gate_proj.weight",
    "blk.1.ffn_up.weight": "model.layers.1.mlp.up_proj.weight",
    "blk.1.ffn_down.weight": "model.layers.1.mlp.down_proj.weight",
}


def test_f32_carries_every_tensor_over_exactly(tmp_path):
    source = tiny_models.weights(GQA)
    reader = convert(tiny_models.make(tmp_path / "m", GQA, source))
    got = values(reader)
    assert len(got) == len(source)
    for name, hf_name in PLAIN.items():
        np.testing.assert_array_equal(got[name], source[hf_name], err_msg=name)


@pytest.mark.parametrize("shape", [SHAPES["gqa_hd128"], SHAPES["hd8"], SHAPES["hd40"]], ids=lambda shape: shape.name)
def test_q_and_k_rows_are_interleaved_within_each_head(tmp_path, shape):
    source = tiny_models.weights(shape)
    got = values(convert(tiny_models.make(tmp_path / "m", shape, source)))
    for name, hf_name, n_head in (("attn_q", "q_proj", shape.n_head), ("attn_k", "k_proj", shape.n_head_kv)):
        stored = source[f"model.layers.0.self_attn.{hf_name}.weight"]
        half = shape.head_dim // 2
        for head in range(n_head):
            at = head * shape.head_dim
            for i in range(half):
                np.testing.assert_array_equal(got[f"blk.0.{name}.weight"][at + 2 * i], stored[at + i])
                np.testing.assert_array_equal(got[f"blk.0.{name}.weight"][at + 2 * i + 1], stored[at + half + i])


def test_slabs_smaller_than_a_tensor_change_nothing(tmp_path, monkeypatch):
    folder = tiny_models.make(tmp_path / "m", GQA)
    convert(folder, "q8_0", tmp_path / "whole.gguf")
    monkeypatch.setattr(tensor_plan, "SLAB_ELEMENTS", 1000)
    convert(folder, "q8_0", tmp_path / "slabs.gguf")
    assert (tmp_path / "whole.gguf").read_bytes() == (tmp_path / "slabs.gguf").read_bytes()


def test_bf16_weights_arrive_bit_for_bit(tmp_path):
    source = tiny_models.weights(GQA)
    reader = convert(tiny_models.make(tmp_path / "m", GQA, source, "bfloat16"), "bf16")
    stored = {tensor.name: tensor for tensor in reader.tensors}
    assert set(types(reader).values()) == {"BF16", "F32"}
    bits = stored["blk.1.ffn_up.weight"].data.view(np.uint16).reshape(GQA.n_ff, GQA.n_embd)
    np.testing.assert_array_equal(bits, tiny_models.to_bf16_bits(source[PLAIN["blk.1.ffn_up.weight"]]))
    cut = source["model.norm.weight"].view(np.uint32) & np.uint32(0xFFFF0000)
    np.testing.assert_array_equal(stored["output_norm.weight"].data, cut.view(np.float32))


def test_f16_weights_arrive_bit_for_bit(tmp_path):
    source = tiny_models.weights(GQA)
    reader = convert(tiny_models.make(tmp_path / "m", GQA, source, "float16"), "f16")
    stored = {tensor.name: tensor.data for tensor in reader.tensors}
    np.testing.assert_array_equal(stored["output.weight"], source["lm_head.weight"].astype(np.float16))


@pytest.mark.parametrize("type_name, steps", [("q8_0", 127), ("q4_0", 8)])
def test_quantized_matrices_are_within_one_step_of_the_source(tmp_path, type_name, steps):
    source = tiny_models.weights(GQA)
    reader = convert(tiny_models.make(tmp_path / "m", GQA, source), type_name)
    exact = source["model.layers.1.mlp.down_proj.weight"].reshape(-1, 32)
    error = np.abs(values(reader)["blk.1.ffn_down.weight"].reshape(-1, 32) - exact)
    # Half a step is rounding; q4_0 cuts off what lies beyond its seventh positive step, up to a whole one. The scale
    # is rounded to f16, which moves the block's largest value by its last bit.
    largest = np.abs(exact).max(axis=1, keepdims=True)
    limit = (0.5 if type_name == "q8_0" else 1.0) * largest / steps + largest / 2048
    assert (error <= limit).all()
    assert error.max() > 0


def test_q4_0_keeps_norms_f32_and_embedding_and_output_q8_0(tmp_path):
    reader = convert(tiny_models.make(tmp_path / "m", GQA), "q4_0")
    got = types(reader)
    assert got.pop("token_embd.weight") == got.pop("output.weight") == "Q8_0"
    assert {type_ for name, type_ in got.items() if "norm" in name} == {"F32"}
    assert {type_ for name, type_ in got.items() if "norm" not in name} == {"Q4_0"}
    assert field(reader, "general.file_type") == 2
    assert field(reader, "general.quantization_version") == 2


def test_rows_that_are_no_multiple_of_32_become_f16_and_it_is_said(tmp_path, capsys):
    got = types(convert(tiny_models.make(tmp_path / "m", SHAPES["hd40"]), "q8_0"))  # rows of 80, and of 104
    assert set(got.values()) == {"F32", "F16"}
    assert "stay f16" in capsys.readouterr().err


def test_sharded_and_single_checkpoints_give_the_same_bytes(tmp_path):
    source = tiny_models.weights(GQA)
    single = tiny_models.make(tmp_path / "single" / "m", GQA, source)
    sharded = tiny_models.make(tmp_path / "sharded" / "m", GQA, {})
    tiny_models.save_shards(sharded, source, 3)
    convert(single)
    convert(sharded)
    assert single.with_suffix(".gguf").read_bytes() == sharded.with_suffix(".gguf").read_bytes()


def test_a_missing_shard_is_named(tmp_path):
    folder = tiny_models.make(tmp_path / "m", GQA, {})
    (folder / "model.safetensors").unlink(missing_ok=True)
    tiny_models.save_shards(folder, tiny_models.weights(GQA), 3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ConvertError, match="lacks the shard model-00002-of-00003.safetensors"):
        convert(folder)
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(ConvertError, match="holds model-00001-of-00003.safetensors, but no model.safetensors.index.json"):
        convert(folder)


@pytest.mark.parametrize("n_shards", [1, 2])
def test_torch_checkpoints_give_the_same_bytes(tmp_path, n_shards):
    torch = pytest.importorskip("torch")
    source = tiny_models.weights(GQA)
    expected = tiny_models.make(tmp_path / "safetensors" / "m", GQA, source)
    folder = tiny_models.make(tmp_path / "torch" / "m", GQA, {})
    names = list(source)
    parts = {f"pytorch_model-{i}.bin": names[i::n_shards] for i in range(n_shards)}
    for file_name, part in parts.items():
        target = "pytorch_model.bin" if n_shards == 1 else file_name
        torch.save({name: torch.from_numpy(source[name]) for name in part}, folder / target)
    if n_shards > 1:
        weight_map = {name: file_name for file_name, part in parts.items() for name in part}
        tiny_models.write_json(folder / "pytorch_model.bin.index.json", {"weight_map": weight_map})
    convert(expected)
    convert(folder)
    assert expected.with_suffix(".gguf").read_bytes() == folder.with_suffix(".gguf").read_bytes()


@pytest.mark.parametrize("stored", ["embedding", "lm_head", "both"])
def test_tied_weights_are_found_under_either_name_and_written_once(tmp_path, stored):
    source = tiny_models.weights(SHAPES["tied"])
    embedding = source["model.embed_tokens.weight"]
    if stored != "embedding":
        source["lm_head.weight"] = embedding
    if stored == "lm_head":
        del source["model.embed_tokens.weight"]
    got = values(convert(tiny_models.make(tmp_path / "m", SHAPES["tied"], source)))
    np.testing.assert_array_equal(got["token_embd.weight"], embedding)
    assert "output.weight" not in got


def test_buffers_of_old_checkpoints_are_left_out(tmp_path):
    source = tiny_models.weights(GQA)
    source["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(32, np.float32)
    assert len(values(convert(tiny_models.make(tmp_path / "m", GQA, source)))) == len(source) - 1


def test_metadata_holds_the_shape(tmp_path):
    shape = SHAPES["gqa_hd128"]
    reader = convert(tiny_models.make(tmp_path / "my-model", shape))
    expected = {
        "general.architecture": "llama",
        "general.name": "my-model",
        "general.file_type": 0,
        "llama.vocab_size": shape.n_vocab,
        "llama.context_length": 512,
        "llama.embedding_length": shape.n_embd,
        "llama.block_count": shape.n_layer,
        "llama.feed_forward_length": shape.n_ff,
        "llama.attention.head_count": shape.n_head,
        "llama.attention.head_count_kv": shape.n_head_kv,
        "llama.attention.key_length": shape.head_dim,
        "llama.attention.value_length": shape.head_dim,
        "llama.rope.dimension_count": shape.head_dim,
        "llama.rope.freq_base": 10000.0,
        "llama.rope.scaling.type": None,
    }
    assert {key: field(reader, key) for key in expected} == expected
    assert field(reader, "llama.attention.layer_norm_rms_epsilon") == pytest.approx(1e-5, rel=1e-6)


def test_head_dim_is_derived_and_kv_heads_default_to_heads(tmp_path):
    folder = tiny_models.make(tmp_path / "m", SHAPES["mha_hd64"])
    edit(folder / "config.json", head_dim=None, num_key_value_heads=None)
    reader = convert(folder)
    assert field(reader, "llama.attention.key_length") == 64
    assert field(reader, "llama.attention.head_count_kv") == 2


def test_linear_rope_scaling_is_metadata(tmp_path):
    reader = convert(tiny_models.make(tmp_path / "m", SHAPES["linear_rope"]))
    assert field(reader, "llama.rope.scaling.type") == "linear"
    assert field(reader, "llama.rope.scaling.factor") == 4.0


def test_llama3_rope_scaling_keeps_short_waves_and_stretches_long_ones(tmp_path):
    shape = SHAPES["llama3_rope"]
    reader = convert(tiny_models.make(tmp_path / "m", shape))
    freqs = values(reader)["rope_freqs.weight"]
    assert types(reader)["rope_freqs.weight"] == "F32" and freqs.shape == (shape.head_dim // 2,)
    scaling = shape.rope
    n_ctx = scaling["original_max_position_embeddings"]
    blended = 0
    for i, divisor in enumerate(freqs):
        turns = n_ctx / (2 * math.pi * shape.rope_theta ** (2 * i / shape.head_dim))  # within the original context
        if turns > scaling["high_freq_factor"]:
            assert divisor == 1.0
        elif turns < scaling["low_freq_factor"]:
            assert divisor == scaling["factor"]
        else:
            smooth = (turns - scaling["low_freq_factor"]) / (scaling["high_freq_factor"] - scaling["low_freq_factor"])
            assert 1 / divisor == pytest.approx((1 - smooth) / scaling["factor"] + smooth, rel=1e-6)
            blended += 1
    assert blended >= 3
    assert field(reader, "llama.rope.scaling.type") is None


@pytest.mark.parametrize("name", ["gqa_hd64", "linear_rope", "llama3_rope"])
def test_rope_parameters_of_newer_configurations_mean_the_same(tmp_path, name):
    shape = dataclasses.replace(SHAPES[name], rope_theta=5000.0)
    old = tiny_models.make(tmp_path / "old" / "m", shape)
    new = tiny_models.make(tmp_path / "new" / "m", shape)
    rope = {"rope_type": "default"} | shape.rope | {"rope_theta": 5000.0}
    edit(new / "config.json", rope_theta=None, rope_scaling=None, rope_parameters=rope)
    assert field(convert(old), "llama.rope.freq_base") == 5000.0
    convert(new)
    assert old.with_suffix(".gguf").read_bytes() == new.with_suffix(".gguf").read_bytes()


def test_mistral_context_is_cut_to_the_sliding_window_and_it_is_said(tmp_path, capsys):
    folder = tiny_models.make(tmp_path / "m", GQA)
    edit(folder / "config.json", architectures=["MistralForCausalLM"], sliding_window=128)
    assert field(convert(folder), "llama.context_length") == 128
    assert "sliding window of 128" in capsys.readouterr().err
    edit(folder / "config.json", sliding_window=4096)
    assert field(convert(folder), "llama.context_length") == 512


SHORT = {name: tensor for name, tensor in tiny_models.weights(GQA).items() if "layers.1.mlp.up" not in name}
HUGE = {**tiny_models.weights(GQA), "lm_head.weight": np.full((GQA.n_vocab, GQA.n_embd), 1e6, np.float32)}


@pytest.mark.parametrize(
    "config, tensors, message",
    [
        ({"is_causal": False}, None, "is_causal"),
        ({"architectures": ["GPT2LMHeadModel"]}, None, "architecture GPT2LMHeadModel is not supported"),
        ({"architectures": None}, None, "architecture none is not supported"),
        ({"attention_bias": True}, None, "lacks model.layers.0.self_attn.q_proj.bias"),
        ({"mlp_bias": True}, None, "lacks model.layers.0.mlp.gate_proj.bias"),
        ({}, BIASED, "model.layers.0.self_attn.q_proj.bias"),
        ({}, SHORT, "lacks model.layers.1.mlp.up_proj.weight"),
        ({}, HUGE, "lm_head.weight holds values beyond the range of f16"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}, None, "RoPE scaling 'dynamic' is not supported"),
        ({"rope_scaling": {"type": "linear"}}, None, "RoPE scaling lacks factor"),
        ({"partial_rotary_factor": 0.5}, None, "partial_rotary_factor"),
        ({"hidden_act": "gelu"}, None, "hidden_act 'gelu'"),
        ({"quantization_config": {"bits": 4}}, None, "quantized already"),
        ({"num_key_value_heads": 3}, None, "4 heads cannot share 3"),
        ({"intermediate_size": 200}, None, "config.json asks for [200, 128]"),
        ({"vocab_size": 100}, None, "outside the model's vocabulary of 100"),
        ({"hidden_size": "128"}, None, "hidden_size is '128'"),
        ({"max_position_embeddings": None}, None, "lacks max_position_embeddings"),
    ],
)
def test_what_cannot_be_converted_is_refused_by_name(tmp_path, config, tensors, message):
    folder = tiny_models.make(tmp_path / "m", GQA, tensors)
    edit(folder / "config.json", **config)
    with pytest.raises(ConvertError) as refused:
        convert(folder, "f16")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
