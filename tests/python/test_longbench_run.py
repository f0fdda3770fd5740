"""LongBench runs: prompts, decoding, folders that are gone on with, results, workers, and what goes wrong."""

from __future__ import annotations

import csv
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from python_eval.errors import EvalError
from python_eval.longbench import answer, data, prepare, results, tasks
from python_eval.longbench.__main__ import main
from python_eval.longbench.run import Answerer
from python_eval.run_folder import RunFolder

STORY = Path(__file__).resolve().parents[1] / "models" / "story.gguf"
TEXT = (Path(__file__).resolve().parents[1] / "data" / "war-and-peace-opening.txt").read_text()


livekv: Any = None  # the package, once there is a test that needs it


@pytest.fixture(scope="module", autouse=True)
def _package(livekv):
    globals()["livekv"] = livekv


@pytest.fixture(scope="module")
def model(livekv):
    return livekv.Model(STORY)


@pytest.fixture
def samples(tmp_path):
    """Three tasks of three samples each in the benchmark's schema, from a novel."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name, classes in (("trec", ["Person", "City"]), ("samsum", None), ("passage_count", None)):
        rows = [
            {
                "input": f"Question {i}?",
                "context": TEXT[i * 500 : i * 500 + 2500],
                "answers": ["the", "Person"] if classes is None else ["Person"],
                "length": 3000 + 3000 * i,
                "all_classes": classes,
                "_id": f"{name}-{i}",
            }
            for i in range(3)
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines)
        (folder / f"{name}_e.jsonl").write_text(lines)
    return folder


def arguments(samples, out, *more, kv="f16,livekv:chunk-size=32", wanted="trec,passage_count", limit=2):
    return [
        "--model", str(STORY), "--data-dir", str(samples), "--out", str(out), "--kv", kv, "--tasks", wanted,
        "--limit", str(limit), "--n-ctx", "256", "--threads", "1", *map(str, more),
    ]  # fmt: skip


def predictions(out):
    return {str(path.relative_to(out)): path.read_bytes() for path in (out / "predictions").rglob("*.jsonl")}


def answered(out):
    """What the model said, without what it took."""
    return {
        name: sorted((record["index"], record.get("pred"), record.get("response")) for record in map(json.loads, lines))
        for name, lines in ((name, content.splitlines()) for name, content in predictions(out).items())
    }


# --- prompts and decoding ---


class WithTemplate:
    """The model with a chat template put on it."""

    has_chat_template = True

    def __init__(self, model):
        self.tokenize, self.detokenize = model.tokenize, model.detokenize

    def apply_chat_template(self, messages):
        return f"[INST] {messages[0]['content']} [/INST]"


def test_prompts_leave_room_for_the_answer(model):
    sample = data.Sample(("x",), (), 1, context=TEXT[:6000], input="Who is it?")
    for name in ("qasper", "trec"):
        task = tasks.task(name)
        full = task.prompt({"context": sample.context, "input": sample.input})
        cut = prepare.prepare(model, task, sample, 700)
        assert 700 - task.max_gen - 20 < len(cut.ids) <= 700 - task.max_gen and cut.cut
        whole = prepare.prepare(model, task, sample, 4096)
        assert whole.ids == model.tokenize(full) and not whole.cut
        text = model.detokenize(cut.ids)
        half = (len(cut.ids) - 8) * 3 // 8  # characters, fewer than a half's tokens have
        assert text[:half] == full[:half] and text[-half:] == full[-half:]
        limited = prepare.prepare(model, task, sample, 700, 100)
        assert 95 <= len(limited.ids) <= 105 and limited.cut


def test_chat_templates_are_for_the_tasks_that_have_one(model):
    sample = data.Sample(("x",), (), 1, context=TEXT[:6000], input="Who is it?")
    for name, wrapped in (("qasper", True), ("trec", False), ("lcc", False), ("samsum", False)):
        prompt = prepare.prepare(WithTemplate(model), tasks.task(name), sample, 700)
        text = model.detokenize(prompt.ids)
        assert (text.startswith("[INST] ") and text.endswith(" [/INST]")) == wrapped
        assert 700 - tasks.task(name).max_gen - 20 < len(prompt.ids) <= 700 - tasks.task(name).max_gen
    assert "[INST]" not in model.detokenize(prepare.prepare(model, tasks.task("qasper"), sample, 700, chat=False).ids)


def test_a_context_without_room_is_refused(model):
    sample = data.Sample(("x",), (), 1, context=TEXT, input="")
    with pytest.raises(tasks.LongBenchError, match="a context that leaves -12 tokens to a prompt is too short"):
        prepare.prepare(model, tasks.task("gov_report"), sample, 500)


def test_an_answer_is_the_command_lines(model, tools, tmp_path):
    ids = model.tokenize(TEXT)[:300]
    (tmp_path / "prompt.txt").write_text(model.detokenize(ids))
    assert model.tokenize((tmp_path / "prompt.txt").read_text()) == ids
    for kv in ("f16", "livekv"):
        got = answer.answer(model, ids, answer.Decoding(40), livekv.KVOptions.parse(kv), 1)
        said = tools.run(
            "livekv-cli", "-m", STORY, "-f", tmp_path / "prompt.txt", "-n", 40, "--temp", 0, "--kv", kv, "-t", 1
        ).stdout
        assert got["pred"].strip() == said.strip() != ""
        assert (got["prompt_tokens"], got["generated_tokens"], got["finish_reason"]) == (300, 40, "length")
        assert 0 < got["prefill_s"] <= got["ttft_s"] and got["decode_s"] > 0
        assert got["rss_before"] < got["rss_peak"] < got["rss_before"] + (64 << 20)


class Scripted:
    """A model of eight tokens, 6 the newline and 7 the end, that prefers given tokens one after the other."""

    n_vocab = 8

    def __init__(self, *preferred):
        self.rows = [
            np.array([float(8 - order.index(t)) if t in order else 0.0 for t in range(8)]) for order in preferred
        ]

    def tokenize(self, text, add_special=True):
        return [6]

    def is_end_of_generation(self, token):
        return token == 7

    def prefill(self, tokens):
        return self.rows.pop(0)

    def eval(self, tokens):
        return self.rows.pop(0)[None]

    def kv_stats(self):
        return SimpleNamespace(seal_s=0.0)


@pytest.mark.parametrize(
    ("preferred", "tokens", "reason"),
    [
        ([[6, 7, 3], [4], [6]], [3, 4, 6], "stop"),  # neither newline nor end comes first
        ([[2], [7]], [2], "eos"),
        ([[2], [3], [4], [5]], [2, 3, 4, 5], "length"),
    ],
)
def test_samsum_ends_at_a_newline_but_does_not_begin_with_one(preferred, tokens, reason):
    script = Scripted(*preferred)
    assert tasks.task("samsum").stop_at_newline and answer.decoding(tasks.task("samsum")).stop_at_newline
    got, measures = answer._until_newline(script, script, [0], answer.Decoding(4, stop_at_newline=True))
    assert got == tokens and measures["finish_reason"] == reason and not script.rows


# --- runs ---


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
    assert packed["compression ratio"] < 0.7 < 0.99 < plain["compression ratio"]
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
    cost |= dict.fromkeys(("ttft_s", "prefill_s", "decode_s", "seal_s"), 0.5) | {"workers": 1}
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
        folder.append("predictions/f16/trec", {"index": 2})
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


# --- workers, and runs that are stopped ---


def start(command, root, **more):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "python_eval.longbench", *command],
        cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more,
    )  # fmt: skip


def until(condition, process):
    for _ in range(600):
        if condition():
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    raise AssertionError("nothing happened within a minute")


def n_answers(out):
    return sum(content.count(b"\n") for content in predictions(out).values()) if out.exists() else 0


def test_workers_answer_as_one_does(samples, tmp_path, monkeypatch):
    assert main(arguments(samples, tmp_path / "one")) == 0
    monkeypatch.setattr(Answerer, "__call__", None)  # of this process; the workers import their own
    assert main(arguments(samples, tmp_path / "two", "--workers", 2)) == 0
    assert answered(tmp_path / "one") == answered(tmp_path / "two") and n_answers(tmp_path / "two") == 8
    assert "measured with 2 answers at a time" in (tmp_path / "two" / "caches.md").read_text()


def test_a_killed_run_goes_on(samples, tmp_path, root):
    out = tmp_path / "out"
    command = arguments(samples, out, wanted="trec,samsum,passage_count", limit=3)
    run = start(command, root)
    until(lambda: n_answers(out) >= 2, run)
    run.kill()
    run.communicate()
    kept = predictions(out)
    assert 2 <= n_answers(out) < 18 and not (out / "scores.json").exists()
    assert main(command) == 0
    assert n_answers(out) == 18 and (out / "scores.json").exists()
    complete = [name for name, content in kept.items() if content.endswith(b"\n")]
    assert all(predictions(out)[name].startswith(kept[name]) for name in complete) and complete


def children(process):
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def is_worker(pid):
    return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_worker_that_is_killed_loses_nothing_finished(samples, tmp_path, root):
    out = tmp_path / "out"
    command = arguments(samples, out, "--workers", 2, wanted="trec,samsum,passage_count", limit=3)
    run = start(command, root)
    until(lambda: n_answers(out) >= 1, run)
    os.kill(next(pid for pid in children(run) if is_worker(pid)), signal.SIGKILL)
    _, said = run.communicate()
    assert run.returncode == 1, said
    assert "longbench: a worker process died (SIGKILL: out of memory?); what is finished is kept" in said
    n = n_answers(out)
    assert 1 <= n < 18
    assert main(command) == 0 and n_answers(out) == 18


def test_a_full_disk_keeps_what_is_finished(samples, tmp_path, root):
    out = tmp_path / "out"
    command = arguments(samples, out, kv="f16", wanted="trec", limit=3)
    # Room for one answer with what it took, and not for two.
    run = start(command, root, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1400, 1400)))
    _, said = run.communicate()
    assert run.returncode == 1 and "trec.jsonl: cannot write: File too large; what is finished is kept" in said
    assert n_answers(out) >= 1 and predictions(out)["predictions/f16/trec.jsonl"].endswith(b"}\n")
    assert main(command) == 0 and n_answers(out) == 3


def test_ctrl_c_ends_a_run_with_one_line(samples, tmp_path, root):
    out = tmp_path / "out"
    run = start(
        arguments(samples, out, "--workers", 2, wanted="trec,samsum", limit=3),
        root,
        start_new_session=True,
        # A test run in the background ignores SIGINT, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    until(lambda: n_answers(out) >= 1, run)
    workers = [pid for pid in children(run) if is_worker(pid)]
    os.killpg(run.pid, signal.SIGINT)
    _, said = run.communicate()
    assert run.returncode == 130 and said.splitlines()[-1] == "longbench: interrupted" and "Traceback" not in said
    assert workers and not any(Path(f"/proc/{pid}").exists() for pid in workers)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--data-dir": "nowhere"}, "nowhere: no such folder"),
        ({"--tasks": "trek"}, "unknown LongBench task 'trek'"),
        ({"--tasks": "lcc"}, "lcc.jsonl: no such file"),
        ({"--kv": "f16,q5"}, "'q5' is neither a policy nor a preset"),
        ({"--kv": "livekv:kv-bits=9"}, "kv-bits"),
        ({"--model": "nowhere.gguf"}, "nowhere.gguf: no such model file"),
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
