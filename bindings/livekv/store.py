"""Prompts that are read once: sealed chunks in a folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from livekv import _livekv
from livekv._livekv import Error
from livekv.arguments import shown, whole
from livekv.paths import path_bytes
from livekv.remote import METHODS, Link, Remote, open_remote

DEFAULT_LIMIT = 10 << 30
"""Bytes."""


@dataclass(frozen=True)
class StoredPiece:
    """A file of a store's folder, as it says of itself."""

    name: str
    bytes: int
    used_s: int
    """When it was used last, in seconds since 1970."""
    readable: bool
    """False: it is damaged; what follows is empty then."""
    first_token: int
    n_tokens: int
    policy: str
    weights: str
    """A hash of the model's."""


class ChunkStore:
    """Sealed chunks of prompts in a folder, for Model(..., store=...): a session whose prompt begins as one did that
    any process has read starts behind what is there, and goes on to the bit as if it had read it itself
    (docs/store.md).

    path: the folder, made where its parent is there. limit: bytes that are kept; what was not used for the longest time
    goes first. remote: where its files are kept beyond it, for others: a URL (livekv.remote.open_remote), or an object
    as livekv.remote.Remote; files are sent in a thread, and fetched when a prompt begins as they do. fetches_ahead: by
    Engine.fetch alone. Models may share a store, and processes a folder. Raises Error when the folder cannot be used.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        limit: int = DEFAULT_LIMIT,
        remote: str | Remote | None = None,
        fetches_ahead: bool = False,
    ) -> None:
        self.path = os.fsdecode(path)
        self.limit = whole("limit", limit, 1, 2**63 - 1)
        if not (remote is None or isinstance(remote, str) or all(hasattr(remote, name) for name in METHODS)):
            raise Error(f"remote is {shown(remote)}; it must be a URL or have {', '.join(METHODS)}")
        beyond = open_remote(remote) if isinstance(remote, str) else remote
        self._link = None if beyond is None else Link(beyond, Path(self.path))
        self._core = _livekv.ChunkStore(path_bytes(path), limit, self._link, fetches_ahead)

    def __repr__(self) -> str:
        return f"livekv.ChunkStore({self.path!r}, limit={self.limit})"

    @property
    def counts(self) -> dict[str, int]:
        """Since it was opened: pieces_read, tokens_read, pieces_written, bytes_written, damaged ones that were removed,
        foreign and unreadable ones that were passed over, those that failed to be written, and those evicted; with a
        remote, remote_fetched and remote_sent files, and the times that it failed."""
        return self._core.counts() | (self._link.counts if self._link else {})

    @property
    def problem(self) -> str:
        """Why the last piece could not be stored, or the remote be reached; empty where it could. Texts go on all the
        same."""
        return self._core.problem() or (self._link.problem if self._link else "")

    @property
    def has_remote(self) -> bool:
        return self._link is not None

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Waits until the remote has what was written, or fails: whether it has. At the end of a program it is waited
        for as long as that."""
        return self._link is None or self._link.flush(timeout_s)

    def finish(self, timeout_s: float) -> bool:
        """flush for the last time: the end of the program does not wait again."""
        if self._link is not None:
            self._link.exit_s = 0.0
        return self.flush(timeout_s)

    def pieces(self) -> list[StoredPiece]:
        """What is there, the most recently used first. Raises Error when the folder cannot be read."""
        return [StoredPiece(**piece) for piece in self._core.pieces()]
