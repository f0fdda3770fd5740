"""The public header's example, run: what a C++ program gets from it is what Python gets."""

from __future__ import annotations

import subprocess


def test_the_example_of_the_public_header_says_what_python_says(livekv, tools, story, model, tmp_path):
    kept = tmp_path / "story.kv"
    said = subprocess.run([tools.bin_dir / "livekv-embed", story, kept], capture_output=True, text=True, check=True).stdout
    session = model.session(1024, kv=livekv.KVOptions.parse("small:chunk-size=64"))
    session.load(kept)
    assert session.tokens == model.tokenize("Once upon a time") and session.kv == livekv.KVOptions.preset("small", chunk_size=64)
    first, second = session.fork(), session
    expected = "".join(first.generate(None, 40, temperature=0))
    expected += "\n1:" + "".join(first.generate(" The end.", 8, temperature=0))
    expected += "\n2:" + "".join(second.generate(" there was", 8, temperature=0)) + "\n"
    assert said == expected
    assert expected.count(" ") > 40


def test_the_example_fails_in_one_line(tools, story, tmp_path):
    for arguments, status in (((tmp_path / "none.gguf", tmp_path / "a"), 1), ((story, tmp_path / "no" / "a"), 1), ((story,), 2)):
        done = subprocess.run([tools.bin_dir / "livekv-embed", *arguments], capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (status, "", 1)
