"""Rotary positions: transformers' own angles, what the options make of a file's, and what they refuse."""

from __future__ import annotations

import dataclasses

import convert_hf
import numpy as np
import pytest
import tiny_models
from tiny_models import SHAPES

TOKENS = list(range(3, 43))
FLOAT32 = 2e-6  # relative: transformers computes frequencies in float32

PLAIN = dataclasses.replace(SHAPES["gqa_hd64"], n_layer=1)
LINEAR = {"rope_type": "linear", "factor": 4.0}
LLAMA3 = SHAPES["llama3_rope"].rope
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64}
SCALINGS = {
    "plain": {},
    "linear": LINEAR,
    "llama3": LLAMA3,
    "yarn": YARN,
    "yarn, tuned": YARN | {"beta_fast": 8.0, "beta_slow": 2.0, "attention_factor": 0.7},
    "yarn, two scales": YARN | {"mscale": 0.7, "mscale_all_dim": 1.3},
    "yarn, all turns within": YARN | {"original_max_position_embeddings": 4096, "factor": 2.0},
}


def converted(folder, shape):
    source = tiny_models.make(folder / "m", shape)
    convert_hf.convert(source, source.with_suffix(".gguf"), "f32")
    return source.with_suffix(".gguf")


def logits(livekv, path, **rope) -> np.ndarray:
    session = livekv.Model(path, n_threads=1, **rope).session(n_ctx=64, kv=livekv.KVOptions.parse("f16"))
    return session.eval(TOKENS, all_logits=True)


def reference(folder, layer_type=None) -> tuple[np.ndarray, float]:
    """transformers' frequencies and factor for a converted folder."""
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = transformers.AutoConfig.from_pretrained(folder)
    rope = config.rope_parameters[layer_type] if layer_type else config.rope_parameters
    if rope["rope_type"] == "default":
        exponents = np.arange(0, config.head_dim, 2) / config.head_dim
        return rope["rope_theta"] ** -exponents, 1.0
    frequencies, factor = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, "cpu", layer_type=layer_type)
    return frequencies.numpy(), factor


@pytest.mark.parametrize("architecture, neighbours", [("LlamaForCausalLM", True), ("Qwen2ForCausalLM", False)])
@pytest.mark.parametrize("scaling", list(SCALINGS))
def test_angles_are_those_of_transformers(livekv, tmp_path, architecture, neighbours, scaling):
    biases = architecture == "Qwen2ForCausalLM"
    shape = dataclasses.replace(PLAIN, architecture=architecture, biases=biases, rope=SCALINGS[scaling], rope_theta=5e5)
    path = converted(tmp_path, shape)
    frequencies, magnitude, pairs = livekv.Model(path, n_threads=1).rope()
    expected, factor = reference(tmp_path / "m")
    np.testing.assert_allclose(frequencies, expected, rtol=FLOAT32)
    assert magnitude == pytest.approx(factor, rel=FLOAT32) and pairs == neighbours


def test_layers_that_see_a_window_have_a_rope_of_their_own(livekv, tmp_path):
    shape = SHAPES["gemma3_long"]
    model = livekv.Model(converted(tmp_path, shape), n_threads=1)
    for layer in range(shape.n_layer):
        kind = "sliding_attention" if (layer + 1) % shape.pattern else "full_attention"
        frequencies, magnitude, neighbours = model.rope(layer)
        np.testing.assert_allclose(frequencies, reference(tmp_path / "m", kind)[0], rtol=FLOAT32)
        assert magnitude == 1.0 and not neighbours
    with pytest.raises(livekv.Error, match="no layer 4"):
        model.rope(4)


# (what the file says, the options, what a file would say that computes the same)
CHANGES = {
    "none for linear": (LINEAR, {"rope_scaling": "none"}, {}),
    "none for llama3": (LLAMA3, {"rope_scaling": "none"}, {}),
    "none for yarn": (YARN, {"rope_scaling": "none"}, {}),
    "a scale is linear": ({}, {"rope_scale": 4.0}, LINEAR),
    "another scale": (LINEAR | {"factor": 2.0}, {"rope_scale": 4.0}, LINEAR),
    "linear for llama3": (LLAMA3, {"rope_scaling": "linear", "rope_scale": 4.0}, LINEAR),
    "yarn": ({}, {"rope_scaling": "yarn", "rope_scale": 8.0, "yarn_orig_ctx": 64}, YARN),
    "yarn for linear": (LINEAR | {"factor": 8.0}, {"rope_scaling": "yarn", "yarn_orig_ctx": 64}, YARN),
    "yarn's scale": (YARN | {"factor": 2.0}, {"rope_scale": 8.0}, YARN),
    "yarn's context": (YARN | {"original_max_position_embeddings": 32}, {"yarn_orig_ctx": 64}, YARN),
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_options_make_of_a_file_what_another_file_says(livekv, tmp_path, change):
    said, options, meant = CHANGES[change]
    got = logits(livekv, converted(tmp_path / "a", dataclasses.replace(PLAIN, rope=said)), **options)
    other = converted(tmp_path / "b", dataclasses.replace(PLAIN, rope=meant))
    np.testing.assert_array_equal(got, logits(livekv, other))
    assert np.abs(got - logits(livekv, tmp_path / "a" / "m.gguf")).max() > 1e-3


def test_a_base_is_the_one_another_file_would_have(livekv, tmp_path):
    got = logits(livekv, converted(tmp_path / "a", PLAIN), rope_base=700.0)
    other = converted(tmp_path / "b", dataclasses.replace(PLAIN, rope_theta=700.0))
    np.testing.assert_array_equal(got, logits(livekv, other))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return converted(tmp_path_factory.mktemp("plain"), PLAIN)


WRONG = [
    ({"rope_scaling": "longrope"}, "rope_scaling", "'longrope' is not one of"),
    ({"rope_scaling": "yarn"}, "rope_scaling", "needs rope_scale"),
    ({"rope_scaling": "none", "rope_scale": 2.0}, "rope_scale", "nothing to scale"),
    ({"yarn_orig_ctx": 64}, "yarn_orig_ctx", "not scaled by YaRN"),
    ({"rope_scale": 0}, "rope_scale", "0 is not"),
    ({"rope_scale": float("nan")}, "rope_scale", "nan"),
    ({"rope_base": -1.0}, "rope_base", "-1"),
    ({"rope_scaling": "yarn", "rope_scale": 2.0, "yarn_orig_ctx": 0}, "yarn_orig_ctx", "0"),
]


@pytest.mark.parametrize("options, name, message", WRONG)
def test_what_means_nothing_is_refused_by_name(livekv, tools, plain, options, name, message):
    with pytest.raises(livekv.Error, match=f"{name}: .*{message}"):
        livekv.Model(plain, n_threads=1, **options)
    flags = [part for key, value in options.items() for part in ("--" + key.replace("_", "-"), value)]
    done = tools.run("livekv-cli", "-m", plain, "-p", "a", "-n", 1, *flags, check=False)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert "--" + name.replace("_", "-") + ": " in done.stderr


@pytest.mark.parametrize("value", ["4", True, [4.0]])
def test_values_of_another_type_are_refused(livekv, plain, value):
    for name in ("rope_scale", "rope_base", "yarn_orig_ctx"):
        with pytest.raises(livekv.Error, match=f"{name}: "):
            livekv.Model(plain, n_threads=1, **{name: value})
    with pytest.raises(livekv.Error, match="rope_scaling: "):
        livekv.Model(plain, n_threads=1, rope_scaling=4)


def test_a_saved_cache_belongs_to_its_positions(livekv, plain, tmp_path):
    kept = tmp_path / "a.kv"
    session = livekv.Model(plain, n_threads=1, rope_scaling="yarn", rope_scale=4.0).session(n_ctx=64)
    session.prefill(TOKENS)
    session.save(kept)
    for options in ({}, {"rope_scale": 4.0}, {"rope_scaling": "yarn", "rope_scale": 8.0}, {"rope_base": 700.0}):
        other = livekv.Model(plain, n_threads=1, **options).session(n_ctx=64)
        with pytest.raises(livekv.Error, match="other rotary positions"):
            other.load(kept)
    again = livekv.Model(plain, n_threads=1, rope_scaling="yarn", rope_scale=4.0).session(n_ctx=64)
    again.load(kept)
    np.testing.assert_array_equal(again.last_logits, session.last_logits)
