"""No tool writes over what it reads: every option that names a file to write, with every file that is read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

livekv = pytest.importorskip("livekv", reason="the livekv package is not built")
for package in ("tqdm", "optuna", "jinja2"):
    pytest.importorskip(package, reason="requirements/eval.txt is not installed")

import convert_hf  # noqa: E402
import split_gguf  # noqa: E402
import tiny_models  # noqa: E402

from python_eval import cache_profile, calibrate, dequantize, perplexity  # noqa: E402
from python_eval.ablation import __main__ as ablation  # noqa: E402
from python_eval.report import __main__ as report  # noqa: E402
from python_eval.run_folder import RunFolder  # noqa: E402
from python_eval.testbed import inject_outliers  # noqa: E402
from python_eval.tune import __main__ as tune  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
STORY = ROOT / "tests" / "models" / "story.gguf"
TEXT = ROOT / "tests" / "data" / "war-and-peace-opening.txt"
MEASURING = ["--model", "m.gguf", "--data", "t.txt", "--n-ctx", "64", "--windows", "1", "--threads", "1", "--out", "run"]
WITH_KV = [*MEASURING, "--kv", "kvquant:calibration=m.kvquant2", "--data-dir", "data"]
TUNE = [*MEASURING, "--trials", "1", "--held-out", "0"]
OF_WINDOWS = ("m.gguf", "t.txt", "m.kvquant2", "data/trec.jsonl", "data/wiki.test.raw")
PARTS = ("split-00001-of-00003.gguf", "split-00002-of-00003.gguf", "split-00003-of-00003.gguf")
HF = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json",
      "config.json", "tokenizer.json", "tokenizer_config.json", "additional_chat_templates/tools.jinja")  # fmt: skip

# Every tool and option that names a file, its command with {} for the file, and the files that the command reads.
TOOLS = {
    "convert_hf": (convert_hf.main, ["hf", "{}"], tuple(f"hf/{name}" for name in HF)),
    "dequantize": (dequantize.main, ["m.gguf", "{}"], ("m.gguf",)),
    "inject_outliers": (inject_outliers.main, ["m.gguf", "{}"], ("m.gguf",)),
    "calibrate": (
        calibrate.main,
        ["--model", "m.gguf", "--text", "t.txt", "--samples", "1", "--length", "64", "--out", "{}"],
        ("m.gguf", "t.txt"),
    ),
    "calibrate a split model": (
        calibrate.main,
        ["--model", PARTS[0], "--text", "t.txt", "--samples", "1", "--length", "64", "--out", "{}"],
        PARTS,
    ),
    "perplexity": (perplexity.main, [*WITH_KV, "--json", "{}"], OF_WINDOWS),
    "perplexity of a split model": (
        perplexity.main, ["--model", PARTS[2], *MEASURING[2:], "--json", "{}"], PARTS,
    ),
    "cache_profile": (cache_profile.main, [*WITH_KV, "--json", "{}"], OF_WINDOWS),
    "ablation": (
        ablation.main,
        [*MEASURING, "--data-dir", "data", "--vary", "calibration=m.kvquant2", "--baseline", "kvquant:calibration=m.kvquant2", "--json", "{}"],
        OF_WINDOWS,
    ),
    "tune": (tune.main, [*TUNE, "--json", "{}"], ("m.gguf", "t.txt")),
    "tune --storage journal": (tune.main, [*TUNE, "--storage", "journal:{}"], ("m.gguf", "t.txt")),
    "tune --storage sqlite": (tune.main, [*TUNE, "--storage", "sqlite:///{}"], ("m.gguf", "t.txt")),
    "report": (
        report.main, ["results", "--out", "{}"], ("results/config.json", "results/windows.jsonl", "results/arrays/a.npz"),
    ),
}  # fmt: skip
CASES = [(tool, name) for tool, (_, _, names) in TOOLS.items() for name in names]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    shutil.copy(STORY, folder / "m.gguf")
    shutil.copy(TEXT, folder / "t.txt")
    split_gguf.split(folder / "m.gguf", folder / "split", 3)
    command = ["--model", folder / "m.gguf", "--text", TEXT, "--samples", 2, "--length", 64, "--bits", 2]
    assert calibrate.main([str(one) for one in (*command, "--threads", 1)]) == 0
    (folder / "data").mkdir()
    (folder / "data" / "trec.jsonl").write_text("{}\n")
    shutil.copy(TEXT, folder / "data" / "wiki.test.raw")
    hf = tiny_models.make(folder / "hf", tiny_models.SHAPES["gqa_hd64"], {})
    tiny_models.save_shards(hf, tiny_models.weights(tiny_models.SHAPES["gqa_hd64"]), 2)
    (hf / "additional_chat_templates").mkdir()
    (hf / "additional_chat_templates" / "tools.jinja").write_text("{{ messages }}")
    with RunFolder(folder / "results", {"command": "cache_profile", "model": {"file": "m.gguf"}}) as run:
        run.append("windows", {})
        (run.path / "arrays").mkdir()
        (run.path / "arrays" / "a.npz").write_bytes(b"a")
    return folder


@pytest.fixture
def here(inputs, tmp_path, monkeypatch):
    """A copy of every input, the current folder."""
    shutil.copytree(inputs, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")


def contents() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def refused(tool: str, out: str, capsys) -> None:
    main, command, _ = TOOLS[tool]
    before = contents()
    assert main([part.replace("{}", out) for part in command]) == 1
    said = capsys.readouterr()
    assert f"cannot write {out}: it is the input itself" in said.err and said.err.count("\n") == 1, said.err
    assert said.out == "" and contents() == before


@pytest.mark.parametrize(("tool", "name"), CASES)
def test_an_output_that_is_an_input_is_refused_before_anything_is_done(tool, name, here, capsys):
    refused(tool, name, capsys)


@pytest.mark.parametrize("make", [os.symlink, os.link], ids=["symlink", "hard link"])
@pytest.mark.parametrize("tool", TOOLS)
def test_so_is_one_under_another_name(tool, make, here, capsys):
    make(Path(TOOLS[tool][2][-1]).resolve(), "other")
    refused(tool, "other", capsys)


@pytest.mark.parametrize("name", ["windows.jsonl", "config.json", "caches.json"])
def test_json_is_none_of_the_files_that_a_run_goes_on_with(name, here, capsys):
    for _ in range(2):  # in a new folder, and in one that has it
        Path("run").mkdir(exist_ok=True)
        assert perplexity.main([*MEASURING, "--json", f"run/{name}"]) == 1
        said = capsys.readouterr()
        assert f"the run keeps its own {name} there" in said.err and said.err.count("\n") == 1
        assert perplexity.main([*MEASURING, "--json", "run/result.json"]) == 0
        capsys.readouterr()


def test_what_was_made_of_a_folder_is_made_again_in_it(here, capsys):
    for _ in range(2):
        assert convert_hf.main(["hf", "hf/made.gguf"]) == 0
    Path("hf/README.md").write_text("What came with the model, read or not.")
    assert convert_hf.main(["hf", "hf/README.md"]) == 1
    assert "it is the input itself" in capsys.readouterr().err
