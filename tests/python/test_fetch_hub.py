"""Fetching: what the hub gives lands where the tools look for it, and a hub out of reach is said in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

huggingface_hub = pytest.importorskip(
    "huggingface_hub", reason="huggingface_hub is not installed: requirements/eval.txt"
)
pytest.importorskip("datasets", reason="datasets is not installed: requirements/eval.txt")

from python_eval import fetch  # noqa: E402
from python_eval.longbench import data, tasks  # noqa: E402

SAMPLE = {"input": "q", "context": "c", "answers": ["a"], "length": 1, "all_classes": ["a"], "_id": "1"}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Files of the hub as they lie there, given out by its client's own call."""
    folder = tmp_path / "hub"
    folder.mkdir()
    with zipfile.ZipFile(folder / "data.zip", "w") as packed:
        for task in ("trec", "trec_e"):
            packed.writestr(f"data/{task}.jsonl", json.dumps(SAMPLE | {"input": task}) + "\n")
        packed.writestr("__MACOSX/data/._trec.jsonl", b"\0")
    v2 = dict.fromkeys((*tasks.V2_FIELDS, "difficulty", "length", "_id"), "x") | {"answer": "A"}
    (folder / "data.json").write_text(json.dumps([v2, v2 | {"context": "é\u2028"}]))
    asked = []

    def download(repository, name, repo_type):
        asked.append((repository, name, repo_type))
        return str(folder / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def test_longbench_lands_in_a_data_folder(hub, tmp_path, capsys):
    assert fetch.main(["--data", "longbench,longbench-v2", "--out", str(tmp_path / "data")]) == 0
    assert hub == [
        ("zai-org/LongBench", "data.zip", "dataset"), ("zai-org/LongBench-v2", "data.json", "dataset"),
    ]  # fmt: skip
    folder = tmp_path / "data" / "longbench"
    assert sorted(path.name for path in folder.iterdir()) == ["longbench_v2.jsonl", "trec.jsonl", "trec_e.jsonl"]
    assert [one.input for one in data.read_samples(folder, tasks.task("trec"))] == ["trec"]
    assert [one.input for one in data.read_samples(folder, tasks.task("trec"), e=True)] == ["trec_e"]
    assert [row["context"] for row in data.read_v2(folder / "longbench_v2.jsonl")] == ["x", "é\u2028"]
    assert f"longbench: 2 files in {folder}" in capsys.readouterr().out


def test_wikitext_is_one_text_a_split(tmp_path, monkeypatch):
    import datasets

    splits = {split: {"text": ["", f" = {split} = \n", "words\n"]} for split in ("test", "validation", "train")}
    monkeypatch.setattr(datasets, "load_dataset", lambda name, part: splits)
    assert fetch.main(["--data", "wikitext", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "wikitext-2-raw" / "wiki.test.raw").read_text() == " = test = \nwords\n"
    assert (tmp_path / "wikitext-2-raw" / "wiki.valid.raw").read_text() == " = validation = \nwords\n"


def test_a_checkpoint_is_converted(tmp_path, monkeypatch, capsys, livekv):
    import tiny_models

    folder = tiny_models.make(tmp_path / "gqa", tiny_models.SHAPES["gqa_hd64"])
    wanted = []

    def snapshot(repository, allow_patterns):
        wanted.extend(allow_patterns)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda repository: ["config.json", "model.safetensors"])
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    command = ["--model", "someone/tiny", "--out", str(tmp_path / "data"), "--type", "f16"]
    assert fetch.main(command) == 0
    assert "*.safetensors" in wanted and "*.bin" not in wanted
    model = tmp_path / "data" / "models" / "someone--tiny-f16.gguf"
    assert livekv.Model(model).n_head_kv == 2
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)  # not asked again
    assert fetch.main(command) == 0 and "is there already" in capsys.readouterr().out


@pytest.mark.parametrize("given", [["--data", "longbench"], ["--data", "wikitext"], ["--model", "someone/tiny"]])
def test_a_hub_out_of_reach_is_one_line(given, tmp_path, root, livekv):
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-m", "python_eval.fetch", *given, "--out", str(tmp_path / "data")]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith("fetch: ") and "cannot be had from the Hugging Face hub" in last
    assert not list(Path(tmp_path / "data").rglob("*.*"))


def test_what_is_not_known_is_refused(capsys, tmp_path):
    assert fetch.main(["--data", "longbench,pile", "--out", str(tmp_path)]) == 1
    assert "unknown data set 'pile'; there are longbench, longbench-v2, wikitext" in capsys.readouterr().err
    with pytest.raises(SystemExit) as wrong:
        fetch.main([])
    assert wrong.value.code == 2
