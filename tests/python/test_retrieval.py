"""The retrieval benchmark: the same samples for every cache, honest accuracies and errors, runs that go on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_tasks import PIECES, decode, encode

from python_eval.retrieval import report
from python_eval.retrieval.__main__ import main
from python_eval.retrieval.samples import NO_DEPTH, make_samples, text_haystack
from python_eval.testbed import haystack
from python_eval.testbed.tasks import FORMS

DEPTHS = [0.0, 0.5, 1.0]


def samples(tasks, lengths, seed=1, n=2, hay=None):
    return list(make_samples(encode, 7, hay or haystack.made_up(encode), tasks, lengths, DEPTHS, n, seed))


@pytest.mark.parametrize("length", [256, 1024, 2048])
def test_samples_have_the_length_asked_for_and_every_depth(length):
    for sample in samples(list(FORMS), [length]):
        longest = max(len(q.prompt) + len(q.answer) for q in sample.questions)
        assert sample.context[0] == 7
        assert 0.35 * length < len(sample.context) + longest <= length
        if sample.task not in ("count_word", "few_shot", "people") and length > 256:
            assert len(sample.context) + longest > 0.85 * length
    for task in FORMS:
        found = {q.depth for sample in samples([task], [length]) for q in sample.questions}
        assert found == ({None} if task in NO_DEPTH else set(DEPTHS))


def test_a_sample_does_not_depend_on_what_else_is_asked_for():
    alone = samples(["multi_key"], [512])
    among = [s for s in samples(list(FORMS), [256, 512]) if s.task == "multi_key" and s.length == 512]
    assert alone == among
    assert samples(["multi_key"], [512], seed=2) != alone


def test_facts_are_hidden_in_the_sentences_of_a_file(tmp_path):
    story = " ".join(f"Number {n} came by and said nothing at all." for n in range(200))
    (tmp_path / "story.txt").write_text(story)
    encode(story)
    hay = text_haystack(encode, [piece.encode() for piece in PIECES], tmp_path / "story.txt")
    context = decode(samples(["single_key"], [512], hay=hay)[0].context[1:])
    assert context.count("came by and said nothing at all.") > 20


def record(kv, task, length, context, depth, correct):
    return {"kv": kv, "task": task, "length": length, "sample": context, "context": context, "depth": depth,
            "correct": correct}  # fmt: skip


def test_differences_are_paired_and_their_errors_clustered_by_context():
    records = []
    for context in range(4):
        for depth in (0.0, 1.0):
            records.append(record("f16", "multi_key", 512, context, depth, True))
            records.append(record("crude", "multi_key", 512, context, depth, context > 0))
    assert report.accuracy(records) == {"f16": {"512": {"multi_key": 1.0}}, "crude": {"512": {"multi_key": 0.75}}}
    (row,) = report.difference_rows(records)
    difference = row["difference from f16"]
    assert difference.mean == -0.25 and difference.n == 4
    # Four contexts, each wholly lost or not: the error of four numbers (-1, 0, 0, 0), not of eight.
    assert difference.se == pytest.approx(np.std([-1, 0, 0, 0], ddof=1) / 2)
    assert [row["0"] for row in report.depth_rows(records)] == [1.0, 0.75]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--tasks", "riddles"], "no task 'riddles'"),
        (["--depths", "0,1.5"], "1.5 is out of range"),
        (["--lengths", "many"], "expected numbers"),
        (["--lengths", "10"], "10 is out of range"),
        (["--samples", "0"], "expected 1 or more"),
    ],
)
def test_bad_input_is_one_line(tiny, livekv, capsys, arguments, message):
    assert main(["--model", str(tiny), *arguments]) == 1
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1 and said.out == ""


@pytest.fixture
def tiny(root):
    return root / "tests" / "models" / "tiny.gguf"


def text_file(path, *more: bytes):
    sentences = "".join(f"The {n}th dog runs home. " for n in range(200))
    path.write_bytes(sentences.encode() + b"".join(more))
    return path


@pytest.mark.filterwarnings("ignore:no GPU in this build")
def test_a_folder_is_of_one_model_and_one_text_by_their_content(tiny, livekv, tmp_path, capsys):
    model = tmp_path / "m.gguf"
    model.write_bytes(tiny.read_bytes())
    haystack = text_file(tmp_path / "hay.txt")
    arguments = ["--model", str(model), "--haystack", str(haystack), "--lengths", "256", "--depths", "0", "--samples",
                 "1", "--tasks", "single_key", "--out", str(tmp_path / "run")]  # fmt: skip
    assert main(arguments) == 0
    answers = (tmp_path / "run" / "answers.jsonl").read_bytes()
    changed = bytearray(tiny.read_bytes())
    changed[len(changed) // 2] ^= 1
    for path, content, field in ((model, changed, "model.sha256"), (haystack, b" More.", "haystack.bytes")):
        before = path.read_bytes()
        path.write_bytes(content if path == model else before + content)
        capsys.readouterr()
        assert main(arguments) == 1
        said = capsys.readouterr()
        assert f"was run with {field} = " in said.err and said.err.count("\n") == 1 and said.out == ""
        path.write_bytes(before)
    assert main(arguments) == 0
    assert main([*arguments, "--gpu-layers", "1"]) == 1
    assert "was run with n_gpu_layers = 0, now it is 1" in capsys.readouterr().err
    assert (tmp_path / "run" / "answers.jsonl").read_bytes() == answers


def test_a_haystack_that_is_no_text_is_refused(tiny, livekv, tmp_path, capsys):
    os.mkfifo(tmp_path / "fifo")
    latin = text_file(tmp_path / "latin.txt", b"Caf\xe9.")
    for path, why in ((latin, f"not UTF-8 at byte {latin.stat().st_size - 2}"), (tmp_path / "fifo", "no file, but"),
                      (tmp_path, "is a folder, not a text"), (tmp_path / "none", "no such file")):  # fmt: skip
        assert main(["--model", str(tiny), "--haystack", str(path)]) == 1
        said = capsys.readouterr()
        assert f"{path}: {why}" in said.err and said.err.count("\n") == 1 and said.out == ""


def retrieve(root, livekv, *arguments):
    command = [sys.executable, "-m", "python_eval.retrieval", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(Path(livekv.__file__).parents[1])}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=600, check=True)


def test_a_run_killed_between_two_questions_counts_each_once(livekv, tiny, tmp_path, capsys):
    arguments = ["--model", str(tiny), "--lengths", "256", "--depths", "0,1", "--samples", "2", "--tasks", "multi_key",
                 "--out", str(tmp_path / "run")]  # fmt: skip
    assert main(arguments) == 0
    tables = {path.name: path.read_text() for path in (tmp_path / "run").glob("*.json") if path.name != "versions.json"}
    assert len(tables) > 2
    answers = tmp_path / "run" / "answers.jsonl"
    lines = answers.read_text().splitlines(keepends=True)
    assert len(lines) == 4 and [json.loads(line)["last"] for line in lines] == [False, True] * 2
    torn_off = json.loads(lines[2])  # told apart from its second asking by another outcome
    answers.write_text("".join(lines[:2]) + json.dumps(torn_off | {"correct": not torn_off["correct"]}) + "\n")
    for _ in range(2):  # goes on, then finds all of it done
        assert main(arguments) == 0
        assert {name: (tmp_path / "run" / name).read_text() for name in tables} == tables
        assert len(answers.read_text().splitlines()) == 5  # the question that was begun with is asked again


def test_finch_reads_a_context_for_each_question(livekv, tiny, tmp_path):
    """With a target beyond the context it keeps all of it, and answers as the whole cache does."""
    arguments = ["--model", str(tiny), "--kv", "f16,finch:target-tokens=4096", "--lengths", "256", "--depths", "0,1",
                 "--samples", "3", "--tasks", "multi_key,people", "--out", str(tmp_path / "run")]  # fmt: skip
    assert main(arguments) == 0
    lines = map(json.loads, (tmp_path / "run" / "answers.jsonl").read_text().splitlines())
    by_cache: dict[str, list] = {}
    for line in lines:
        by_cache.setdefault(line.pop("kv"), []).append(line)
    assert len(by_cache) == 2
    f16, finch = by_cache.values()
    assert finch == f16


def test_a_run_writes_its_tables_and_goes_on_where_it_stopped(root, livekv, tiny, tmp_path):
    arguments = ("--model", tiny, "--kv", "f16,q8_0", "--lengths", "256,512", "--depths", "0,1", "--samples", 2,
                 "--tasks", "single_key,few_shot", "--out", tmp_path / "run", "--json", "-")  # fmt: skip
    result = json.loads(retrieve(root, livekv, *arguments).stdout)
    assert {kv: {n: sorted(t) for n, t in by_length.items()} for kv, by_length in result.items()} == {
        kv: {"256": ["few_shot", "single_key"], "512": ["few_shot", "single_key"]} for kv in ("f16", "q8_0")
    }
    answers = tmp_path / "run" / "answers.jsonl"
    lines = answers.read_text().splitlines()
    assert len(lines) == 2 * 2 * (2 * 2 + 2)  # caches, lengths, samples of single_key at two depths and of few_shot
    # As if killed: the last context is asked again, the others are not.
    kept = [*lines[:5], lines[5].replace('"correct": true', '"correct": false')]
    answers.write_text("\n".join(kept) + "\n")
    again = json.loads(retrieve(root, livekv, *arguments).stdout)
    assert answers.read_text().splitlines()[:6] == kept
    assert len(answers.read_text().splitlines()) == len(lines)
    if kept[5] == lines[5]:
        assert again == result
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == again
    assert {"accuracy.md", "accuracy.csv", "differences.json", "depths.md"} <= {
        p.name for p in answers.parent.iterdir()
    }
    if "note: no heat map" not in retrieve(root, livekv, *arguments).stderr:
        assert (tmp_path / "run" / "heatmap.png").read_bytes().startswith(b"\x89PNG")
