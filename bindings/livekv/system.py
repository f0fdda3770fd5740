"""The process and the machine it runs on."""

from __future__ import annotations

import platform
import resource
from pathlib import Path

from livekv import _livekv


def peak_rss() -> int:
    """Highest resident memory of this process so far, bytes.

    From the kernel's VmHWM, which starts anew with each program; getrusage, which stands in where there is none, also
    counts what the process that started this one had.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def default_threads() -> int:
    """CPU threads a session has unless told otherwise: as many as this process has CPUs, by its affinity and its
    control group's limit, or fewer where OMP_NUM_THREADS says so."""
    return _livekv.default_threads()


def system_info() -> dict[str, str | int | bool]:
    """What results depend on: version, machine, CPU kernels in use, threads a session has by default, GPU."""
    return {
        "livekv": _livekv.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        **_livekv.build_info(),
        "n_threads": default_threads(),
        "gpu": _livekv.has_gpu(),
    }
