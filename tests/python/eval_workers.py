"""Work for worker processes, which import it by this module's name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from python_eval.errors import EvalError


class Counting:
    """Squares a number; says in which process and which job of this copy that was."""

    def __init__(self) -> None:
        self.n = 0

    def __call__(self, job: int) -> tuple[int, int, int]:
        self.n += 1
        return job * job, os.getpid(), self.n


class Slow:
    """Says its process at once for job 0; any other takes seconds, and leaves a mark when it is done."""

    def __init__(self, marks: Path) -> None:
        self.marks = marks

    def __call__(self, job: int) -> int:
        if job:
            time.sleep(8)
            (self.marks / str(job)).touch()
        return os.getpid()


class Failing:
    """Doubles numbers; raises or is killed at the number that it is told."""

    def __init__(self, raises_at: int | None = None, dies_at: int | None = None, marks: Path | None = None) -> None:
        self.raises_at, self.dies_at, self.marks = raises_at, dies_at, marks

    def __call__(self, job: int) -> int:
        if self.marks is not None:
            (self.marks / str(job)).touch()
        if job == self.raises_at:
            raise EvalError(f"job {job} cannot be done")
        if job == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return 2 * job
