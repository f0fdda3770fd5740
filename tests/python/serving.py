"""A server in a process of its own, as its users start it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path


@contextlib.contextmanager
def started(build_dir: Path, *options: object, before: str = "", **environment: str):
    """Yields the process once it listens, and its address. before: Python code that runs first in it. What it says after
    that is on process.stderr; it is killed when it has not ended by then."""
    environment = os.environ | {"PYTHONPATH": str(build_dir / "python"), "OMP_WAIT_POLICY": "passive"} | environment
    environment.pop("LIVEKV_API_KEY", None)
    code = f"{before}\nimport runpy\nrunpy.run_module('livekv.serve', run_name='__main__', alter_sys=True)"
    command = [sys.executable, *(["-c", code] if before else ["-m", "livekv.serve"]), "--port", "0", *map(str, options)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            lines = []
            for line in process.stderr:
                lines.append(line)
                if found := re.search(r"listening at (http://\S+)", line):
                    yield process, found[1]
                    break
            else:
                raise AssertionError("".join(lines))  # it has ended by itself
        finally:
            if process.poll() is None:
                process.kill()


@contextlib.contextmanager
def served(build_dir: Path, *options: object, may_say: str = ""):
    """Yields its address once it listens. It must end when it is told to, without a word of complaint but may_say."""
    with started(build_dir, *options) as (process, address):
        try:
            yield address
        finally:
            process.send_signal(signal.SIGINT)
            rest = process.communicate(timeout=60)[1]
            if may_say:
                rest = "".join(line for line in rest.splitlines(keepends=True) if may_say not in line)
    assert process.returncode == 0 and rest == "", rest
