"""Some thousands of the inputs that tests/fuzz/fuzz_jsonl.py makes at random."""

from __future__ import annotations

import sys

import pytest
from conftest import ROOT

sys.path.append(str(ROOT / "tests" / "fuzz"))
import fuzz_jsonl


@pytest.mark.parametrize("name", fuzz_jsonl.TARGETS)
def test_changed_json_is_read_or_refused_in_one_line(name):
    counts, problem = fuzz_jsonl.run([name], executions=1500, seconds=float("inf"), seed=7)
    assert not problem, problem
    assert counts == {name: 1500}


def test_a_traceback_and_a_message_of_two_lines_are_found():
    def read(path):
        if b"null" in path.content:
            raise KeyError("null")
        raise fuzz_jsonl.EvalError("")

    target = fuzz_jsonl.Target(read, {"a": 1}, 1)
    assert "KeyError" in fuzz_jsonl.problem_of(target, b"null")
    assert fuzz_jsonl.problem_of(target, b"x") == "not one printable line: ''"
