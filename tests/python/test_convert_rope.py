"""Where the keys of rotary positions may stand in config.json: each place is read as transformers reads it."""

from __future__ import annotations

import itertools
import json
import os
import random

import convert_hf
import hf_config
import numpy as np
import pytest
import tiny_models
from convert_error import ConvertError
from families import FAMILIES
from gguf import GGUFReader

FLOAT32 = 2e-6  # relative: transformers computes frequencies in float32
FULL, WINDOW = "full_attention", "sliding_attention"
ORIGINAL = "original_max_position_embeddings"

SCALED = {
    "linear": {"factor": 4.0},
    "yarn": {"factor": 4.0, ORIGINAL: 32},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, ORIGINAL: 32},
}


def shape_of(architecture: str) -> tiny_models.Shape:
    own = {"n_layer": 1}
    if architecture == "Gemma3ForCausalLM":
        own = {"n_layer": 2, "window": 24, "pattern": 2, "rope_theta": 1e5, "tied": True}
    if architecture == "Phi3ForCausalLM":
        own = {"n_layer": 1, "n_head_kv": 4, "head_dim": 32}
    return tiny_models.Shape("rope", architecture, biases=architecture == "Qwen2ForCausalLM", **own)


def plain_config(architecture: str) -> dict:
    """Without RoPE scaling of either name."""
    return {k: v for k, v in tiny_models.config(shape_of(architecture)).items() if k != "rope_scaling"}


def theirs(folder) -> tuple[list[tuple[np.ndarray, float]], int | None]:
    """Frequencies and factor of each layer, of transformers' own model, and the original context where it has one."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers", minversion="5")
    config = transformers.AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        class_of_rope = type(transformers.AutoModelForCausalLM.from_config(config).model.rotary_emb)
    rope = class_of_rope(config)
    if config.model_type != "gemma3_text":
        layers = [(rope.inv_freq.numpy(), rope.attention_scaling)] * config.num_hidden_layers
        return layers, config.rope_parameters.get(ORIGINAL)
    layers = [
        (getattr(rope, f"{kind}_inv_freq").numpy(), getattr(rope, f"{kind}_attention_scaling"))
        for kind in config.layer_types
    ]
    return layers, config.rope_parameters[FULL].get(ORIGINAL)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One of each architecture, of which only config.json changes."""
    path = tmp_path_factory.mktemp("rope")
    return {name: tiny_models.make(path / name, shape_of(name)) for name in FAMILIES}


def check(livekv, folder, config) -> bool:
    """Whether it is converted; what is, is as in transformers, and what transformers cannot load is left open."""
    tiny_models.write_json(folder / "config.json", config)
    try:
        convert_hf.convert(folder, folder.with_suffix(".gguf"), "f32")
    except ConvertError as problem:
        assert "config.json" in str(problem) or "RoPE scaling" in str(problem)
        return False
    try:
        expected, original = theirs(folder)
    except (KeyError, TypeError, AttributeError, ValueError):
        return False
    model = livekv.Model(folder.with_suffix(".gguf"), n_threads=1)
    for layer, (frequencies, factor) in enumerate(expected):
        got, magnitude, _ = model.rope(layer)
        np.testing.assert_allclose(got, frequencies, rtol=FLOAT32, err_msg=json.dumps(config))
        assert magnitude == pytest.approx(factor, rel=FLOAT32), config
    said = GGUFReader(folder.with_suffix(".gguf")).get_field(
        f"{model.architecture}.rope.scaling.original_context_length"
    )
    assert said is None or said.contents() == original, config
    return True


def drawn(n, *places):
    """n of all combinations, the same ones every time; with LIVEKV_EXHAUSTIVE=1 all of them, which takes minutes."""
    every = list(itertools.product(*places))
    return every if n is None or os.environ.get("LIVEKV_EXHAUSTIVE") else random.Random(1).sample(every, n)


OTHERS = ("MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")


@pytest.mark.parametrize(
    "architecture, kind", [("LlamaForCausalLM", kind) for kind in SCALED] + [(name, "yarn") for name in OTHERS]
)
def test_each_place_of_a_key_is_read_as_in_transformers(livekv, folders, architecture, kind):
    plain = plain_config(architecture)
    names = (("rope_scaling",), ("rope_parameters",), ("rope_scaling", "rope_parameters"))
    few = None if architecture == "LlamaForCausalLM" else 24  # which are read by the same code
    keys = drawn(few, names, ("rope_type", "type"), (None, 64), (None, 128), (None, 700.0), (None, 300.0))
    n_same = 0
    for objects, type_key, inside, top, theta_inside, theta_top in keys:
        config = {k: v for k, v in plain.items() if k != "rope_theta"}
        config |= {ORIGINAL: top} if top else {}
        config |= {"rope_theta": theta_top} if theta_top else {}
        for i, name in enumerate(objects):
            rope = {k: v for k, v in SCALED[kind].items() if k != ORIGINAL} | {type_key: kind}
            rope |= {ORIGINAL: inside * (i + 1)} if inside else {}
            config[name] = rope | ({"rope_theta": theta_inside * (i + 1)} if theta_inside else {})
        n_same += check(livekv, folders[architecture], config)
    assert n_same == len(keys) > 20


@pytest.mark.parametrize("kind", list(SCALED))
def test_each_place_of_a_key_of_gemma3_is_read_as_in_transformers_or_refused(livekv, folders, kind):
    plain = plain_config("Gemma3ForCausalLM")
    scaled = SCALED[kind] | {"rope_type": kind}
    without = {k: v for k, v in scaled.items() if k != ORIGINAL}
    old = {k: v for k, v in scaled.items() if k != "rope_type"} | {"type": kind}
    scalings = (None, {}, scaled, without, old, scaled | {"rope_theta": 900.0}, {FULL: scaled}, {"factor": 2.0})
    window = {"rope_type": "default", "rope_theta": 500.0}
    parameters = (
        None,
        {},
        scaled,  # flat
        {"rope_theta": 70.0},
        {FULL: {"rope_type": "default", "rope_theta": 7e4}, WINDOW: window},
        {FULL: {"rope_type": "linear", "factor": 3.0}, WINDOW: {"rope_type": "default"}},
        {FULL: without, WINDOW: window},
        {FULL: old | {"rope_theta": 7e4}},
        {FULL: {"type": kind}, WINDOW: None},
        {FULL: None, WINDOW: window},
        {FULL: scaled, WINDOW: window, "factor": 2.0},
    )
    n_same = 0
    combinations = drawn(120, scalings, parameters, (None, 128), (True, False))
    for scaling, rope, top, theta in combinations:
        config = plain | ({} if scaling is None else {"rope_scaling": scaling})
        config |= {} if rope is None else {"rope_parameters": rope}
        config |= {ORIGINAL: top} if top else {}
        if not theta:
            del config["rope_theta"], config["rope_local_base_freq"]
        n_same += check(livekv, folders["Gemma3ForCausalLM"], config)
    assert n_same > len(combinations) // 4


def test_each_place_of_a_key_of_phi3_is_read_as_in_transformers_or_refused(livekv, folders):
    plain = plain_config("Phi3ForCausalLM")
    rope = {k: v for k, v in tiny_models.longrope(32, 16).items() if k not in ("rope_type", ORIGINAL)}
    kinds = ({"rope_type": "longrope"}, {"type": "longrope"}, {"type": "su"}, {"type": "yarn"}, {"rope_type": "linear"})
    n_same = 0
    names = ("rope_scaling", "rope_parameters")
    combinations = drawn(120, names, kinds, (None, 64), (None, 32, 600), (None, 9.0), (None, 300.0))
    for name, kind, inside, top, factor, theta in combinations:
        config = plain | ({ORIGINAL: top} if top else {})
        config[name] = rope | kind | ({ORIGINAL: inside} if inside else {})
        config[name] |= {"factor": factor} if factor else {}
        config[name] |= {"rope_theta": theta} if theta else {}
        n_same += check(livekv, folders["Phi3ForCausalLM"], config)
    assert n_same > len(combinations) // 2  # 168 of all 240


@pytest.mark.parametrize("architecture, rope, message", [
    ("Phi3ForCausalLM", {"rope_scaling": {"type": "linear"}}, "rope_scaling.type is 'linear', expected default or longrope"),
    ("Gemma3ForCausalLM", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling.type is 'linear', expected default"),
    ("Gemma3ForCausalLM", {"rope_scaling": {FULL: {"factor": 2.0}}}, "rope_scaling.full_attention is .*, expected none"),
    ("Gemma3ForCausalLM", {"rope_parameters": {"factor": 2.0}}, "rope_parameters.factor is 2.0, expected nothing but full"),
])  # fmt: skip
def test_what_transformers_reads_otherwise_or_not_is_refused_by_name(architecture, rope, message):
    with pytest.raises(ConvertError, match=message):
        hf_config.read_hparams(plain_config(architecture) | rope)


def test_an_original_context_that_is_not_read_is_said():
    rope = tiny_models.longrope(32, 16)
    found = hf_config.read_hparams(plain_config("Phi3ForCausalLM") | {"rope_scaling": rope})
    assert found.rope.long.n_ctx_orig == 4096 and len(found.notes) == 1 and ORIGINAL in found.notes[0]
