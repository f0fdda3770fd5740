"""Output that nobody gets is an error in every tool and every mode that prints: a full disk, a reader who has left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import tiny_models
from tiny_models import SHAPES

FULL = "/dev/full"
needs_full = pytest.mark.skipif(not os.path.exists(FULL), reason="no /dev/full")


# Unbuffered, argparse meets the error itself, and keeps it to itself.
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def into(target, command, **kwargs):
    with open(target, "wb") as out:
        return subprocess.run([str(word) for word in command], stdout=out, stderr=subprocess.PIPE, timeout=120, **kwargs)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "t.txt"
    path.write_text("the king and the queen " * 60)
    return path


MODES = {
    "cli": ["livekv-cli", "-p", "hi", "-n", "4"],
    "cli tokenize": ["livekv-cli", "-p", "hi", "--tokenize"],
    "cli stats": ["livekv-cli", "-p", "hi", "-n", "0", "--stats", "-"],
    "cli help": ["livekv-cli", "--help"],
    "perplexity text": ["livekv-perplexity", "-f", "TEXT", "-c", "64", "--windows", "1"],
    "perplexity json": ["livekv-perplexity", "-f", "TEXT", "-c", "64", "--windows", "1", "-o", "json"],
    "perplexity tokens": ["livekv-perplexity", "-f", "TEXT", "-c", "64", "--windows", "1", "--kl-base", "f16",
                          "--kl-tokens", "-"],
    "perplexity help": ["livekv-perplexity", "--help"],
    **{f"bench {form}": ["livekv-bench", "-p", "8", "-n", "1", "-r", "1", "-o", form] for form in ("md", "json", "csv")},
    "bench help": ["livekv-bench", "--help"],
}  # fmt: skip


@needs_full
@pytest.mark.parametrize("mode", MODES)
def test_tools_on_a_full_disk(tools, story, text, mode):
    name, *arguments = MODES[mode]
    arguments = [str(text) if word == "TEXT" else word for word in arguments]
    threads = [] if "--tokenize" in arguments else ["-t", "1"]
    command = [tools.bin_dir / name, "-m", story, *threads, *arguments]
    done = into(FULL, command)
    last = done.stderr.decode().splitlines()[-1]
    assert (done.returncode, last) == (1, f"{name}: cannot write to stdout: No space left on device")
    assert into(os.devnull, command).returncode == 0


PYTHON_TOOLS = {
    **{f"python_eval.{name}": name for name in ("longbench", "ablation", "tune", "retrieval", "report", "tools")},
    **{f"python_eval.{name}": name for name in ("perplexity", "cache_profile", "fetch", "dequantize", "lm_eval")},
    "python_eval.testbed.inject_outliers": "inject_outliers",
    "python_eval.testbed.train": "train",
    "livekv.serve": "livekv.serve",
    "convert_hf": "convert_hf",
}
NEEDED = {
    "python_eval.lm_eval": "lm_eval", "python_eval.tune": "optuna", "python_eval.report": "matplotlib",
    "python_eval.testbed.train": "torch", "python_eval.testbed.inject_outliers": "torch",
}  # fmt: skip
UNBUFFERED = {"PYTHONUNBUFFERED": "1"}


def help_of(root, build_dir, module, **changes):
    """The command of a Python tool's --help, and its environment."""
    pytest.importorskip(NEEDED.get(module, "sys"))
    paths = [str(build_dir / "python"), str(root), str(root / "convert")]
    environment = BUFFERED | {"PYTHONPATH": os.pathsep.join(paths)} | changes
    return {"args": [sys.executable, "-m", module, "--help"], "env": environment, "cwd": root}


@needs_full
@pytest.mark.parametrize("changes", [{}, UNBUFFERED], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("module", PYTHON_TOOLS)
def test_help_of_a_python_tool_on_a_full_disk(root, build_dir, livekv, module, changes):
    with open(FULL, "wb") as out:
        done = subprocess.run(**help_of(root, build_dir, module, **changes), stdout=out, stderr=subprocess.PIPE)
    line = f"{PYTHON_TOOLS[module]}: cannot write to stdout: No space left on device\n"
    assert (done.returncode, done.stderr.decode()) == (1, line)


@pytest.mark.parametrize("module", ["python_eval.report", "livekv.serve", "convert_hf"])
def test_help_where_stdout_is_closed_or_nobody_reads(root, build_dir, livekv, module):
    said = f"{PYTHON_TOOLS[module]}: cannot write to stdout: "
    for changes in ({}, UNBUFFERED):
        command = help_of(root, build_dir, module, **changes)
        closed = subprocess.run(**command, stderr=subprocess.PIPE, preexec_fn=lambda: os.close(1))
        assert (closed.returncode, closed.stderr.decode()) == (1, said + "Bad file descriptor\n")
        read, write = os.pipe()
        os.close(read)
        gone = subprocess.run(**command, stdout=write, stderr=subprocess.PIPE)
        os.close(write)
        assert (gone.returncode, gone.stderr.decode()) == (1, said + "Broken pipe\n")
        silent = subprocess.run(**command, preexec_fn=lambda: (os.close(1), os.close(2)))
        assert silent.returncode == 1


def test_a_tool_without_output_needs_no_stdout(root, build_dir, livekv):
    command = help_of(root, build_dir, "livekv.serve")
    command["args"][-1] = "--port=nowhere"
    done = subprocess.run(**command, stderr=subprocess.PIPE, preexec_fn=lambda: os.close(1))
    assert done.returncode == 2 and b"--port: invalid int value: 'nowhere'" in done.stderr


@needs_full
def test_the_converter_on_a_full_disk(root, tmp_path):
    folder = tiny_models.make(tmp_path / "m", SHAPES["gqa_hd64"])
    for arguments in ([folder, tmp_path / "m.gguf"], ["--help"]):
        done = into(FULL, [sys.executable, root / "convert" / "convert_hf.py", *arguments], env=BUFFERED)
        last = done.stderr.decode().splitlines()[-1]
        assert (done.returncode, last) == (1, "convert_hf: cannot write to stdout: No space left on device")


@needs_full
def test_scores_on_a_full_disk(root, build_dir, tmp_path):
    (tmp_path / "qasper.jsonl").write_text('{"pred": "a", "answers": ["a"], "all_classes": null, "length": 5}\n')
    command = [sys.executable, "-m", "python_eval.longbench", "--score", tmp_path]
    done = into(FULL, command, cwd=root, env=BUFFERED)
    assert (done.returncode, done.stderr) == (1, b"longbench: cannot write to stdout: No space left on device\n")
    done = into(FULL, command, cwd=root, env=BUFFERED | {"PYTHONUNBUFFERED": "1"})
    assert done.returncode == 1 and done.stderr.count(b"\n") == 1
    assert into(os.devnull, command, cwd=root).returncode == 0


def test_nothing_is_generated_for_nobody(tools, story):
    # Without SIGPIPE a write to a closed pipe fails, and says so.
    read, write = os.pipe()
    os.close(read)
    command = [tools.bin_dir / "livekv-cli", "-m", story, "-p", "a", "-n", "-1", "-c", "2000000", "--ignore-eos", "-t", "1"]
    with os.fdopen(write, "wb") as out:
        done = subprocess.run(
            command,
            stdout=out,
            stderr=subprocess.PIPE,
            timeout=120,
            restore_signals=False,
            preexec_fn=lambda: signal.signal(signal.SIGPIPE, signal.SIG_IGN),
        )
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[-1] == "livekv-cli: cannot write to stdout: Broken pipe"


@pytest.mark.parametrize("name", ["livekv-cli", "livekv-perplexity"])
def test_a_folder_for_a_text_is_named(tools, story, tmp_path, name):
    done = subprocess.run([tools.bin_dir / name, "-m", story, "-f", tmp_path], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == f"{name}: cannot read '{tmp_path}': Is a directory\n"


def test_stdin_that_cannot_be_read(tools, story, tmp_path):
    folder = os.open(tmp_path, os.O_RDONLY)
    done = subprocess.run([tools.bin_dir / "livekv-cli", "-m", story], stdin=folder, capture_output=True, text=True)
    os.close(folder)
    assert done.returncode == 1 and done.stderr == "livekv-cli: cannot read stdin: Is a directory\n"


@pytest.mark.parametrize("module", ["python_eval.dequantize", "python_eval.testbed.inject_outliers"])
@pytest.mark.parametrize("room", [0, 100, 300_000])
def test_a_model_that_does_not_fit_names_path_and_reason(root, build_dir, livekv, story, tmp_path, module, room):
    # A limit on file sizes stands for the disk: writing fails at the same places, with another reason.
    command = help_of(root, build_dir, module)
    limit = f"import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room})); "
    start = f"sys.argv = ['x', {str(story)!r}, {str(tmp_path / 'o.gguf')!r}]; runpy.run_module({module!r}, run_name='__main__')"
    command["args"] = [sys.executable, "-c", limit + start]
    done = subprocess.run(**command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == f"{module.rpartition('.')[2]}: cannot write {tmp_path / 'o.gguf'}: File too large\n"
    assert not list(tmp_path.iterdir())


@needs_full
def test_a_json_file_that_cannot_be_written_is_named(root, build_dir, livekv, story, text, tmp_path):
    command = help_of(root, build_dir, "python_eval.perplexity")
    command["args"][3:] = ["--model", story, "--data", text, "--n-ctx", "128", "--windows", "1", "--threads", "1",
                           "--kv", "f16", "--out", tmp_path / "o", "--json", FULL]  # fmt: skip
    done = subprocess.run(**command, capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert (done.returncode, last) == (1, f"perplexity: --json: cannot write {FULL}: No space left on device")


@pytest.mark.parametrize("flag, message", [("--model", "is a folder, not a model file"), ("--data", "is a folder, not a text")])
def test_folders_are_no_files(root, build_dir, livekv, story, text, tmp_path, flag, message):
    command = help_of(root, build_dir, "python_eval.perplexity")
    command["args"][3:] = ["--model", story, "--data", text, "--n-ctx", "128", flag, tmp_path]
    done = subprocess.run(**command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, f"perplexity: {tmp_path}: {message}\n")
