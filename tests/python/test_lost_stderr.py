"""Progress and notes that nobody gets are no error: a stderr that is closed or full changes no tool's result."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import tiny_models
from longbench_runs import write_samples
from test_lost_output import FULL, PYTHON_TOOLS, help_of, needs_full
from tiny_models import SHAPES


def close_stderr():
    os.close(2)


def full_stderr():
    os.dup2(os.open(FULL, os.O_WRONLY), 2)


LOSSES = [pytest.param(close_stderr, id="closed"), pytest.param(full_stderr, id="full", marks=needs_full)]


@pytest.fixture
def commands(root, build_dir, livekv, story, opening, tmp_path):
    """{tool: its command, complete but for the place of its output}, each short."""
    text = tmp_path / "t.txt"
    text.write_text(opening.read_text()[:4000])
    folder = tiny_models.make(tmp_path / "m", SHAPES["gqa_hd64"])
    measured = ["--model", story, "--data", text, "--n-ctx", "128", "--windows", "1", "--threads", "1", "--out"]
    asked = ["--model", story, "--kv", "f16", "--threads", "1"]
    return {
        "convert_hf": ["convert_hf", folder],
        "dequantize": ["python_eval.dequantize", story],
        "perplexity": ["python_eval.perplexity", *measured],
        "cache_profile": ["python_eval.cache_profile", *measured],
        "longbench": ["python_eval.longbench", *asked, "--data-dir", write_samples(tmp_path / "s"), "--tasks", "trec",
                      "--limit", "1", "--n-ctx", "256", "--out"],
        "retrieval": ["python_eval.retrieval", *asked, "--tasks", "multi_key", "--lengths", "512", "--depths", "0.5",
                      "--samples", "1", "--out"],
    }  # fmt: skip


TOOLS = ("convert_hf", "dequantize", "perplexity", "cache_profile", "longbench", "retrieval")


def run(root, build_dir, command, out, **how):
    paths = [str(build_dir / "python"), str(root), str(root / "convert")]
    return subprocess.run(
        [sys.executable, "-m", *map(str, command), str(out)],
        cwd=out.parent,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        timeout=120,
        **how,
    )


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("tool", TOOLS)
def test_a_result_needs_no_stderr(root, build_dir, commands, tmp_path, tool, loss):
    done = run(root, build_dir, commands[tool], tmp_path / "out", preexec_fn=loss)
    assert done.returncode == 0 and done.stdout
    # No file got the number of stderr, to which libraries write.
    heard = run(root, build_dir, commands[tool], tmp_path / "heard", stderr=subprocess.PIPE)
    assert heard.returncode == 0
    names = [
        sorted(str(path.relative_to(out)) for path in out.rglob("*")) for out in (tmp_path / "out", tmp_path / "heard")
    ]
    assert names[0] == names[1]
    if tool in ("convert_hf", "dequantize"):
        assert (tmp_path / "out").read_bytes() == (tmp_path / "heard").read_bytes()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("module", PYTHON_TOOLS)
def test_a_tool_without_stderr_fails_with_its_own_status(root, build_dir, livekv, module, loss):
    command = help_of(root, build_dir, module)
    command["args"][-1] = "--no-such-flag"
    assert subprocess.run(**command, stdout=subprocess.PIPE, preexec_fn=loss).returncode == 2
