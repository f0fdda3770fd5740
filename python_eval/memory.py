"""Resident memory of this process, per measured stretch (Linux)."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path


def begin_peak() -> bool:
    """Starts a new stretch: memory no longer used goes back to the system, and the peak falls to what is left.

    False where the kernel does not let a process reset its peak (`/proc/self/clear_refs`): peaks then only ever rise.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_rss() -> int:
    """The most bytes resident at once since `begin_peak` (VmHWM), mapped weights that were touched included."""
    return _status("VmHWM")


def current_rss() -> int:
    """Bytes resident now (VmRSS)."""
    return _status("VmRSS")


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024  # given in kB
    raise OSError(f"/proc/self/status has no {field}")
