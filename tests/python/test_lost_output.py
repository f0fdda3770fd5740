"""Output that nobody gets is an error in every tool and every mode that prints: a full disk, a reader who has left."""

from __future__ import annotations

import os
import re
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
    command = [tools.bin_dir / name, "-m", story, "-t", "1", *arguments]
    done = into(FULL, command)
    last = done.stderr.decode().splitlines()[-1]
    assert (done.returncode, last) == (1, f"{name}: cannot write to stdout: No space left on device")
    assert into(os.devnull, command).returncode == 0


@needs_full
@pytest.mark.parametrize(
    "module",
    ["longbench", "ablation", "tune", "retrieval", "report", "perplexity", "cache_profile", "fetch", "dequantize", "testbed.inject_outliers"],
)
def test_help_of_the_evaluation_on_a_full_disk(root, build_dir, livekv, module):
    environment = BUFFERED | {"PYTHONPATH": f"{build_dir / 'python'}:{root}"}
    done = into(FULL, [sys.executable, "-m", f"python_eval.{module}", "--help"], env=environment, cwd=root)
    said = done.stderr.decode()
    assert done.returncode == 1 and re.fullmatch(r"[a-z_]+: cannot write to stdout: No space left on device\n", said), said


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
