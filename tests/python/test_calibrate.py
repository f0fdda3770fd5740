"""python_eval.calibrate: what of the model it looks at, the file, and what is refused."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from kvquant_reference import turned

livekv = pytest.importorskip("livekv", reason="the livekv package is not built")
pytest.importorskip("tqdm", reason="requirements/eval.txt is not installed")

from python_eval import calibrate  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
STORY = ROOT / "tests" / "models" / "story.gguf"
TEXT = ROOT / "tests" / "data" / "war-and-peace-opening.txt"
SMALL = ("--samples", 3, "--length", 100, "--threads", 1)


def run(*options: object, model: Path = STORY, text: Path = TEXT) -> int:
    return calibrate.main([str(one) for one in ("--model", model, "--text", text, *options)])


@pytest.fixture(scope="module")
def model():
    return livekv.Model(STORY, n_threads=1)


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("calibration") / "story.kvquant4"
    assert run(*SMALL, "--out", path) == 0
    return path


def test_it_reads_keys_before_rope_and_values():
    model = livekv.Model(STORY, n_threads=1, dequantize=True)  # products of rows in 8 bits roll roundings anew
    tokens = model.tokenize(TEXT.read_text())[:100]
    sessions = [model.session(100, kv=livekv.KVOptions.parse(spec)) for spec in (calibrate.EXACT, "f16")]
    for session in sessions:
        session.prefill(tokens)
    for layer in range(model.n_layer):
        exact, f16 = (session.kv_dump(layer) for session in sessions)
        scale = np.abs(f16["k_stored"]).max()
        assert np.abs(turned(model, layer, exact["k_stored"]) - f16["k_stored"]).max() < 3e-3 * scale
        assert np.abs(exact["v_stored"] - f16["v_stored"]).max() < 3e-3 * np.abs(f16["v_stored"]).max()
    assert np.abs(exact["k_stored"] - f16["k_stored"]).max() > 0.1 * scale  # they are before it


def test_samples_are_spread_over_the_text(model):
    tokens = model.tokenize(TEXT.read_text(), add_special=False)
    samples = calibrate.cut_samples(model, TEXT.read_text(), 3, 100)
    n = 100 - model.adds_bos
    starts = [0, (len(tokens) - n) // 2, len(tokens) - n]
    bos = [model.bos_token] if model.adds_bos else []
    assert samples == [bos + tokens[start : start + n] for start in starts]
    assert calibrate.cut_samples(model, TEXT.read_text(), 1, 100) == samples[:1]


def test_the_file_holds_the_quantiles_of_all_samples_but_their_first_tokens(model, file):
    read = livekv.kv.read_kvquant_calibration(file)
    assert read.bits == 4 and len(read.layers) == model.n_layer
    assert read.model["n_layer"] == str(model.n_layer) and len(read.model["weights"]) == 16
    samples = calibrate.cut_samples(model, TEXT.read_text(), 3, 100)
    for layer in (0, model.n_layer - 1):
        k, v = [], []
        for sample in samples:
            session = model.session(100, kv=livekv.KVOptions.parse(calibrate.EXACT))
            session.prefill(sample)
            dump = session.kv_dump(layer)
            k.append(dump["k_stored"][:, 1:])
            v.append(dump["v_stored"][:, 1:])
        k, v = np.concatenate(k, axis=1), np.concatenate(v, axis=1)
        one = read.layers[layer]
        np.testing.assert_array_equal(one.lower, np.quantile(k, 0.005, axis=1, method="nearest"))
        np.testing.assert_array_equal(one.upper, -np.quantile(-k, 0.005, axis=1, method="nearest"))
        for book, x, ranges in (
            (one.k_codebook, k, (one.lower, one.upper)),
            (one.v_codebook, v, livekv.kv.kvquant_value_ranges(np.ascontiguousarray(v))),
        ):
            assert book.shape == (16,) and (np.diff(book) > 0).all() and -1 <= book[0] and book[-1] <= 1
            within = livekv.kv.kvquant_normalized(x, *ranges)
            nearest = np.abs(within[:, None] - book).argmin(axis=1)  # every entry is the mean of what is nearest to it
            for i, level in enumerate(book):
                assert level == pytest.approx(within[nearest == i].mean(), abs=1e-5)


def test_it_lies_beside_the_model_unless_told_otherwise(tmp_path, capsys):
    model = tmp_path / "a.model.gguf"
    model.symlink_to(STORY)
    assert run(*SMALL, "--bits", 3, model=model) == 0
    assert livekv.kv.read_kvquant_calibration(tmp_path / "a.model.kvquant3").bits == 3
    assert "a.model.kvquant3: 3 bits" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.model.gguf", "a.model.kvquant3"]


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path, capsys):
    assert run(*SMALL, "--out", tmp_path / "no" / "x") == 1
    assert "its folder does not exist" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--samples", 500), "the text has"),
        (("--length", 1), "--length 1 leaves nothing behind the first token"),
        (("--text", "nowhere.txt"), "nowhere.txt: no such file"),
        (("--model", "nowhere.gguf"), "nowhere.gguf: no such file"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_in_one_line(tmp_path, capsys, options, message):
    assert run(*SMALL, "--out", tmp_path / "x", *options) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and message in lines[0]
    assert list(tmp_path.iterdir()) == []


def refused(path: Path, message: str) -> None:
    with pytest.raises(livekv.Error) as raised:
        livekv.kv.read_kvquant_calibration(path)
    assert message in str(raised.value) and str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_a_missing_foreign_or_damaged_file_is_refused(tmp_path, file):
    refused(tmp_path / "none", "cannot open")
    refused(tmp_path, "is not a file but a folder")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "is not a file")
    refused(STORY, "not a calibration; python -m python_eval.calibrate makes one")
    path = tmp_path / "x"
    path.write_bytes(b"")
    refused(path, "is empty")
    whole = file.read_bytes()
    path.write_bytes(whole[:8] + struct.pack("<I", 2) + whole[12:])
    refused(path, "a calibration of file version 2, this livekv reads 1")
    for n in (9, 15, 20, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:n])
        refused(path, "cut off")
    for at in (13, 25, 300, len(whole) - 1):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        refused(path, "its checksum is wrong")
    path.write_bytes(whole + b"x")
    refused(path, "its checksum is wrong")


def test_layers_that_are_not_the_models_are_not_written(tmp_path, model, file):
    layers = livekv.kv.read_kvquant_calibration(file).layers
    path = tmp_path / "x"
    with pytest.raises(livekv.Error, match=f"a calibration of 1 layers is none of a model of {model.n_layer}"):
        livekv.kv.write_kvquant_calibration(path, model, layers[:1], bits=4)
    with pytest.raises(livekv.Error, match=r"k_codebook must be numbers of shape \[8\]"):
        livekv.kv.write_kvquant_calibration(path, model, layers, bits=3)
    other = [livekv.kv.KVQuantLayer(one.lower[:1], one.upper[:1], one.k_codebook, one.v_codebook) for one in layers]
    with pytest.raises(livekv.Error, match=r"lower must be numbers of shape \[2, 64\]"):
        livekv.kv.write_kvquant_calibration(path, model, other, bits=4)
    fallen = [livekv.kv.KVQuantLayer(one.upper, one.lower, one.k_codebook, one.v_codebook) for one in layers]
    with pytest.raises(livekv.Error, match="a lower threshold is above the upper one"):
        livekv.kv.write_kvquant_calibration(path, model, fallen, bits=4)
    falling = [livekv.kv.KVQuantLayer(one.lower, one.upper, one.k_codebook[::-1], one.v_codebook) for one in layers]
    with pytest.raises(livekv.Error, match="a codebook does not ascend"):
        livekv.kv.write_kvquant_calibration(path, model, falling, bits=4)
    assert not path.exists()
