"""What a command or a session reads is not replaced by what it writes, whatever name leads to the file."""

from __future__ import annotations

import os
import shutil

import pytest


@pytest.fixture
def model_file(story, tmp_path):
    return shutil.copy(story, tmp_path / "m.gguf")


def one_line(done, text):
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and text in done.stderr, done.stderr


@pytest.mark.parametrize("option", ["--kv-save", "--stats"])
@pytest.mark.parametrize("kind", ["model", "hard link", "link", "prompt"])
def test_the_command_line(tools, tmp_path, model_file, option, kind):
    prompt = tmp_path / "p.txt"
    prompt.write_text("Once")
    out = {"model": model_file, "prompt": prompt}.get(kind, tmp_path / "other")
    if kind == "hard link":
        os.link(model_file, out)
    elif kind == "link":
        out.symlink_to(model_file)
    before = out.read_bytes()
    done = tools.run("livekv-cli", "-m", model_file, "-f", prompt, "-n", 2, option, out, check=False)
    one_line(done, "it is a file that is read here")
    assert done.stdout == "" and out.read_bytes() == before


def test_a_cache_is_saved_where_it_was_loaded_from(tools, tmp_path, model_file):
    for more in ((), ("--kv-load", tmp_path / "c.kv")):
        tools.run("livekv-cli", "-m", model_file, "-p", "Once", "-n", 2, *more, "--kv-save", tmp_path / "c.kv")


def test_perplexity(tools, tmp_path, model_file, opening):
    text = shutil.copy(opening, tmp_path / "t.txt")
    for out in (model_file, text):
        before = out.read_bytes()
        options = ("-m", model_file, "-f", text, "-c", 64, "--kl-base", "f16", "--kl-tokens", out)
        done = tools.run("livekv-perplexity", *options, check=False)
        one_line(done, "it is a file that is read here")
        assert out.read_bytes() == before


def test_a_session_beside_its_model(livekv, tmp_path, model_file):
    before = model_file.read_bytes()
    model = livekv.Model(model_file, n_threads=1)
    session = model.session(64)
    session.prefill([1, 2, 3])
    with pytest.raises(livekv.Error, match="it is a file that is read here"):
        session.save(model_file)
    assert model_file.read_bytes() == before
    session.save(tmp_path / "c.kv")
    session.save(tmp_path / "c.kv")
    del session, model
    other = livekv.Model(shutil.copy(model_file, tmp_path / "n.gguf"), n_threads=1).session(64)
    other.prefill([1, 2, 3])
    other.save(model_file)  # which nobody reads any more
    assert model_file.read_bytes() != before
