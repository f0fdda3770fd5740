"""The benchmark of tool calls: facts where they are said to be, exact scores, the same requests for every cache."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from python_eval.tools import report
from python_eval.tools.__main__ import main
from python_eval.tools.functions import FUNCTIONS
from python_eval.tools.samples import MAX_ANSWER, make_contexts
from python_eval.tools.score import score

DEPTHS = [0.0, 0.5, 1.0]
WORDS: dict[str, int] = {}


def render(system: str, user: str) -> list[int]:
    """A token for each word and mark."""
    return [WORDS.setdefault(word, len(WORDS)) for word in re.findall(r"\w+|\W", f"{system}\n{user}\nanswer:")]


def decode(tokens: list[int]) -> str:
    words = list(WORDS)
    return "".join(words[token] for token in tokens)


def contexts(lengths, *, depths=DEPTHS, n=2, functions=5, others=3, seed=1):
    return list(make_contexts(render, lengths, depths, n, functions, others, seed))


@pytest.mark.parametrize("length", [2048, 5000])
def test_contexts_have_the_length_asked_for_and_every_fact_at_its_depth(length):
    for context in contexts([length]):
        text = decode(context.tokens)
        notes = text[text.index("These are the notes.") :]
        longest = max(len(context.tokens) + len(request.prompt) for request in context.requests)
        assert 0.97 * length < longest + MAX_ANSWER <= length
        assert [request.depth for request in context.requests] == DEPTHS
        for request in context.requests:
            who = re.search(r"(?:of|for) (\w+ \w+)\.", decode(request.prompt))[1]
            (fact,) = re.findall(rf"[^.]*\b{who}\b.*?\.(?= |\n)", notes)  # named in one sentence, which holds the arguments
            told = {name: {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
                    for name, value in request.arguments.items()}  # fmt: skip
            assert all(re.search(rf"\b{re.escape(value)}\b", fact) for value in told.values()), (fact, told)
            assert abs(notes.index(fact) / len(notes) - request.depth) < 0.12


def test_a_context_does_not_depend_on_what_else_is_asked_for():
    assert contexts([2048]) == [one for one in contexts([2048, 3000], n=2) if one.length == 2048]
    assert contexts([2048], n=1) == contexts([2048], n=3)[:1]
    assert contexts([2048], seed=2) != contexts([2048])


def test_requests_are_made_of_the_bare_context():
    (context,) = contexts([2048], n=1)
    texts = [decode(context.tokens + request.prompt) for request in context.requests]
    assert all(text.endswith("\nanswer:") for text in texts) and len(set(texts)) == len(DEPTHS)
    assert all("paint_door" in text and f"{request.function}(" in text for text, request in zip(texts, context.requests))
    assert len({request.function for request in context.requests}) == len(DEPTHS)


def test_others_are_asked_about_by_nobody_but_share_the_functions():
    few, many = (contexts([4000], n=1, others=n)[0] for n in (0, 6))
    names = [len(re.findall(r"(?:of|for) \w+ \w+:", decode(one.tokens))) for one in (few, many)]
    assert names[1] - names[0] == 6


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.name)
def test_the_right_call_of_every_function_is_right_and_its_changes_are_not(function):
    rng = np.random.default_rng(3)
    for _ in range(20):
        arguments = function.arguments(rng)
        right = json.dumps({"name": function.name, "arguments": arguments})
        assert score(right, function.name, arguments) == score(f"```json\n{right}\n```", function.name, arguments)
        assert score(right, function.name, arguments).call
        for name, value in arguments.items():
            other = not value if isinstance(value, bool) else value + 1 if isinstance(value, int | float) else value + "x"
            for wrong in (other, [value], str(value) if not isinstance(value, str) else 7):
                found = score(json.dumps({"name": function.name, "arguments": arguments | {name: wrong}}), function.name, arguments)
                assert found.function and not found.call and found.arguments == pytest.approx(1 - 1 / len(arguments))
            assert str(value) in function.told("Ada Bo", arguments) or isinstance(value, bool)


@pytest.mark.parametrize(
    "answer, function, share",
    [
        ('{"name": "pay", "arguments": {"n": 3, "ok": true, "why": "x"}}', True, 1.0),  # one too many
        ('{"name": "pay", "arguments": {"n": 3}}', True, 0.5),
        ('{"name": "pay", "arguments": {"n": 3, "ok": 1}}', True, 0.5),  # 1 == True in Python
        ('{"name": "pay", "arguments": {"n": 3.0, "ok": true}}', True, 0.5),
        ('{"name": "pay", "arguments": {"n": NaN, "ok": true}}', True, 0.5),
        ('{"name": "pay", "arguments": [3, true]}', True, 0.0),
        ('{"name": "pay"}', True, 0.0),
        ('{"name": "play", "arguments": {"n": 3, "ok": true}}', False, 0.0),
        ('{"name": "pay", "arguments": {"n": 3, "ok": true}, "more": 0}', True, 1.0),
        ('{"name": "pay", "arguments": {"n": 3, "ok"', False, 0.0),
        ("pay(3, true)", False, 0.0),
        ("", False, 0.0),
        ("[" * 100_000 + "{", False, 0.0),
        ('{"a": ' * 100_000, False, 0.0),
    ],
)
def test_what_is_not_that_call_is_wrong(answer, function, share):
    found = score(answer, "pay", {"n": 3, "ok": True})
    assert (found.call, found.function, found.arguments) == (False, function, share)


def record(kv, context, depth, call):
    return {"kv": kv, "length": 2048, "context": context, "depth": depth, "call": call, "function": True, "arguments": 0.5}


def test_differences_are_paired_and_their_errors_clustered_by_context():
    records = [record("f16", context, depth, True) for context in range(4) for depth in (0.0, 1.0)]
    records += [record("crude", context, depth, context > 0) for context in range(4) for depth in (0.0, 1.0)]
    first, second = report.rate_rows(records)
    assert first["call"] == 1.0 and second["call"] == 0.75 and "call - f16" not in first
    difference = second["call - f16"]
    assert difference.mean == -0.25 and difference.n == 4
    assert difference.se == pytest.approx(np.std([-1, 0, 0, 0], ddof=1) / 2)
    assert [row["1"] for row in report.depth_rows(records)] == [1.0, 0.75]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--depths", "0,1.5"], "1.5 is out of range"),
        (["--lengths", "many"], "expected numbers"),
        (["--lengths", "10"], "10 is out of range"),
        (["--functions", "99"], "there are 12"),
        (["--others", "-1"], "expected 0 or more"),
        (["--lengths", "1024", "--others", "500"], "do not fit"),
        (["--kv", "q9"], "q9"),
    ],
)
def test_bad_input_is_one_line(tiny, livekv, capsys, arguments, message):
    assert main(["--model", str(tiny), *arguments]) == 1
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1 and said.out == ""


@pytest.fixture
def tiny(root):
    return root / "tests" / "models" / "tiny.gguf"


@pytest.fixture
def small_run(tiny, tmp_path):
    return ["--model", str(tiny), "--kv", "f16,livekv", "--lengths", "1536", "--depths", "0,0.5,1", "--contexts", "2",
            "--functions", "3", "--others", "1", "--out", str(tmp_path / "run")]  # fmt: skip


def test_a_run_writes_its_tables_and_goes_on_where_it_stopped(livekv, small_run, tmp_path, capsys):
    assert main(small_run) == 0
    printed = capsys.readouterr().out
    assert "WARNING: the model has 5.5 million parameters" in printed and "| livekv | 1536 | 6 |" in printed
    folder = tmp_path / "run"
    tables = {path.name: path.read_text() for path in folder.glob("*.json") if path.name != "versions.json"}
    assert {"calls.json", "depths.json", "config.json"} <= tables.keys()
    lines = (folder / "answers.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 4 and all(len(json.loads(line)["answers"]) == 3 for line in lines)
    (folder / "answers.jsonl").write_text("".join(lines[:2]) + lines[2][:100])  # as a kill leaves it
    assert main(small_run) == 0 and capsys.readouterr().out == printed
    assert (folder / "answers.jsonl").read_text() == "".join(lines)
    assert {name: (folder / name).read_text() for name in tables} == tables
    assert main([*small_run, "--others", "0"]) == 1  # another run's folder
    assert "was run with others = 1" in capsys.readouterr().err


def test_answers_do_not_depend_on_the_batch(livekv, small_run, tmp_path, capsys):
    found = []
    for batch in ("1", "3"):
        out = tmp_path / batch
        assert main([*small_run[:-1], str(out), "--batch", batch]) == 0
        found.append([json.loads(line)["answers"] for line in (out / "answers.jsonl").read_text().splitlines()])
    assert found[0] == found[1]


def test_it_is_started_as_the_docs_say(root, livekv, small_run):
    command = [sys.executable, "-m", "python_eval.tools", *small_run, "--json", "-"]
    environment = {**os.environ, "PYTHONPATH": str(Path(livekv.__file__).parents[1])}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=600, check=True)
    shares = json.loads(done.stdout)
    assert {kv: list(by_length) for kv, by_length in shares.items()} == {"f16": ["1536"], "livekv": ["1536"]}
