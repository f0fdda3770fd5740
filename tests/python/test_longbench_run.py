"""LongBench runs: results, folders that are gone on with, pairs, the other benchmarks, and bad input."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from longbench_runs import STORY, TEXT, answered, arguments, predictions, write_samples

from python_eval.errors import EvalError
from python_eval.longbench import results, tasks
from python_eval.longbench.__main__ import main
from python_eval.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("livekv")


@pytest.fixture
def samples(tmp_path):
    return write_samples(tmp_path / "data")


def test_a_run_scores_and_is_gone_on_with(samples, tmp_path, capsys):
    out = tmp_path / "out"
    command = arguments(samples, out, wanted="trec,samsum,passage_count")
    assert main(command) == 0
    printed = capsys.readouterr().out
    scores = json.loads((out / "scores.json").read_text())
    assert [row["task"] for row in scores["rows"]] == ["trec", "samsum", "passage_count", "average of the tasks"]
    for form in ("scores.md", "scores.csv", "caches.md", "caches.csv", "summary.md"):
        assert "the scores of these tasks mean nothing" in (out / form).read_text()
    assert "mean nothing" in scores["notes"][0] and printed.startswith((out / "summary.md").read_text().strip())

    # What is recorded is in the official format: the scorer alone says the same.
    for label, folder in (("f16", "f16"), ("livekv:chunk-size=32", "livekv_chunk-size=32")):
        assert main(["--score", str(out / "predictions" / folder)]) == 0
        alone = json.loads(capsys.readouterr().out)
        assert alone == {row["task"]: row[label] for row in scores["rows"][:3]}

    caches = {row["cache"]: row for row in json.loads((out / "caches.json").read_text())["rows"]}
    packed, plain = caches["livekv:chunk-size=32"], caches["f16"]
    assert packed["compression ratio"] < 0.75 < 0.99 < plain["compression ratio"]
    assert packed["memory savings"] == pytest.approx(1 - packed["compression ratio"])
    assert packed["cache MiB, mean"] < plain["cache MiB, mean"] and packed["samples"] == 6
    assert all(row["highest peak"] > row["highest over start"] > row["largest"] for row in caches.values())
    assert all(row["prefill tokens/s"] > row["decode tokens/s"] > 0 and row["TTFT s"] > 0 for row in caches.values())
    lines = [line for line in (out / "caches.csv").read_text().splitlines() if not line.startswith("#")]
    table = list(csv.DictReader(lines))
    assert [row["cache"] for row in table] == ["f16", "livekv:chunk-size=32"]

    # Finished samples are not answered again.
    before = predictions(out)
    assert main(command) == 0 and predictions(out) == before
    # A record that a killed run tore is, and only that one.
    victim = out / "predictions" / "f16" / "trec.jsonl"
    lines = victim.read_bytes().splitlines(keepends=True)
    victim.write_bytes(lines[0] + lines[1][:40])
    said = answered_before = {name: content for name, content in before.items() if not name.endswith("f16/trec.jsonl")}
    assert main(command) == 0
    after = predictions(out)
    assert {name: after[name] for name in said} == answered_before
    again = victim.read_bytes().splitlines(keepends=True)
    assert again[0] == lines[0] and json.loads(again[1])["pred"] == json.loads(lines[1])["pred"]


@pytest.mark.parametrize("kv", ["f16,livekv:chunk-size=32", "q8_0,reference:chunk-size=32"])
def test_answers_of_a_batch_are_those_of_each_alone(samples, tmp_path, kv):
    tiny = ["--model", str(STORY.with_name("tiny.gguf"))]
    for out, batch in (("one", 1), ("four", 4)):
        given = arguments(samples, tmp_path / out, "--batch", batch, kv=kv, wanted="trec,samsum,passage_count", limit=3)
        assert main(given + tiny) == 0
    assert answered(tmp_path / "one") == answered(tmp_path / "four")
    records = [json.loads(line) for content in predictions(tmp_path / "four").values() for line in content.splitlines()]
    assert {record["batch"] for record in records} == {3}  # of a task and cache
    assert all(0 < record["prefill_s"] <= record["ttft_s"] for record in records)
    alone, together = ((tmp_path / out / "caches.md").read_text() for out in ("one", "four"))
    assert "Up to 3 answers advanced together" in together and "advanced together" not in alone


def test_a_run_goes_on_with_another_batch(samples, tmp_path):
    out = tmp_path / "out"
    assert main(arguments(samples, out, "--batch", 2, limit=3)) == 0
    whole = answered(out)
    victim = out / "predictions" / "f16" / "trec.jsonl"
    kept = victim.read_bytes().splitlines(keepends=True)[:1]
    victim.write_bytes(b"".join(kept))
    assert main(arguments(samples, out, "--batch", 3, limit=3)) == 0
    assert answered(out) == whole and victim.read_bytes().startswith(kept[0])


def test_another_configuration_is_refused_by_name(samples, tmp_path, capsys):
    assert main(arguments(samples, tmp_path / "out", kv="f16", wanted="trec", limit=1)) == 0
    row = json.loads((samples / "trec.jsonl").read_text().splitlines()[0])
    (samples / "trec.jsonl").write_text(json.dumps(row | {"input": "Another question?"}) + "\n")
    for changed, field in [
        (arguments(samples, tmp_path / "out", kv="f16", wanted="trec", limit=1), r"data.files.trec.jsonl"),
        (arguments(samples, tmp_path / "out", "--seed", 3, kv="q8_0", wanted="trec", limit=1), "caches.f16"),
    ]:
        assert main(changed) == 1
        assert f"was run with {field} = " in capsys.readouterr().err


def test_differences_are_paired(tmp_path):
    said = {  # hits out of two gold words, and of classes
        "f16": {"qasper": ["a b", "a", "x", "a b"], "trec": ["City", "x"]},
        "q4_0": {"qasper": ["a b", "x", "x", "x"], "trec": ["x", "City"]},
    }
    gold = {"qasper": (["b c"], None), "trec": (["City"], ["City", "Person"])}
    cost = dict.fromkeys(("kv_bytes", "kv_f16_bytes", "rss_peak", "rss_before", "prompt_tokens", "generated_tokens"), 8)
    cost |= dict.fromkeys(("ttft_s", "prefill_s", "decode_s", "seal_s"), 0.5) | {"workers": 1, "_id": "", "length": None}
    facts = {"n_params": 7_000_000_000, "description": "a model"}
    with RunFolder(tmp_path, {}) as folder:
        for cache, by_task in said.items():
            for name, texts in by_task.items():
                answers, classes = gold[name]
                for index, text in reversed(list(enumerate(texts))):
                    record = {"index": index, "pred": text, "answers": answers, "all_classes": classes}
                    folder.append(f"predictions/{cache}/{name}", record | cost)
        results.summarize(folder, dict.fromkeys(said), ["qasper", "trec"], facts, e=False)
        read = folder.read_json("scores.json")
        folder.append("predictions/f16/trec", record | cost | {"index": 2})
        with pytest.raises(EvalError, match="the caches have not answered the same samples"):
            results.summarize(folder, dict.fromkeys(said), ["qasper", "trec"], facts, e=False)
    assert read["notes"] == []  # no warning for a model of some size
    # F1 of "a b" and "b c" is 2/3, an article being no word: f16 scores 2/3, 0, 0, 2/3 and q4_0 2/3, 0, 0, 0.
    qasper, trec, average = read["rows"]
    assert (qasper["f16"], qasper["q4_0"], trec["f16"], trec["q4_0"]) == (33.33, 16.67, 50.0, 50.0)
    difference = np.array([0, 0, 0, -200 / 3])
    se = difference.std(ddof=1) / 2
    assert qasper["q4_0 - f16"] == {"mean": pytest.approx(-50 / 3), "se": pytest.approx(se), "n": 4}
    assert trec["q4_0 - f16"] == {"mean": 0.0, "se": pytest.approx(100.0), "n": 2}
    assert (average["f16"], average["q4_0"], average["samples"]) == (41.66, 33.34, 6)
    half = {"mean": pytest.approx(-25 / 3), "se": pytest.approx(np.hypot(se, 100) / 2), "n": 6}
    assert average["q4_0 - f16"] == half


def test_longbench_e_scores_by_length(samples, tmp_path, capsys):
    assert main(arguments(samples, tmp_path / "out", "--e", kv="f16", wanted="trec", limit=3)) == 0
    rows = json.loads((tmp_path / "out" / "scores.json").read_text())["rows"]
    assert [(row["length"], row["samples"]) for row in rows] == [("0-4k", 1), ("4-8k", 1), ("8k+", 1)]
    capsys.readouterr()
    assert main(["--e", "--score", str(tmp_path / "out" / "predictions" / "f16")]) == 0
    assert json.loads(capsys.readouterr().out) == {"trec": {row["length"]: row["f16"] for row in rows}}
    assert main(arguments(samples, tmp_path / "no", "--e", wanted="lsht")) == 1
    assert "lsht is no task of LongBench-E" in capsys.readouterr().err


def test_longbench_v2_samples_with_a_seed(tmp_path, capsys):
    rows = [
        dict.fromkeys(tasks.V2_FIELDS, "a word") | {
            "context": TEXT[: 3000 * i], "answer": "ABCD"[i], "difficulty": ["easy", "hard"][i % 2],
            "length": ["short", "medium", "long"][i], "_id": str(i), "question": f"Which one is {i}?",
        }
        for i in range(3)
    ]  # fmt: skip
    (tmp_path / "longbench_v2.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(out, *more):
        given = [
            "--n-ctx",
            "384",
            "--threads",
            "1",
            "--kv",
            "f16,f16:chunk-size=64",
            "--data-dir",
            str(tmp_path),
            *more,
        ]
        assert main(["--v2", "--model", str(STORY), "--out", str(tmp_path / out), *given]) == 0
        return answered(tmp_path / out)

    first, again, other = run("a"), run("b"), run("c", "--seed", "5")
    assert first == again != other
    assert set(first) == {"predictions/f16.jsonl", "predictions/f16_chunk-size=64.jsonl"}
    scores = json.loads((tmp_path / "a" / "scores.json").read_text())["rows"]
    assert [row["subset"] for row in scores] == ["overall", "easy", "hard", "short", "medium", "long"]
    capsys.readouterr()
    assert main(["--v2", "--score", str(tmp_path / "a" / "predictions")]) == 0
    assert json.loads(capsys.readouterr().out)["f16"] == {row["subset"]: row["f16"] for row in scores}


def test_the_small_data_set_runs_with_the_shipped_model(shared, tmp_path, capsys):
    given = ["--data-dir", str(shared / "longbench" / "mini"), "--limit", "1", "--n-ctx", "512", "--threads", "1"]
    wanted = ["--tasks", "trec,lsht,passage_retrieval_en", "--kv", "f16,livekv"]
    assert main(["--model", str(STORY), "--out", str(tmp_path / "out"), *wanted, *given]) == 0
    assert "below 500 million the scores of these tasks mean nothing" in capsys.readouterr().out
    assert {name: len(said) for name, said in answered(tmp_path / "out").items()} == {
        f"predictions/{kv}/{task}.jsonl": 1
        for kv in ("f16", "livekv")
        for task in ("trec", "lsht", "passage_retrieval_en")
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--data-dir": "nowhere"}, "nowhere: no such folder"),
        ({"--tasks": "trek"}, "unknown LongBench task 'trek'"),
        ({"--tasks": "lcc"}, "lcc.jsonl: no such file"),
        ({"--kv": "f16,q5"}, "'q5' is neither a policy nor a preset"),
        ({"--kv": "livekv:kv-bits=9"}, "kv-bits"),
        ({"--model": "nowhere.gguf"}, "nowhere.gguf: no such file"),
        ({"--n-ctx": "60"}, "is too short"),
        ({"--model": __file__}, "GGUF"),
    ],
)
def test_bad_input_is_one_line(changes, message, samples, tmp_path, capsys):
    command = arguments(samples, tmp_path / "out", wanted="trec", limit=1)
    for option, value in changes.items():
        command[command.index(option) + 1] = value
    assert main(command) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("longbench: ") and message in said


def test_a_malformed_sample_is_named_by_its_line(samples, tmp_path, capsys):
    with (samples / "trec.jsonl").open("a") as file:
        file.write('{"input": 3}\n')
    assert main(arguments(samples, tmp_path / "out", wanted="trec", limit=1)) == 1
    assert "trec.jsonl:4: 'answers' is missing" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_hub_out_of_reach_is_said_plainly(tmp_path, root):
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed: requirements/eval.txt")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-m", "python_eval.longbench", "--model", STORY, "--tasks", "trec"]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stdout == ""
    assert "zai-org/LongBench/data.zip: cannot be had from the Hugging Face hub" in done.stderr.splitlines()[-1]
