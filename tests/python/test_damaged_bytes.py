"""Files with bytes that are no UTF-8 where messages quote them: livekv.Error and one line, never a decoding error."""

from __future__ import annotations

import random
import subprocess

import convert_hf
import pytest
import tiny_models
from tiny_models import SHAPES


@pytest.fixture(scope="module")
def model_bytes(tmp_path_factory):
    folder = tiny_models.make(tmp_path_factory.mktemp("bytes") / "m", SHAPES["gqa_hd64"])
    convert_hf.convert(folder, folder.with_suffix(".gguf"), "f16")
    return folder.with_suffix(".gguf").read_bytes()


# Names and strings of the file, each with its last byte made one that ends no character.
@pytest.mark.parametrize("name", [b"general.architecture", b"llama.block_count", b"tokenizer.ggml.model", b"blk.0.attn_q.weight",
                                  b"output_norm.weight", b"tokenizer.ggml.tokens", b"llama"])  # fmt: skip
@pytest.mark.parametrize("byte", [0xFF, 0xC3, 0x0A])
def test_a_gguf_file(livekv, tools, model_bytes, tmp_path, name, byte):
    at = model_bytes.index(name) if name != b"llama" else model_bytes.index(b"llama", model_bytes.index(b"architecture"))
    broken = bytearray(model_bytes)
    broken[at + len(name) - 1] = byte
    (tmp_path / "m.gguf").write_bytes(broken)
    said = None
    try:
        livekv.Model(tmp_path / "m.gguf", n_threads=1)
    except livekv.Error as problem:
        said = str(problem)
    done = subprocess.run([tools.bin_dir / "livekv-cli", "-m", tmp_path / "m.gguf", "-p", "x", "-n", "1", "-t", "1"],
                          capture_output=True)  # fmt: skip
    if said is not None:
        assert done.returncode == 1 and done.stderr.decode() == f"livekv-cli: {said}\n" and said.isprintable()
    else:
        assert done.returncode == 0


def test_the_architecture_is_quoted_as_it_is(livekv, model_bytes, tmp_path):
    at = model_bytes.index(b"llama", model_bytes.index(b"architecture"))
    (tmp_path / "m.gguf").write_bytes(model_bytes[:at] + b"l\xff\xfe\na" + model_bytes[at + 5 :])
    with pytest.raises(livekv.Error, match=r"l\\xff\\xfe\\x0aa"):
        livekv.Model(tmp_path / "m.gguf")


def test_saved_caches(livekv, model_bytes, tmp_path):
    (tmp_path / "m.gguf").write_bytes(model_bytes)
    model = livekv.Model(tmp_path / "m.gguf", n_threads=1)
    session = model.session(256, kv=livekv.KVOptions(chunk_size=32, warmup_chunks=1))
    session.prefill([1, *range(3, 80)])
    session.save(tmp_path / "whole.kv")
    whole = (tmp_path / "whole.kv").read_bytes()
    rng = random.Random(1)
    n_refused = 0
    for _ in range(600):
        broken = bytearray(whole)
        for _ in range(rng.randint(1, 3)):  # most of them where names and options are
            broken[rng.randrange(min(len(broken), 2000))] = rng.choice([0xFF, 0xC3, 0x80, 0x0A, rng.randrange(256)])
        (tmp_path / "broken.kv").write_bytes(broken)
        try:
            model.session(256).load(tmp_path / "broken.kv")
        except livekv.Error as problem:
            n_refused += 1
            assert str(problem).isprintable()
    assert n_refused > 500
