"""The converter and odd checkpoints: tied weights stored twice, biases, parameters, values that are no numbers."""

from __future__ import annotations

import json

import convert_hf
import numpy as np
import pytest
import tensor_plan
import tiny_models
from convert_error import ConvertError
from test_convert import BIASED, GQA, convert, edit, types, values
from tiny_models import SHAPES


@pytest.mark.parametrize("slab", [100, tensor_plan.SLAB_ELEMENTS])
def test_tied_weights_that_are_stored_twice_and_differ_are_both_kept_and_it_is_said(
    tmp_path, capsys, monkeypatch, slab
):
    monkeypatch.setattr(tensor_plan, "SLAB_ELEMENTS", slab)
    source = tiny_models.weights(SHAPES["tied"])
    source["lm_head.weight"] = source["model.embed_tokens.weight"].copy()
    source["lm_head.weight"][-1, -1] += 1
    folder = tiny_models.make(tmp_path / "m", SHAPES["tied"], source)
    got = values(convert(folder))
    np.testing.assert_array_equal(got["token_embd.weight"], source["model.embed_tokens.weight"])
    np.testing.assert_array_equal(got["output.weight"], source["lm_head.weight"])
    assert "lm_head.weight is kept" in capsys.readouterr().err


def test_tied_weights_that_are_stored_twice_and_differ_give_the_logits_of_transformers(tmp_path, tools):
    pytest.importorskip("transformers")
    import torch_reference

    source = tiny_models.weights(SHAPES["tied"])
    source["lm_head.weight"] = np.ascontiguousarray(source["model.embed_tokens.weight"][::-1])
    folder = tiny_models.make(tmp_path / "m", SHAPES["tied"], source)
    convert(folder)
    reference = torch_reference.logits(torch_reference.load(folder), list(range(3, 40)))
    got = tools.logits(folder.with_suffix(".gguf"), list(range(3, 40)), tmp_path / "logits")
    # The cache's f16, as in test_logits.py.
    assert np.abs(got - reference).max() < 1e-3 * np.ptp(reference)


def test_biases_are_carried_over_with_q_and_k_interleaved(tmp_path):
    shape = SHAPES["biased"]
    source = tiny_models.weights(shape)
    reader = convert(tiny_models.make(tmp_path / "m", shape, source), "q8_0")
    got = values(reader)
    assert {types(reader)[name] for name in got if name.endswith(".bias")} == {"F32"}
    for name, hf_name in (
        ("attn_v", "self_attn.v_proj"),
        ("attn_output", "self_attn.o_proj"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"),
    ):
        np.testing.assert_array_equal(got[f"blk.1.{name}.bias"], source[f"model.layers.1.{hf_name}.bias"])
    for name, hf_name, n_head in (("attn_q", "q_proj", shape.n_head), ("attn_k", "k_proj", shape.n_head_kv)):
        stored = source[f"model.layers.1.self_attn.{hf_name}.bias"].reshape(n_head, 2, -1)
        np.testing.assert_array_equal(got[f"blk.1.{name}.bias"].reshape(n_head, -1, 2), stored.swapaxes(1, 2))


def test_tensors_of_a_shard_that_its_index_does_not_name_are_not_dropped(tmp_path):
    folder = tiny_models.make(tmp_path / "m", GQA, {})
    tiny_models.save_shards(folder, BIASED, 2)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    del index["weight_map"]["model.layers.0.self_attn.q_proj.bias"]
    edit(folder / "model.safetensors.index.json", **index)
    with pytest.raises(ConvertError, match="q_proj.bias"):
        convert(folder)


WEIGHTS = tiny_models.weights(GQA)


def checkpoint(folder, name, factor):
    """The weights of WEIGHTS times a factor, in the one form of four that is called `name`."""
    tensors = {key: np.float32(factor) * tensor for key, tensor in WEIGHTS.items()}
    shards = tensors if "index" not in name else None
    if name.startswith("model"):
        if shards is None:
            tiny_models.save_shards(folder, tensors, 2)
        else:
            tiny_models.save_safetensors(folder / name, tensors)
        return
    torch = pytest.importorskip("torch")
    files = {name: list(tensors)} if shards else {"part-1.bin": list(tensors)[::2], "part-2.bin": list(tensors)[1::2]}
    for file, names in files.items():
        torch.save({key: torch.from_numpy(tensors[key]) for key in names}, folder / file)
    if shards is None:
        weight_map = {key: file for file, names in files.items() for key in names}
        tiny_models.write_json(folder / name, {"metadata": {}, "weight_map": weight_map})


FORMS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


@pytest.mark.parametrize("n_first", range(4))
def test_of_several_checkpoints_the_one_of_transformers_is_read_and_the_others_are_named(tmp_path, capsys, n_first):
    transformers = pytest.importorskip("transformers")
    folder = tiny_models.make(tmp_path / "m", GQA, {})
    for n in range(n_first, 4):
        checkpoint(folder, FORMS[n], n + 1)
    reader = convert(folder)
    said = [line for line in capsys.readouterr().err.splitlines() if "is read" in line]
    rest = " and ".join(FORMS[n_first + 1 :])
    assert said == ([f"note: {FORMS[n_first]} is read, as by transformers, and not {rest} beside it"] if rest else [])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).state_dict()["model.embed_tokens.weight"]
    np.testing.assert_array_equal(values(reader)["token_embd.weight"], theirs.float().numpy())
    np.testing.assert_array_equal(theirs, (n_first + 1) * WEIGHTS["model.embed_tokens.weight"])


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("place", [0, 1])
def test_a_tensor_of_two_shards_is_refused_by_name(tmp_path, kind, place):
    folder = tiny_models.make(tmp_path / "m", GQA, {})
    twice = list(WEIGHTS)[1 - place]  # the index says that it is in the other
    if kind == "safetensors":
        checkpoint(folder, FORMS[1], 1)
        files = sorted(path.name for path in folder.glob("*.safetensors"))
        part = {key: WEIGHTS[key] for key in (*list(WEIGHTS)[place::2], twice)}
        tiny_models.save_safetensors(folder / files[place], part)
    else:
        torch = pytest.importorskip("torch")
        checkpoint(folder, FORMS[3], 1)
        files = ["part-1.bin", "part-2.bin"]
        part = torch.load(folder / files[place], weights_only=True)
        torch.save({**part, twice: torch.from_numpy(WEIGHTS[twice])}, folder / files[place])
    with pytest.raises(ConvertError) as refused:
        convert(folder)
    assert f"{twice} is in {files[0]} and in {files[1]}" in str(refused.value)


def test_torch_checkpoints_of_parameters_give_the_same_bytes(tmp_path):
    torch = pytest.importorskip("torch")
    source = tiny_models.weights(GQA)
    expected = tiny_models.make(tmp_path / "safetensors" / "m", GQA, source)
    folder = tiny_models.make(tmp_path / "torch" / "m", GQA, {})
    parameters = {name: torch.nn.Parameter(torch.from_numpy(tensor)) for name, tensor in source.items()}
    torch.save(parameters, folder / "pytorch_model.bin")
    convert(expected)
    convert(folder)
    assert expected.with_suffix(".gguf").read_bytes() == folder.with_suffix(".gguf").read_bytes()


@pytest.mark.parametrize(
    "content, message",
    [
        ({"state_dict": {}}, "state_dict is no tensor, but a dict"),
        ([1, 2], "holds no tensors by name, but a list"),
        ({"a": 1.5}, "a is no tensor, but a float"),
        (b"", "pytorch_model.bin is no file that torch.save wrote: it is empty"),
        (b"<html>404", "is no file that torch.save wrote: it begins with b'<html>404'"),
        (b"\x80\x04K\x01.", "is no file that torch.save wrote: it begins with"),
        (b"PK\x03\x04", "cannot be read"),
        ("nested", "a is stored as a nested tensor"),
        ("int8", "a is stored as torch.int8"),
        ("sparse", "a is stored as torch.sparse_coo torch.float32"),
        ("empty", "a is stored as torch.float32 [0, 2]"),
        ("float8", "a is stored as torch.float8_e4m3fn"),
    ],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")
def test_torch_checkpoints_that_hold_something_else_are_refused(tmp_path, content, message):
    torch = pytest.importorskip("torch")
    tensors = {
        "int8": torch.zeros(2, 2, dtype=torch.int8),
        "sparse": torch.zeros(2, 2).to_sparse(),
        "empty": torch.zeros(0, 2),
        "float8": torch.zeros(2, 2).to(torch.float8_e4m3fn),
        "nested": torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
    }
    folder = tiny_models.make(tmp_path / "m", GQA, {})
    if isinstance(content, bytes):
        (folder / "pytorch_model.bin").write_bytes(content)
    else:
        content = {"a": tensors[content]} if isinstance(content, str) else content
        torch.save(content, folder / "pytorch_model.bin")
    with pytest.raises(ConvertError) as refused:
        convert(folder)
    assert message in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("type_name", tensor_plan.TYPES)
@pytest.mark.parametrize("name", ["lm_head.weight", "model.layers.1.input_layernorm.weight"])
def test_values_that_are_no_numbers_are_refused_by_name(tmp_path, type_name, name, value):
    source = tiny_models.weights(GQA)
    source[name].reshape(-1)[-1] = value
    with pytest.raises(ConvertError, match=f"^{name} holds values that are not numbers"):
        convert(tiny_models.make(tmp_path / "m", GQA, source), type_name)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_doubles_beyond_float32_are_refused_and_nothing_else_is_printed(tmp_path, capsys):
    source = {name: tensor.astype(np.float64) for name, tensor in tiny_models.weights(GQA).items()}
    source["lm_head.weight"][0, 0] = 1e300
    folder = tiny_models.make(tmp_path / "m", GQA, {})
    tiny_models.save_safetensors(folder / "model.safetensors", source, "float64")
    with pytest.raises(ConvertError, match="lm_head.weight holds values that are not numbers"):
        convert(folder)
    assert capsys.readouterr().err == ""


def bin_folder(tmp_path, change):
    """A folder whose pytorch_model.bin holds what `change` makes of the tensors; and the tensors."""
    torch = pytest.importorskip("torch")
    source = tiny_models.weights(GQA)
    folder = tiny_models.make(tmp_path / "m", GQA, {})
    tensors = {name: torch.from_numpy(tensor.copy()) for name, tensor in source.items()}
    change(torch, tensors, folder / "pytorch_model.bin")
    return folder, source


def test_torch_checkpoints_of_negative_views_give_the_same_bytes(tmp_path):
    def negative(torch, tensors, path):
        for name, tensor in tensors.items():
            tensors[name] = torch.complex(torch.zeros_like(tensor), -tensor).conj().imag
            assert tensors[name].is_neg()
        torch.save(tensors, path)

    folder, source = bin_folder(tmp_path, negative)
    convert_hf.convert(folder, tmp_path / "a.gguf", "f32")
    plain = tiny_models.make(tmp_path / "plain" / "m", GQA, source)
    convert_hf.convert(plain, tmp_path / "b.gguf", "f32")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_torch_checkpoints_without_values_and_of_old_torch_say_what_to_do(tmp_path):
    def without(torch, tensors, path):
        torch.save(tensors | {"model.norm.weight": tensors["model.norm.weight"].to("meta")}, path)

    def old(torch, tensors, path):
        torch.save(tensors, path, _use_new_zipfile_serialization=False)

    for change, message in ((without, "model.norm.weight has a shape and no values"), (old, "before 1.6.*torch.save")):
        folder, _ = bin_folder(tmp_path, change)
        with pytest.raises(ConvertError, match=message):
            convert_hf.convert(folder, tmp_path / "a.gguf", "f32")


@pytest.mark.parametrize(
    "wrong, message",
    [
        (lambda begin, end: [begin - 4, end - 4], "4 bytes that another tensor has too"),
        (lambda begin, end: [0, end - begin], "bytes that another tensor has too"),
        (lambda begin, end: None, "lost bytes before it"),
    ],
)
def test_tensors_of_safetensors_share_no_bytes_and_leave_none(tmp_path, wrong, message):
    folder = tiny_models.make(tmp_path / "m", GQA)
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    n = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + n])
    name = "model.layers.1.mlp.up_proj.weight"
    offsets = wrong(*header[name]["data_offsets"])
    header[name]["data_offsets"] = offsets
    if offsets is None:
        del header[name]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + n :])
    with pytest.raises(ConvertError, match=message) as refused:
        convert(folder)
    assert "model.safetensors: " in str(refused.value)


def test_bytes_behind_the_last_tensor_are_refused(tmp_path):
    folder = tiny_models.make(tmp_path / "m", GQA)
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"abc")
    with pytest.raises(ConvertError, match="model.safetensors has 3 bytes that are of no tensor"):
        convert(folder)
