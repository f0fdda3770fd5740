"""How a server ends: at Ctrl-C and SIGTERM everybody is told, in the form of the API, and nothing is left behind."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import threading
import time
import urllib.request
from urllib.parse import urlsplit

import pytest
from serving import started

for needed in ("fastapi", "uvicorn", "llguidance", "prometheus_client"):
    pytest.importorskip(needed, reason=f"{needed} is not installed: requirements/serve.txt")

JSON = {"content-type": "application/json"}
SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture(scope="module")
def tiny(root):
    return root / "tests" / "models" / "tiny.gguf"


class Client(threading.Thread):
    """Asks for more than there is time for."""

    def __init__(self, address, path, stream, text):
        super().__init__()
        self.address, self.path, self.stream = urlsplit(address), path, stream
        prompt = {"prompt": text, "ignore_eos": True} if path == "/v1/completions" else {"messages": [{"role": "user", "content": text}]}
        self.body = {"model": "tiny", "max_tokens": 3000, "stream": stream, **prompt}
        self.status, self.said = 0, b""
        self.start()

    def run(self):
        with contextlib.closing(http.client.HTTPConnection(self.address.hostname, self.address.port, timeout=60)) as connection:
            connection.request("POST", self.path, json.dumps(self.body), JSON)
            with connection.getresponse() as answer:
                self.status = answer.status
                while part := answer.read1():
                    self.said += part

    def was_told(self):
        """That the server ends: as the answer, or as the last event of one that had begun."""
        self.join(30)
        assert not self.is_alive()
        if self.status == 503:
            return json.loads(self.said)
        assert self.stream and self.status == 200, (self.status, self.said)
        return json.loads(self.said.decode().strip().splitlines()[-1].removeprefix("data: "))


LONG = 70_000
SLOW = f"""import sys, time, livekv
plain = livekv.Model.tokenize
def tokenize(self, text, *rest, **more):
    if len(text) >= {LONG}:
        print("begun", text[:2], file=sys.stderr, flush=True)
        time.sleep(int(text[:2]))
    return plain(self, text, *rest, **more)
livekv.Model.tokenize = tokenize"""


def test_long_texts_keep_neither_others_nor_the_end(livekv, build_dir, tiny):
    """Those of clients that have gone are not begun."""
    with started(build_dir, "-m", tiny, "-c", 8192, "-t", 1, before=SLOW) as (process, address):
        url = urlsplit(address)

        def asking(seconds):
            one = http.client.HTTPConnection(url.hostname, url.port, timeout=30)
            one.request("POST", "/tokenize", json.dumps({"content": seconds + "x" * LONG}), JSON)
            return one

        waiting = [asking("03") for _ in range(6)]
        assert process.stderr.readline() == "begun 03\n"
        prompt = json.dumps({"prompt": "Once", "max_tokens": 2}).encode()
        asked = urllib.request.Request(f"{address}/v1/completions", prompt, JSON)
        with urllib.request.urlopen(asked, timeout=20) as answer:
            assert answer.status == 200
        for one in waiting:
            one.close()
        time.sleep(1)
        last = asking("60")
        assert process.stderr.readline() == "begun 60\n"
        process.terminate()
        assert process.communicate(timeout=20)[1] == "" and process.returncode == 0
        last.close()


@pytest.mark.parametrize("number", SIGNALS)
def test_everybody_is_told_and_nothing_is_left(livekv, build_dir, tiny, opening, tmp_path, number):
    pytest.importorskip("fsspec", reason="fsspec is not installed: requirements/store.txt")
    temporary, remote = tmp_path / "temporary", tmp_path / "remote"
    temporary.mkdir()
    remote.mkdir()
    text = opening.read_text()
    options = ("-m", tiny, "-c", 4096, "-t", 1, "--parallel", 3, "--store", f"file://{remote}")
    with started(build_dir, *options, TMPDIR=str(temporary)) as (process, address):
        assert [one.name[:13] for one in temporary.iterdir()] == ["livekv-store-"]
        clients = [
            Client(address, path, stream, f"{path} {stream} {text[:4000]}")
            for path in ("/v1/completions", "/v1/messages", "/v1/chat/completions")
            for stream in (False, True)
        ]
        deadline = time.monotonic() + 60
        while not any(one.said for one in clients) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        said = process.communicate(timeout=30)[1]
    assert (process.returncode, said) == (0, "")
    for client in clients:
        told = client.was_told()
        assert told["error"]["message"] == "the server ends"
        assert told["error"]["type"] == ("overloaded_error" if client.path == "/v1/messages" else "server_error")
    assert not list(temporary.iterdir()) and list(remote.iterdir())


def test_who_does_not_read_or_is_not_done_in_time_does_not_keep_it(livekv, build_dir, tiny):
    """A stream that nobody takes, and a prompt whose tokens take long to find."""
    slow = "import time, livekv.serve.completions as c\nc.prompts_of = lambda *_: time.sleep(8)"
    with started(build_dir, "-m", tiny, "-c", 2000, "-t", 1, before=slow) as (process, address):
        waiting = Client(address, "/v1/completions", False, "a")
        with socket.create_connection((urlsplit(address).hostname, urlsplit(address).port)) as deaf:
            body = json.dumps({"messages": [{"role": "user", "content": "a"}], "max_tokens": 1900, "stream": True, "logprobs": True, "top_logprobs": 20})
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            time.sleep(2)
            process.send_signal(signal.SIGTERM)
            said = process.communicate(timeout=30)[1]
    assert (process.returncode, said) == (0, "")
    assert waiting.was_told()["error"]["message"] == "the server ends"


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_ends_it_at_once(livekv, build_dir, tiny, tmp_path, number):
    """Whatever is under way; what users wrote is removed all the same."""
    pytest.importorskip("fsspec", reason="fsspec is not installed: requirements/store.txt")
    long = "import time, livekv.serve.worker as w\nw.Worker.close = lambda self: time.sleep(60)"
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    options = ("-m", tiny, "-t", 1, "--store", f"file://{tmp_path}")
    with started(build_dir, *options, before=long, TMPDIR=str(temporary)) as (process, address):
        urllib.request.urlopen(f"{address}/health").close()
        process.send_signal(number)
        time.sleep(1)
        assert process.poll() is None
        start = time.monotonic()
        process.send_signal(number)
        said = process.communicate(timeout=30)[1]
    assert (process.returncode, said) == (128 + number, "") and time.monotonic() - start < 5
    assert not list(temporary.iterdir())
