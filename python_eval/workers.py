"""Jobs spread over processes of this machine or over a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from .errors import EvalError

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_jobs(
    jobs: Sequence[Job], work: Callable[[Job], Result], n_workers: int = 1, ray_address: str | None = None
) -> Iterator[tuple[int, Result]]:
    """(index of the job, its result) as they finish.

    `work` and the jobs are pickled, `work` once a worker: what it keeps from one job to the next (a loaded model)
    stays there. One worker and no Ray: everything runs here, in order. With `ray_address` (`auto`, `host:port`,
    `ray://...`, or `local` for a cluster of this machine that ends with the run) the workers are actors of one CPU
    each.

    A worker that dies: EvalError, after the results that are finished have been handed out. So does an exception of
    `work`, which is raised as it is. Those who keep results as they come lose nothing.
    """
    if n_workers < 1:
        raise EvalError(f"cannot run on {n_workers} workers; one is the least")
    if ray_address is not None:
        from .workers_ray import run_on_ray

        return run_on_ray(jobs, work, n_workers, ray_address)
    return _run_here(jobs, work) if n_workers == 1 else _run_processes(jobs, work, n_workers)


def threads_each(n_threads: int | None, n_workers: int) -> int | None:
    """Threads of one worker: as asked for, or its share of those this process has; None, all of them,
    for a single worker."""
    if n_threads is not None or n_workers == 1:
        return n_threads
    import livekv

    return max(1, livekv.default_threads() // n_workers)


def _run_here(jobs: Sequence[Job], work: Callable[[Job], Result]) -> Iterator[tuple[int, Result]]:
    for index, job in enumerate(jobs):
        yield index, work(job)


def _run_processes(jobs: Sequence[Job], work: Callable[[Job], Result], n_workers: int) -> Iterator[tuple[int, Result]]:
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(min(n_workers, max(1, len(jobs))), multiprocessing.get_context("spawn"), _begin, (work,))
    processes: set[Any] = set()
    running: dict[Future[Result], int] = {}
    waiting = iter(range(len(jobs)))
    failed: BaseException | None = None
    finished = False
    try:
        while True:
            # No more than one job a worker lies ready, so that little is begun when one fails.
            while failed is None and len(running) < n_workers and (index := next(waiting, None)) is not None:
                try:
                    running[pool.submit(_do, jobs[index])] = index
                except BrokenProcessPool as broken:
                    failed = broken
                processes |= set(multiprocessing.active_children()) - before
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                index = running.pop(future)
                problem = future.exception()
                if problem is None:
                    yield index, future.result()
                elif failed is None:
                    failed = problem
        finished = True
    finally:
        if not finished:  # Ctrl-C, or the caller gave up: nobody waits for what still runs
            for process in processes:
                process.terminate()
        pool.shutdown(cancel_futures=True)
    if isinstance(failed, BrokenProcessPool):
        raise EvalError(_how_it_died(processes)) from None
    if failed is not None:
        raise failed


def _how_it_died(processes: set[Any]) -> str:
    # The pool ends the others with SIGTERM; who died first says why.
    codes = [process.exitcode for process in processes if process.exitcode not in (None, 0, -signal.SIGTERM)]
    how = ""
    if codes and codes[0] < 0:
        how = f" ({signal.Signals(-codes[0]).name}{': out of memory?' if -codes[0] == signal.SIGKILL else ''})"
    elif codes:
        how = f" (exit status {codes[0]})"
    return f"a worker process died{how}; what is finished is kept, run the same command to go on"


_work: Callable[[Any], Any] | None = None  # of a worker process


def _begin(work: Callable[[Any], Any]) -> None:
    global _work
    _work = work
    # Ctrl-C reaches the whole process group; the parent ends the run.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _do(job: Any) -> Any:
    assert _work is not None
    return _work(job)
