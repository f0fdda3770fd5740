"""What malloc keeps of memory that nobody uses."""

from __future__ import annotations

import ctypes
import time


class FreedMemory:
    """Given back to the system now and then. glibc keeps in each thread's arena what was freed between two pieces in
    use. With many sequences of many lengths that was as much again as what was in use. Where malloc is another, nothing
    is done."""

    def __init__(self, every: float = 20.0) -> None:
        self.every = every  # seconds
        self._last = time.monotonic()
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)

    def give_back(self) -> bool:
        """Whether it was time to; takes some tens of milliseconds then."""
        if self._trim is None or time.monotonic() - self._last < self.every:
            return False
        self._trim(ctypes.c_size_t(0))
        self._last = time.monotonic()
        return True
