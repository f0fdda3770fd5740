"""python_eval.dequantize: the numbers quantized weights stand for, every key, and nothing left behind by a refusal."""

from __future__ import annotations

import subprocess
import sys

import convert_hf
import gguf
import numpy as np
import pytest
import tiny_models
from conftest import ROOT
from convert_error import ConvertError
from gguf import GGMLQuantizationType, GGUFReader, quants
from tiny_models import SHAPES

from python_eval.dequantize import dequantize


@pytest.fixture
def quantized(tmp_path):
    path = tmp_path / "q4.gguf"
    convert_hf.convert(tiny_models.make(tmp_path / "m", SHAPES["gqa_hd64"]), path, "q4_0")
    return path


@pytest.mark.parametrize("kind, type_", [("f32", GGMLQuantizationType.F32), ("f16", GGMLQuantizationType.F16)])
def test_weights_are_what_the_quantized_ones_stand_for_and_keys_stay(quantized, tmp_path, kind, type_):
    out = tmp_path / "out.gguf"
    dequantize(quantized, out, kind)
    before, after = GGUFReader(quantized), GGUFReader(out)
    assert [t.name for t in before.tensors] == [t.name for t in after.tensors]
    n_quantized = 0
    for old, new in zip(before.tensors, after.tensors, strict=True):
        n_quantized += old.tensor_type == GGMLQuantizationType.Q4_0
        assert list(old.shape) == list(new.shape)
        matrix = len(old.shape) > 1
        assert new.tensor_type == (type_ if matrix else GGMLQuantizationType.F32)
        exact = quants.dequantize(old.data, old.tensor_type).reshape(new.data.shape)
        np.testing.assert_array_equal(new.data, exact.astype(np.float16) if matrix and kind == "f16" else exact)
    assert n_quantized > 5
    keys = {k for k in before.fields if not k.startswith("GGUF.")} - {"general.file_type"}
    assert keys == {k for k in after.fields if not k.startswith("GGUF.")} - {"general.file_type"}
    for key in keys:
        assert before.fields[key].contents() == after.fields[key].contents(), key
    assert after.fields["general.file_type"].contents() == {"f32": 0, "f16": 1}[kind]


def test_what_it_writes_runs(livekv, quantized, tmp_path):
    out = tmp_path / "out.gguf"
    dequantize(quantized, out)
    tokens = [(7 * i * i + 3 * i) % tiny_models.N_VOCAB for i in range(40)]
    rows = [np.asarray(livekv.Model(str(path)).session(n_ctx=64).eval(tokens)) for path in (quantized, out)]
    difference = np.abs(rows[0] - rows[1]).max() / np.ptp(rows[1])
    assert 0 < difference < 0.05  # the activations' rounding, and nothing else


def test_the_engine_dequantizes_as_it_does(livekv, quantized, tmp_path):
    out = tmp_path / "out.gguf"
    dequantize(quantized, out)
    tokens = [(7 * i * i + 3 * i) % tiny_models.N_VOCAB for i in range(40)]
    models = (livekv.Model(str(quantized), dequantize=True), livekv.Model(str(out)))
    rows = [np.asarray(model.session(n_ctx=64).eval(tokens)) for model in models]
    np.testing.assert_array_equal(rows[0], rows[1])


@pytest.mark.parametrize(
    "prepare, message",
    [
        (lambda source, out: (source.with_name("none.gguf"), out), "No such file"),
        (lambda source, out: (source, source), "is the input itself"),
        (lambda source, out: (source, out.parent / "none" / "o.gguf"), "its folder does not exist"),
        (lambda source, out: (source, out.parent), "it is a folder"),
    ],
)
def test_refusals_are_one_line_and_leave_nothing(quantized, tmp_path, prepare, message):
    source, out = prepare(quantized, tmp_path / "out.gguf")
    before = {path: path.stat().st_size for path in tmp_path.iterdir()}
    command = [sys.executable, "-m", "python_eval.dequantize", str(source), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 1 and done.stdout == "" and done.stderr.startswith("dequantize: ")
    assert done.stderr.count("\n") == 1 and message in done.stderr
    assert {path: path.stat().st_size for path in tmp_path.iterdir()} == before


def test_a_torn_file_and_one_of_several_parts_are_refused(quantized, tmp_path):
    torn = tmp_path / "torn.gguf"
    torn.write_bytes(quantized.read_bytes()[:3000])
    with pytest.raises(ConvertError, match="no complete GGUF file"):
        dequantize(torn, tmp_path / "out.gguf")
    part = tmp_path / "part.gguf"
    writer = gguf.GGUFWriter(part, "llama")
    writer.add_uint16("split.count", 2)
    writer.add_tensor("x", np.zeros(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ConvertError, match="one of several parts"):
        dequantize(part, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()
