"""Jobs over processes and Ray: every result once, workers keep what they loaded, a death loses nothing finished."""

from __future__ import annotations

import os

import pytest
from eval_workers import Counting, Failing, Slow

from python_eval.errors import EvalError
from python_eval.workers import run_jobs, threads_each


def test_one_worker_runs_here_in_order():
    results = list(run_jobs([3, 1, 2], Counting()))
    assert results == [(0, (9, os.getpid(), 1)), (1, (1, os.getpid(), 2)), (2, (4, os.getpid(), 3))]


def test_processes_keep_what_they_loaded():
    results = dict(run_jobs(range(12), Counting(), 2))
    assert {index: square for index, (square, _, _) in results.items()} == {i: i * i for i in range(12)}
    processes = {}
    for _, process, nth in results.values():
        processes.setdefault(process, []).append(nth)
    assert os.getpid() not in processes and len(processes) <= 2
    # Each copy counted its own jobs, so it lived through all of them.
    assert all(sorted(counts) == list(range(1, len(counts) + 1)) for counts in processes.values())


def test_no_jobs_no_results():
    assert list(run_jobs([], Counting(), 2)) == []


@pytest.mark.parametrize("n_workers", [1, 2])
def test_an_error_comes_after_what_was_finished(n_workers, tmp_path):
    results = {}
    with pytest.raises(EvalError, match="job 4 cannot be done"):
        for index, result in run_jobs(range(2000), Failing(raises_at=4, marks=tmp_path), n_workers):
            results[index] = result
    assert {i: 2 * i for i in range(4)}.items() <= results.items()
    # What was begun beside it is finished, and nothing new was begun.
    assert {str(i) for i in (*results, 4)} == {path.name for path in tmp_path.iterdir()} and len(results) < 1000


def test_a_worker_that_is_killed_is_reported():
    results = {}
    with pytest.raises(
        EvalError, match=r"a worker process died \(SIGKILL: out of memory\?\); what is finished is kept"
    ):
        for index, result in run_jobs(range(2000), Failing(dies_at=6), 2):
            results[index] = result
    assert results.items() <= {i: 2 * i for i in range(2000)}.items() and 6 not in results and 5 <= len(results) < 1000


def test_giving_up_ends_the_workers_and_what_they_do(tmp_path):
    jobs = run_jobs(range(5), Slow(tmp_path), 2)
    _, process = next(jobs)
    jobs.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    assert list(tmp_path.iterdir()) == []


def test_workers_share_the_cores(monkeypatch, livekv):
    monkeypatch.setattr(livekv, "default_threads", lambda: 8)
    assert [threads_each(None, n) for n in (1, 2, 3, 20)] == [None, 4, 2, 1] and threads_each(5, 2) == 5


def test_less_than_one_worker_is_refused():
    with pytest.raises(EvalError, match="cannot run on 0 workers"):
        run_jobs([1], Counting(), 0)
