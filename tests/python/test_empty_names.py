"""A file's or a folder's name that is empty is refused at once, in one line, by every Python tool."""

from __future__ import annotations

import importlib

import pytest
from test_lost_output import NEEDED

OUT = [(f"python_eval.{name}", ["--model", "m.gguf", "--out", ""], "--out is ''") for name in ("perplexity", "cache_profile")]
CASES = [
    *OUT,
    ("python_eval.perplexity", ["--model", "m.gguf", "--json", ""], "--json is ''"),
    ("python_eval.perplexity", ["--model", "m.gguf", "--json", "none/x.json"], "--json: cannot write none/x.json: its folder"),
    ("python_eval.perplexity", ["--model", "m.gguf", "--json", "."], "--json: cannot write .: it is a folder"),
    ("python_eval.perplexity", ["--model", "m.gguf", "--data-dir", ""], "--data-dir is ''"),
    ("python_eval.cache_profile", ["--model", "", "--out", "o"], "--model is ''"),
    ("python_eval.ablation.__main__", ["--study", "bits", "--model", "m.gguf", "--out", ""], "--out is ''"),
    ("python_eval.tune.__main__", ["--model", "m.gguf", "--out", ""], "--out is ''"),
    ("python_eval.longbench.__main__", ["--model", "m.gguf", "--out", ""], "--out is ''"),
    ("python_eval.retrieval.__main__", ["--model", "m.gguf", "--out", ""], "--out is ''"),
    ("python_eval.tools.__main__", ["--model", "m.gguf", "--out", ""], "--out is ''"),
    ("python_eval.report.__main__", [""], "RESULTS is ''"),
    ("python_eval.report.__main__", ["r", "--out", ""], "--out is ''"),
    ("python_eval.fetch", ["--data", "wikitext", "--out", ""], "--out is ''"),
    ("python_eval.dequantize", ["a.gguf", ""], "OUT.gguf is ''"),
    ("convert_hf", ["", "m.gguf"], "HF_DIR is ''"),
    ("convert_hf", [".", ""], "OUT.gguf is ''"),
]


@pytest.mark.parametrize(("module", "arguments", "message"), CASES)
def test_an_empty_name_is_refused_at_once(livekv, tmp_path, monkeypatch, capsys, module, arguments, message):
    pytest.importorskip(NEEDED.get(module.removesuffix(".__main__"), "sys"))
    monkeypatch.chdir(tmp_path)
    assert importlib.import_module(module).main(arguments) == 1
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1) and message in said.err
    assert list(tmp_path.iterdir()) == []
