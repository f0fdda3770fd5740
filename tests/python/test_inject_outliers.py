"""inject_outliers: heavy channels of the stated size in the keys and values, and the same logits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import convert_hf
import gguf
import numpy as np
import pytest
import tiny_models
from conftest import ROOT
from convert_error import ConvertError
from gguf import GGMLQuantizationType, GGUFReader, quants
from tiny_models import SHAPES

from python_eval.testbed.inject_outliers import Recipe, inject

# Factors are powers of two: nothing is rounded but divided queries that become subnormal when attention makes them f16.
# Measured: mostly the same bits, and up to 7.1e-8.
F32_TOLERANCE = 1e-6  # of the range of the logits
# Divided f16 weights may be subnormal, too. Measured: 1.7e-4.
F16_TOLERANCE = 1e-3
# f32 matrices made f16 or bf16. Measured: 8.8e-4 and 6.5e-3.
BF16_TOLERANCE = 2e-2
# Products with q8_0 matrices quantize the activations, too, but those with attn_output, f16 now, no longer do.
# Measured: 9.4e-3.
Q8_0_TOLERANCE = 3e-2

SHARES = Recipe(key_share=0.1, value_share=0.1)  # enough for several channels in heads of 64
TOKENS = [(7 * i * i + 3 * i) % tiny_models.N_VOCAB for i in range(100)]


def make(folder: Path, name: str, type_name: str = "f32", biases: bool = False, weights: dict | None = None) -> Path:
    """The GGUF of a tiny model; biases are added to it, as the converter refuses checkpoints that have them."""
    source = folder / f"{name}-{type_name}.gguf"
    convert_hf.convert(tiny_models.make(folder / name, SHAPES[name], weights), source, type_name)
    if not biases:
        return source
    reader, rng = GGUFReader(source), np.random.default_rng(5)
    writer = gguf.GGUFWriter(folder / "biased.gguf", "llama")
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            sub_type = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), field.types[0], sub_type)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        if tensor.name.endswith(("attn_q.weight", "attn_k.weight", "attn_v.weight", "attn_output.weight")):
            bias = rng.standard_normal(tensor.shape[1], dtype=np.float32)
            writer.add_tensor(tensor.name.replace("weight", "bias"), bias)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / "biased.gguf"


def tensors(path: Path) -> dict[str, np.ndarray]:
    """float64, rows first."""
    return {t.name: np.float64(quants.dequantize(t.data, t.tensor_type)) for t in GGUFReader(path).tensors}


def types(path: Path) -> dict[str, GGMLQuantizationType]:
    return {t.name: t.tensor_type for t in GGUFReader(path).tensors}


def sizes(weights: dict[str, np.ndarray], part: str, name: str) -> list[np.ndarray]:
    """For each layer and kv head the rms of each channel over inputs that are white noise before attn_norm's weight."""
    heads = []
    for il in range(SHAPES[name].n_layer):
        matrix = weights[f"blk.{il}.{part}.weight"] * weights[f"blk.{il}.attn_norm.weight"]
        power = (matrix**2).sum(axis=1) + weights.get(f"blk.{il}.{part}.bias", np.zeros(len(matrix))) ** 2
        heads += list(np.sqrt(power).reshape(SHAPES[name].n_head_kv, -1))
    return heads


def deviation(tools, source: Path, out: Path, tmp_path: Path) -> float:
    """Of the logits, over the f16 cache: the largest difference as a share of their range."""
    before = tools.logits(source, TOKENS, tmp_path / "logits", "-t", 1)
    after = tools.logits(out, TOKENS, tmp_path / "logits", "-t", 1)
    worst = float(np.abs(after - before).max() / (before.max() - before.min()))
    print(f"deviation {worst:.1e}")
    return worst


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("name", ["mha_hd64", "gqa_hd64", "gqa_hd128", "llama3_rope", "hd8", "hd40"])
def test_logits_stay_the_same(tools, tmp_path, name, biases):
    source = make(tmp_path, name, biases=biases)
    inject(source, tmp_path / "out.gguf", SHARES)
    assert deviation(tools, source, tmp_path / "out.gguf", tmp_path) < F32_TOLERANCE


@pytest.mark.parametrize("type_name, tolerance", [("f16", F16_TOLERANCE), ("q8_0", Q8_0_TOLERANCE)])
def test_logits_stay_the_same_in_other_types(tools, tmp_path, type_name, tolerance):
    source = make(tmp_path, "gqa_hd64", type_name)
    inject(source, tmp_path / "out.gguf", SHARES)
    for name, type_ in types(tmp_path / "out.gguf").items():
        output = name.endswith("attn_output.weight")
        assert type_ == (GGMLQuantizationType.F16 if output else types(source)[name])
    assert deviation(tools, source, tmp_path / "out.gguf", tmp_path) < tolerance


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("name", ["gqa_hd64", "gqa_hd128", "hd8"])
def test_the_heavy_channels_have_the_stated_size_and_number(tmp_path, name, biases):
    recipe = Recipe(key_share=0.1, value_share=0.05, low=8.0, high=40.0)
    source = make(tmp_path, name, biases=biases)
    inject(source, tmp_path / "out.gguf", recipe)
    before, after = tensors(source), tensors(tmp_path / "out.gguf")
    for part, share, unit in (("attn_k", 0.1, 2), ("attn_v", 0.05, 1)):
        for old, new in zip(sizes(before, part, name), sizes(after, part, name)):
            # rms of a RoPE pair's channels, or the channel itself
            old, new = (np.sqrt((x.reshape(-1, unit) ** 2).mean(axis=1)) for x in (old, new))
            heavy = ~np.isclose(new, old, rtol=1e-6)
            assert heavy.sum() == max(1, round(share * len(new)))
            ratios = new / np.median(new)
            assert ((ratios[heavy] > 8.0 * (1 - 1e-6)) & (ratios[heavy] < 40.0 * (1 + 1e-6))).all()
            assert ratios[~heavy].max() < 4.0, "the random model itself has heavy channels"


def test_the_norm_counts_in_the_size(tmp_path):
    weights = tiny_models.weights(SHAPES["gqa_hd64"])
    for il in (0, 1):
        weights[f"model.layers.{il}.input_layernorm.weight"][:64] *= 5
        for part in ("k", "v"):  # a channel listens to the loud half of the inputs or to the soft one
            matrix = weights[f"model.layers.{il}.self_attn.{part}_proj.weight"].reshape(2, 64, 128)
            matrix[:, :48, :64] = 0
            matrix[:, 48:, 64:] = 0
    source = make(tmp_path, "gqa_hd64", weights=weights)
    inject(source, tmp_path / "out.gguf", Recipe(value_share=0.4))
    before, after = tensors(source), tensors(tmp_path / "out.gguf")
    for old, new in zip(sizes(before, "attn_v", "gqa_hd64"), sizes(after, "attn_v", "gqa_hd64")):
        ratios = (new / np.median(new))[~np.isclose(new, old, rtol=1e-6)]
        assert len(ratios) >= 20 and ratios.min() > 9.99 and ratios.max() < 30.01


def test_sizes_fill_the_range():
    from python_eval.testbed.inject_outliers import pick_factors

    rng = np.random.default_rng(3)
    own = rng.uniform(0.5, 2.0, 4000)
    new = own * pick_factors(own, 0.25, Recipe(low=10, high=30), rng)
    ratios = np.log(np.sort(new)[-1000:] / np.median(new) / 10) / np.log(3)
    assert ratios.min() >= 0 and ratios.max() <= 1
    assert (np.histogram(ratios, 5, (0, 1))[0] > 100).all()  # log-uniform would be 200 each


def test_nothing_else_changes(tmp_path):
    source, out = make(tmp_path, "gqa_hd64", biases=True), tmp_path / "out.gguf"
    inject(source, out, SHARES)
    before, after = GGUFReader(source), GGUFReader(out)
    end = before.tensors[0].field.offset
    assert source.read_bytes()[:end] == out.read_bytes()[:end], "metadata"
    for old, new in zip(before.tensors, after.tensors):
        assert (old.name, old.tensor_type, old.shape.tolist()) == (new.name, new.tensor_type, new.shape.tolist())
        rewritten = ".attn_" in old.name and not old.name.endswith(("attn_norm.weight", "attn_output.bias"))
        assert np.array_equal(old.data, new.data) != rewritten, old.name


@pytest.mark.parametrize(
    "share, touched", [("key_share", ("attn_q", "attn_k")), ("value_share", ("attn_v", "attn_output"))]
)
def test_a_share_of_zero_leaves_its_tensors_alone(tmp_path, share, touched):
    source, out = make(tmp_path, "gqa_hd64", "q4_0"), tmp_path / "out.gguf"
    inject(source, out, Recipe(**{"key_share": 0, "value_share": 0, share: 0.1}))
    changed = {name for name, type_ in types(out).items() if type_ != types(source)[name]}  # q4_0 is too coarse to keep
    assert changed == {f"blk.{il}.{part}.weight" for il in (0, 1) for part in touched}
    inject(source, out, Recipe(key_share=0, value_share=0))
    assert out.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("type_name, rows_of_40", [("f32", "F32"), ("f16", "F16"), ("bf16", "BF16"), ("q8_0", "F16")])
def test_the_type_can_be_chosen(tools, tmp_path, type_name, rows_of_40):
    for name, expected in (("gqa_hd64", type_name.upper()), ("hd40", rows_of_40)):
        source = make(tmp_path, name)
        inject(source, tmp_path / "out.gguf", SHARES, type_name)
        for tensor, type_ in types(tmp_path / "out.gguf").items():
            rewritten = tensor.endswith(("attn_q.weight", "attn_k.weight", "attn_v.weight", "attn_output.weight"))
            assert type_.name == (expected if rewritten else "F32"), tensor
        if type_name != "q8_0":  # which is at the user's wish and risk
            assert deviation(tools, source, tmp_path / "out.gguf", tmp_path) < BF16_TOLERANCE


def test_the_seed_decides_the_bytes(tmp_path):
    source = make(tmp_path, "gqa_hd64")
    contents = []
    for seed in (1, 1, 2):
        inject(source, tmp_path / "out.gguf", Recipe(seed=seed))
        contents.append((tmp_path / "out.gguf").read_bytes())
    assert contents[0] == contents[1] != contents[2]


def test_dead_channels_and_heads_are_left_alone(tools, tmp_path):
    weights = tiny_models.weights(SHAPES["gqa_hd64"])
    weights["model.layers.0.self_attn.k_proj.weight"][np.r_[0:20, 32:52]] = 0  # 20 of the first head's 32 pairs
    for part in ("k", "v"):
        weights[f"model.layers.1.self_attn.{part}_proj.weight"][np.r_[0:20, 70:90]] *= 1e-6
    source = make(tmp_path, "gqa_hd64", weights=weights)
    lines = inject(source, tmp_path / "out.gguf", Recipe(key_share=0.4, value_share=0.4))
    assert not any("nan" in line or "inf" in line for line in lines)
    before, after = tensors(source), tensors(tmp_path / "out.gguf")
    np.testing.assert_array_equal(after["blk.0.attn_k.weight"][:64], before["blk.0.attn_k.weight"][:64])
    ratio = after["blk.1.attn_v.weight"] / before["blk.1.attn_v.weight"]
    assert (ratio[np.r_[0:20, 70:90]] == 1).all() and ratio.max() > 4
    assert deviation(tools, source, tmp_path / "out.gguf", tmp_path) < F32_TOLERANCE


def run(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "python_eval.testbed.inject_outliers", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)


def test_success_is_a_line_for_each_layer_and_one_for_the_file(tmp_path):
    source = make(tmp_path, "gqa_hd64")
    before = {path.name for path in tmp_path.iterdir()}
    done = run(source, tmp_path / "out.gguf", "--key-share", 0.1, "--seed", 3)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 3 and lines[1].startswith("layer 1: ") and "(6 of 64 scaled)" in lines[1]
    assert {path.name for path in tmp_path.iterdir()} == before | {"out.gguf"}
    inject(source, tmp_path / "again.gguf", Recipe(key_share=0.1, seed=3))
    assert (tmp_path / "again.gguf").read_bytes() == (tmp_path / "out.gguf").read_bytes()


def test_refusals_are_one_line_and_exit_with_1(tmp_path):
    done = run(tmp_path / "none.gguf", tmp_path / "out.gguf")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("inject_outliers: ") and done.stderr.count("\n") == 1
    assert "No such file" in done.stderr and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options, message",
    [
        ({"key_share": -0.1}, "--key-share is -0.1, expected at least 0"),
        ({"value_share": 0.5}, "--value-share is 0.5, expected at least 0 and less than 0.5"),
        ({"key_share": float("nan")}, "--key-share is nan"),
        ({"low": 0.5}, "--low 0.5 and --high 30: expected 1 <= low"),
        ({"low": 20.0}, "--low 20 and --high 30"),
        ({"high": 101.0}, "high <= 100"),
        ({"high": float("nan")}, "--high nan"),
        ({"seed": -1}, "--seed is -1"),
    ],
)
def test_impossible_options_are_refused(tmp_path, options, message):
    with pytest.raises(ConvertError) as refusal:
        inject(tmp_path / "m.gguf", tmp_path / "out.gguf", Recipe(**options))
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_impossible_outputs_are_refused(tmp_path):
    source = make(tmp_path, "gqa_hd64")
    content = source.read_bytes()
    (tmp_path / "link.gguf").hardlink_to(source)
    for out, message in (
        (source, "is the input itself"),
        (tmp_path / "link.gguf", "is the input itself"),
        (tmp_path, "it is a folder"),
        (tmp_path / "nowhere" / "out.gguf", "its folder does not exist"),
    ):
        with pytest.raises(ConvertError, match=message):
            inject(source, out, Recipe())
    assert source.read_bytes() == content


def test_impossible_inputs_are_refused_and_the_old_output_stays(tmp_path):
    good = make(tmp_path, "gqa_hd64").read_bytes()
    out = tmp_path / "out.gguf"
    out.write_bytes(b"old")
    files = sorted(path.name for path in tmp_path.iterdir())
    for content, message in (
        (b"", "no complete GGUF file"),
        (b"GGUF", "no complete GGUF file"),
        (b"x" * 100, "no complete GGUF file"),
        (good[:1000], "no complete GGUF file"),
        (good[:-100], "no complete GGUF file"),
        (good.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0mamba"), "architecture mamba, expected llama"),
        (good.replace(b"blk.1.attn_k.", b"blk.1.attn_x."), "lacks blk.1.attn_k.weight"),
        (good.replace(b"attention.head_count_kv", b"attention.head_count_xx"), r"attn_k.weight is \[128, 128\]"),
        (good.replace(b"llama.block_count", b"llama.block_xxxxx"), "key llama.block_count is None"),
    ):
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(ConvertError, match=message) as refusal:
            inject(tmp_path / "bad", out, Recipe())
        assert "\n" not in str(refusal.value)
    assert out.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*files, "bad"])


def test_weights_that_leave_the_range_of_f16_are_refused_and_the_old_output_stays(tmp_path):
    weights = tiny_models.weights(SHAPES["gqa_hd64"])
    weights["model.layers.1.self_attn.k_proj.weight"] *= 1e5
    source, out = make(tmp_path, "gqa_hd64", weights=weights), tmp_path / "out.gguf"
    out.write_bytes(b"old")
    with pytest.raises(ConvertError, match="blk.1.attn_k.weight holds values beyond the range of f16"):
        inject(source, out, Recipe(), "f16")
    assert out.read_bytes() == b"old" and not list(tmp_path.glob("out.gguf.*"))
