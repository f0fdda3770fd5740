"""LongBench runs over several processes, and runs that are killed, interrupted or out of disk."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from longbench_runs import answered, arguments, n_answers, predictions, write_samples

from python_eval.longbench.__main__ import main
from python_eval.longbench.run import Answerer

pytestmark = pytest.mark.usefixtures("livekv")


@pytest.fixture
def samples(tmp_path):
    return write_samples(tmp_path / "data")


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
