"""Jobs on the workers of a Ray cluster."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from .errors import EvalError

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_on_ray(
    jobs: Sequence[Job], work: Callable[[Job], Result], n_workers: int, address: str
) -> Iterator[tuple[int, Result]]:
    """As `workers.run_jobs`; the model's path and livekv must be there on every machine of the cluster."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise EvalError("--ray needs the package ray: pip install 'livekv[eval]'") from None
    _check_reachable(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, runtime_env=_environment())
    except (ConnectionError, OSError, RuntimeError, ValueError) as problem:
        raise EvalError(f"no Ray cluster at '{address}': {str(problem).splitlines()[0]}") from None
    try:
        yield from _run(ray, jobs, work, min(n_workers, max(1, len(jobs))))
    finally:
        ray.shutdown()


def _run(ray: Any, jobs: Sequence[Job], work: Callable[[Job], Result], n_workers: int) -> Iterator[tuple[int, Result]]:
    shared = ray.put(work)
    idle = [ray.remote(num_cpus=1)(_Worker).remote(shared) for _ in range(n_workers)]
    running: dict[Any, tuple[Any, int]] = {}
    waiting = iter(range(len(jobs)))
    failed: Exception | None = None
    while True:
        while failed is None and idle and (index := next(waiting, None)) is not None:
            worker = idle.pop()
            running[worker.do.remote(jobs[index])] = (worker, index)
        if not running:
            break
        for reference in ray.wait(list(running))[0]:
            worker, index = running.pop(reference)
            try:
                result = ray.get(reference)
            except ray.exceptions.RayActorError:
                failed = failed or EvalError(
                    "a Ray worker died; what is finished is kept, run the same command to go on"
                )
            except ray.exceptions.RayTaskError as problem:
                failed = failed or problem.cause
            else:
                idle.append(worker)
                yield index, result
    if failed is not None:
        raise failed


def _check_reachable(address: str) -> None:
    """Ray itself tries for minutes to reach a cluster that is not there."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # auto, local
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as problem:
        raise EvalError(f"no Ray cluster at '{address}': {problem}") from None


class _Worker:
    """An actor: `work` and whatever it keeps."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        self.work = work

    def do(self, job: Any) -> Any:
        return self.work(job)


def _environment() -> dict[str, Any]:
    # Workers on this machine find python_eval and livekv where this process found them.
    return {"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}}
