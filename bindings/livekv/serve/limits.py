"""How much a server takes on at a time."""

from __future__ import annotations

from dataclasses import dataclass

from livekv._livekv import Error


@dataclass(frozen=True)
class Limits:
    parallel: int = 8
    """Texts that advance together."""
    queue: int = 64
    """Requests that wait; the next one is refused."""
    memory: int = 4 << 30
    """Bytes of all caches; who does not fit waits."""
    step_tokens: int = 512
    """Tokens of prompts that are read between two tokens of the texts under way; a chunk at least."""
    wait_s: float = 60.0
    """A request that has not begun by then is given up."""
    run_s: float = 600.0
    """One that has not ended by then, from its arrival, is ended."""
    lookup: int = 0
    """Tokens drafted at a time, at most, for a text that is alone (prompt lookup)."""

    def __post_init__(self) -> None:
        for name in ("parallel", "memory", "step_tokens"):
            if getattr(self, name) < 1:
                raise Error(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be 1 or more")
        if self.queue < 0:
            raise Error(f"--queue is {self.queue}; it must be 0 or more")
        if not 0 <= self.lookup <= 64:
            raise Error(f"--lookup is {self.lookup}; it must be in 0..64")
        for option, seconds in (("--wait-timeout", self.wait_s), ("--timeout", self.run_s)):
            if not 0 < seconds <= 1e9:
                raise Error(f"{option} is {seconds:g}; it must be above 0")
