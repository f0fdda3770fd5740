"""Chunk stores beyond a folder: what one machine has read, another goes on from; what cannot be reached costs no answer."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT

STORY = ROOT / "tests" / "models" / "story.gguf"
CHUNK = 64


class Redis:
    """A redis-server of the test's own, on a free port of this machine."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"redis://:for-tests@127.0.0.1:{self.port}/0"
        self.folder = folder
        self.start()

    def start(self):
        import redis

        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder),
             "--requirepass", "for-tests"], stdout=subprocess.DEVNULL)  # fmt: skip
        client = redis.Redis.from_url(self.url)
        for _ in range(200):
            try:
                client.ping()
                break
            except redis.ConnectionError:
                time.sleep(0.05)
        else:
            raise AssertionError("redis-server does not answer")
        client.close()

    def stop(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def redis_server(tmp_path):
    pytest.importorskip("redis", reason="redis is not installed")
    if shutil.which("redis-server") is None:
        pytest.skip("there is no redis-server on this machine")
    server = Redis(tmp_path)
    yield server
    server.stop()


@pytest.fixture(params=["redis", "file", "memory"])
def url(request, tmp_path):
    if request.param == "redis":
        return request.getfixturevalue("redis_server").url
    pytest.importorskip("fsspec", reason="fsspec is not installed")
    return f"file://{tmp_path}/shared/folder" if request.param == "file" else f"memory://{tmp_path.name}"


@pytest.fixture(scope="module")
def tokens(livekv, opening):
    return livekv.Model(STORY, n_threads=1).tokenize(opening.read_text())[: 10 * CHUNK + 20]


class Reader:
    """A process with a folder of its own, as good as."""

    def __init__(self, livekv, folder, remote):
        self.store = livekv.ChunkStore(folder, remote=remote)
        self.model = livekv.Model(STORY, n_threads=1, store=self.store)
        self.kv = livekv.KVOptions(chunk_size=CHUNK)

    def read(self, tokens):
        """The tokens that were known, and the last one's logits."""
        with self.model.session(2000, kv=self.kv) as session:
            n = session.reuse(tokens)
            return n, session.prefill(tokens[n:])


def test_a_prompt_is_read_once_by_all(livekv, tokens, url, tmp_path):
    first = Reader(livekv, tmp_path / "one", url)
    n, logits = first.read(tokens)
    assert n == 0 and first.store.flush() and first.store.problem == ""
    n_pieces = len(list((tmp_path / "one").glob("*.kv")))
    assert first.store.counts["remote_sent"] == n_pieces
    second = Reader(livekv, tmp_path / "two", url)
    n, same = second.read(tokens)
    assert n == (len(tokens) - 1) // CHUNK * CHUNK and np.array_equal(logits, same)
    assert second.store.counts["remote_fetched"] == n_pieces == 9 and second.store.counts["damaged"] == 0
    assert second.store.flush() and second.store.counts["remote_sent"] == 0
    again = Reader(livekv, tmp_path / "one", url)  # a new process: it asks, and sends nothing twice
    assert again.read(tokens)[0] == n and again.store.flush() and again.store.counts["remote_sent"] == 0


class Moody:
    """Works or does not."""

    def __init__(self):
        self.files = {}
        self.works = True
        self.n_calls = 0

    def _look(self):
        self.n_calls += 1
        if not self.works:
            raise ConnectionError("gone\nfor now")

    def get(self, name):
        self._look()
        return self.files.get(name)

    def has(self, name):
        self._look()
        return name in self.files

    def put(self, name, data):
        self._look()
        self.files[name] = data


def test_a_remote_that_fails_is_left_alone_and_gets_all_when_it_is_back(livekv, tokens, tmp_path):
    remote = Moody()
    one = Reader(livekv, tmp_path / "one", remote)
    one.store._link._pause_s = 1000.0
    remote.works = False
    n, logits = one.read(tokens)
    assert n == 0 and one.store.problem == "gone for now" and remote.n_calls == 1
    assert not one.store.flush(5.0) and one.store.counts["remote_failed"] == 1 and one.store.counts["failed"] == 0
    assert one.read(tokens)[0] > 0 and remote.n_calls == 1, "from the folder"
    remote.works = True
    with one.store._link._changed:
        one.store._link._pause_s = 0.0
        one.store._link._changed.notify_all()
    assert one.store.flush(30.0) and one.store.problem == ""
    assert sorted(remote.files) == sorted(path.name for path in (tmp_path / "one").glob("*.kv"))
    remote.files.clear()  # it comes back empty: what it lacks is sent again
    remote.works = False
    one.read([*tokens, *tokens[:200]])
    while one.store.counts["remote_failed"] < 2:
        time.sleep(0.01)
    remote.works = True
    one.read([*tokens, *tokens[:200]])
    assert one.store.flush(30.0)
    n, same = Reader(livekv, tmp_path / "two", remote).read(tokens)
    assert n == (len(tokens) - 1) // CHUNK * CHUNK and np.array_equal(logits, same)


FORK = """
import os, signal, sys, threading
from pathlib import Path
from livekv.remote import Link

class Held:  # in the parent, whose thread is in the middle of it when the child begins
    def __init__(self):
        self.begun, self.may_end, self.there = threading.Event(), threading.Event(), set()

    def has(self, name):
        return name in self.there

    def put(self, name, data):
        self.begun.set()
        self.may_end.wait()
        self.there.add(name)

folder, holds = Path(sys.argv[1]), sys.argv[2] == "lock"
for name in "ab":
    (folder / name).write_bytes(b"x")
remote = Held()
link = Link(remote, folder)
link.offer("a", True)
remote.begun.wait()
if holds:
    held, go_on = threading.Event(), threading.Event()

    def hold():
        with link._changed:
            held.set()
            go_on.wait()

    threading.Thread(target=hold, daemon=True).start()
    held.wait()
child = os.fork()
if child == 0:
    signal.alarm(30)
    remote.may_end.set()
    link.offer("b", True)
    os._exit(0 if link.flush(20) and remote.there == {"b"} else 1)
assert os.waitpid(child, 0)[1] == 0
if holds:
    go_on.set()
remote.may_end.set()
assert link.flush(20) and remote.there == {"a"}
print("done")
"""


@pytest.mark.parametrize("holds", ["send", "lock"])
def test_a_child_of_fork_has_a_link_of_its_own(livekv, tmp_path, holds):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", FORK, tmp_path, holds], capture_output=True, text=True, timeout=120,
                          env=environment)  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


@pytest.mark.parametrize("answer", [b"", b"no file", "text", 7, [1]])
def test_a_remote_that_answers_nonsense_costs_no_answer(livekv, tokens, tmp_path, answer):
    class Liar(Moody):
        def get(self, name):
            return answer

    n, logits = Reader(livekv, tmp_path / "one", Liar()).read(tokens)
    assert n == 0
    assert np.array_equal(logits, Reader(livekv, tmp_path / "two", Moody()).read(tokens)[1])


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("nothing://user:word@host/x", "cannot keep chunks in 'nothing://host/x'"),
        ("redis://:word@host:port/0", "cannot keep chunks in 'redis://host:port/0'"),
        ("rediss://:word@[host/0", "cannot keep chunks in"),
    ],
)
def test_urls_that_are_none_are_one_line_without_passwords(livekv, tmp_path, url, part):
    pytest.importorskip("redis" if url.startswith("redis") else "fsspec")
    with pytest.raises(livekv.Error) as caught:
        livekv.ChunkStore(tmp_path / "store", remote=url)
    assert part in str(caught.value) and "word" not in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_no_remote_is_refused(livekv, tmp_path):
    for remote in (7, object(), b"redis://"):
        with pytest.raises(livekv.Error, match="remote is"):
            livekv.ChunkStore(tmp_path / "store", remote=remote)


# --- servers ---


@pytest.fixture
def client_of(livekv, tmp_path):
    for needed in ("fastapi", "llguidance", "prometheus_client", "httpx"):
        pytest.importorskip(needed)
    from livekv.serve.app import make_app
    from livekv.serve.limits import Limits
    from livekv.serve.scheduler import Scheduler
    from livekv.serve.worker import Worker
    from starlette.testclient import TestClient

    def make(name, remote):
        store = livekv.ChunkStore(tmp_path / name, remote=remote, fetches_ahead=True)
        store._link._pause_s = 0.05
        model = livekv.Model(STORY, n_threads=1, store=store)
        app = make_app(Worker(Scheduler(model, Limits(), 1500, livekv.KVOptions(chunk_size=CHUNK))), "story")
        client = TestClient(app, base_url="http://localhost")
        client.store = store
        return client

    return make


def answer(client, prompt):
    body = {"prompt": prompt, "max_tokens": 8, "temperature": 0, "seed": 1}
    done = client.post("/v1/completions", json=body)
    assert done.status_code == 200, done.text
    return done.json()["choices"][0]["text"], done.json()["usage"]["prompt_tokens_details"]["cached_tokens"]


def test_redis_goes_and_comes_back_and_servers_live(client_of, redis_server, tokens):
    with client_of("one", redis_server.url) as one, client_of("two", redis_server.url) as two:
        text, n = answer(one, tokens)
        assert n == 0 and one.store.flush()
        assert answer(two, tokens) == (text, (len(tokens) - 1) // CHUNK * CHUNK)
        redis_server.stop()
        other, n = answer(one, tokens[100:])
        assert n == 0 and answer(two, tokens[100:]) == (other, 0), "each reads for itself"
        assert one.get("/health").json() == {"status": "ok"} and one.store.problem
        assert "livekv_store_remote_failed_total" in one.get("/metrics").text
        redis_server.start()  # empty
        assert answer(one, tokens[100:])[0] == other
        assert one.store.flush(30.0)
        assert one.store.problem == ""
    with client_of("three", redis_server.url) as three:
        assert answer(three, tokens[100:]) == (other, (len(tokens) - 101) // CHUNK * CHUNK)


def test_the_engine_never_waits_for_a_remote(client_of, tokens):
    """Who fetches is not the thread that steps: others are answered while a remote takes its time."""
    import threading

    asked, let_go = threading.Event(), threading.Event()

    class Slow(Moody):
        def get(self, name):
            assert threading.current_thread().name.startswith("livekv-fetch")
            asked.set()
            let_go.wait(30)

    with client_of("one", Slow()) as client:
        found = []
        waiting = threading.Thread(target=lambda: found.append(answer(client, tokens)))
        waiting.start()
        assert asked.wait(30)
        assert answer(client, tokens[:50])[1] == 0 and found == []
        let_go.set()
        waiting.join(60)
        assert len(found) == 1
        bad = client.post("/v1/completions", json={"prompt": [2**40] * 3})
        assert bad.status_code == 400


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("--store-limit", "1G"), "--store-limit is of a folder; it needs --store"),
        (("--store-folder", "x"), "--store-folder is in front of a URL; it needs --store URL"),
        (("--store", "x", "--store-folder", "y"), "it needs --store URL"),
        (("--store", "nothing://host/x"), "cannot keep chunks in 'nothing://host/x'"),
    ],
)
def test_what_a_server_does_not_start_with(livekv, capsys, monkeypatch, options, part):
    for needed in ("fastapi", "uvicorn", "llguidance", "prometheus_client", "fsspec"):
        pytest.importorskip(needed)
    from livekv.serve.__main__ import main

    monkeypatch.delenv("LIVEKV_KV_STORE", raising=False)
    assert main(["-m", str(STORY), *options]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("livekv.serve: ") and part in err and err.count("\n") == 1
