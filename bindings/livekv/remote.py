"""Where the files of a chunk store are kept beyond its folder: Redis, an object store, or what has three methods."""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from pathlib import Path
from typing import Any, Protocol

from livekv._livekv import Error
from livekv.arguments import text_of

EXIT_S = 10.0
"""That the end of a program waits for what is not sent yet."""
PAUSE_S = 5.0
"""A remote that failed is left alone for as long."""
MOST_WAITING = 4096
"""Files that wait to be sent; the oldest are forgotten."""
IDLE_S = 60.0
METHODS = ("get", "has", "put")


class Remote(Protocol):
    """Files by name, written whole and never changed but by the same. Every method may raise what it likes when the
    files cannot be reached, and should give up within seconds. Called from several threads."""

    def get(self, name: str) -> bytes | None:
        """A file's bytes; None when there is none."""

    def has(self, name: str) -> bool: ...

    def put(self, name: str, data: bytes) -> None: ...


class RedisRemote:
    """In a Redis, which must be told how much it keeps (maxmemory, and maxmemory-policy allkeys-lru).

    url: redis://, rediss:// or unix://. timeout_s: of each answer.
    """

    def __init__(self, url: str, prefix: str = "livekv:", timeout_s: float = 2.0) -> None:
        redis = _module("redis")
        self._prefix = prefix
        self._client = redis.Redis.from_url(
            url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=_module("redis.retry").Retry(
                _module("redis.backoff").NoBackoff(), 0)
        )  # fmt: skip

    def get(self, name: str) -> bytes | None:
        found: bytes | None = self._client.get(self._prefix + name)
        return found

    def has(self, name: str) -> bool:
        return bool(self._client.exists(self._prefix + name))

    def put(self, name: str, data: bytes) -> None:
        self._client.set(self._prefix + name, data)


class FsspecRemote:
    """A folder of any file system that fsspec knows: s3://bucket/folder, gs://..., file:///... How much it keeps is its
    own matter (a bucket's lifecycle rule). options: of the file system."""

    def __init__(self, url: str, **options: Any) -> None:
        self._files, self._folder = _module("fsspec").url_to_fs(url, **options)
        self._made = False

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}"

    def get(self, name: str) -> bytes | None:
        try:
            found: bytes = self._files.cat_file(self._path(name))
        except FileNotFoundError:
            return None
        return found

    def has(self, name: str) -> bool:
        return bool(self._files.exists(self._path(name)))

    def put(self, name: str, data: bytes) -> None:
        if not self._made:
            self._files.makedirs(self._folder, exist_ok=True)
            self._made = True
        self._files.pipe_file(self._path(name), data)


def is_url(text: str) -> bool:
    return "://" in text


def open_remote(url: str) -> Remote:
    """Of redis://, rediss://, unix://, or any URL that fsspec knows. Raises Error for one that nobody knows; whether it
    can be reached shows later."""
    scheme = text_of("url", url).partition("://")[0]
    try:
        return RedisRemote(url) if scheme in ("redis", "rediss", "unix") else FsspecRemote(url)
    except Error:
        raise
    except Exception as problem:  # whatever their libraries raise
        raise Error(f"cannot keep chunks in '{shown(url)}': {_in_a_line(problem)}") from None


def shown(url: str) -> str:
    """Without the name and password that may stand in it."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"


def _in_a_line(problem: Exception) -> str:
    return " ".join(str(problem).split())[:200] or type(problem).__name__


def _module(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as problem:
        raise Error(f"{problem.name} is missing; pip install 'livekv[store]'") from None


class Link:
    """Between a store's folder and its remote: sends files in a thread of its own, and leaves a remote that fails alone
    for a while. The engine calls get and offer."""

    def __init__(self, remote: Remote, folder: Path, pause_s: float = PAUSE_S) -> None:
        self._remote = remote
        self._folder = folder
        self._pause_s = pause_s
        self._changed = threading.Condition()
        self._waiting: dict[str, bool] = {}  # names of files to be sent, the oldest first; whether they are new
        self._there: set[str] = set()
        self._sending = False
        self._failed_at = -pause_s
        self._thread: threading.Thread | None = None
        self.counts = {"remote_fetched": 0, "remote_sent": 0, "remote_failed": 0}
        self.problem = ""
        """Why the remote failed the last time; empty when it works."""
        self.exit_s = EXIT_S
        atexit.register(_flush_at_exit, weakref.ref(self))
        _links.add(self)

    def get(self, name: str) -> bytes | None:
        if self._rests():
            return None
        try:
            data = self._remote.get(name)
            if not isinstance(data, bytes | None):
                raise TypeError(f"the remote answers with {type(data).__name__}, not with bytes")
        except Exception as problem:
            self._failed(problem)
            return None
        with self._changed:
            self.problem = ""
            if data is not None:
                self.counts["remote_fetched"] += 1
                self._there.add(name)
        return data

    def offer(self, name: str, changed: bool) -> None:
        with self._changed:
            if name in self._there and not changed:
                return
            self._waiting[name] = self._waiting.pop(name, False) or changed
            if len(self._waiting) > MOST_WAITING:
                del self._waiting[next(iter(self._waiting))]
            if self._thread is None:
                self._thread = threading.Thread(target=self._send_all, name="livekv-remote", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Waits until all is sent, or the remote fails. Whether all is."""
        with self._changed:
            self._changed.wait_for(lambda: not self._busy() or self._rests(), timeout_s)
            return not self._busy()

    def _busy(self) -> bool:
        return bool(self._waiting) or self._sending

    def _rests(self) -> bool:
        return time.monotonic() - self._failed_at < self._pause_s

    def _failed(self, problem: Exception) -> None:
        with self._changed:
            self._failed_at = time.monotonic()
            self.counts["remote_failed"] += 1
            self.problem = _in_a_line(problem)
            self._there.clear()  # it may come back empty
            self._changed.notify_all()

    def _send_all(self) -> None:
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: self._waiting, IDLE_S):
                    self._thread = None  # the next offer makes another
                    return
                if self._rests():
                    self._changed.wait(self._pause_s)
                    continue
                name = next(iter(self._waiting))
                is_new = self._waiting.pop(name)
                self._sending = True
            problem = self._send(name, is_new)
            if problem is not None:
                self._failed(problem)
            with self._changed:
                self._sending = False
                if problem is not None:
                    self._waiting = {name: is_new, **self._waiting}
                self._changed.notify_all()

    def _send(self, name: str, is_new: bool) -> Exception | None:
        try:
            data = (self._folder / name).read_bytes()
        except OSError:  # the folder has let go of it
            return None
        try:
            if is_new or not self._remote.has(name):
                self._remote.put(name, data)
                self.counts["remote_sent"] += 1
        except Exception as problem:
            return problem
        with self._changed:
            self.problem = ""
            self._there.add(name)
        return None

    def _after_fork(self) -> None:
        """In the child: the thread that sends is the parent's, which may hold the lock, and sends what waits."""
        self._changed = threading.Condition()
        self._thread = None
        self._waiting = {}
        self._sending = False


_links: weakref.WeakSet[Link] = weakref.WeakSet()


def _after_fork() -> None:
    for link in _links:
        link._after_fork()


os.register_at_fork(after_in_child=_after_fork)


def _flush_at_exit(link: weakref.ref[Link]) -> None:
    alive = link()
    if alive is not None:
        alive.flush(alive.exit_s)
