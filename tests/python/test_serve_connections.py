"""Connections that ask for nothing, slowly or many at a time: others are answered all the same."""

from __future__ import annotations

import json
import socket
import time
import urllib.request
from urllib.parse import urlsplit

import pytest
from serving import started

for needed in ("fastapi", "uvicorn", "llguidance", "prometheus_client"):
    pytest.importorskip(needed, reason=f"{needed} is not installed: requirements/serve.txt")

FEW_FILES = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))"
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n"


@pytest.fixture(scope="module")
def tiny(root):
    return root / "tests" / "models" / "tiny.gguf"


def connected(address):
    url = urlsplit(address)
    connection = socket.create_connection((url.hostname, url.port))
    connection.settimeout(30)
    return connection


def answered(address):
    body = json.dumps({"prompt": "Once", "max_tokens": 2}).encode()
    request = urllib.request.Request(f"{address}/v1/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.status == 200


def everything(connection):
    said = b""
    try:
        while part := connection.recv(1 << 16):
            said += part
    except ConnectionResetError:
        pass
    return said


@pytest.mark.parametrize("sent", [b"", HEAD[:40], HEAD + b"\r\n{"], ids=["nothing", "half a head", "half a body"])
def test_more_idle_connections_than_there_are_files_for(livekv, build_dir, tiny, sent):
    with started(build_dir, "-m", tiny, "-t", 1, before=FEW_FILES) as (process, address):
        idle = []
        for _ in range(200):
            idle.append(connected(address))
            idle[-1].sendall(sent)
        for _ in range(3):
            assert answered(address)
        for one in idle:
            one.close()
        assert answered(address)
        process.terminate()
        assert process.communicate(timeout=30)[1] == "" and process.returncode == 0


def test_where_all_connections_have_requests_the_newest_is_told_so(livekv, build_dir, tiny):
    body = json.dumps({"prompt": "Once", "max_tokens": 3000, "ignore_eos": True, "stream": True}).encode()
    whole = HEAD.replace(b"1000", str(len(body)).encode()) + b"\r\n" + body
    with started(build_dir, "-m", tiny, "-t", 1, "--queue", 200, before=FEW_FILES) as (process, address):
        asking = []
        for _ in range(64):
            asking.append(connected(address))
            asking[-1].sendall(whole)
        time.sleep(2)
        with connected(address) as late:
            said = everything(late)
        assert said.startswith(b"HTTP/1.1 503 ") and b"there are too many connections" in said
        for one in asking:
            one.close()
        time.sleep(1)
        assert answered(address)
        process.terminate()
        assert process.communicate(timeout=30)[1] == ""


@pytest.mark.uninstrumented
def test_what_does_not_come_in_time_is_not_waited_for(livekv, build_dir, tiny):
    with started(build_dir, "-m", tiny, "-c", 8192, "-t", 1, "--read-timeout", 1) as (process, address):
        for sent, status in ((b"", b""), (HEAD[:40], b""), (HEAD + b"\r\n{", b"HTTP/1.1 408 ")):
            with connected(address) as slow:
                start = time.monotonic()
                slow.sendall(sent)
                said = everything(slow)
                assert said.startswith(status) and bool(said) == bool(status)
                assert 0.5 < time.monotonic() - start < 10
        with connected(address) as kept:  # it may be used again, and is let go when it is not
            for _ in range(2):
                kept.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                said = b""
                while not said.endswith(b"}"):
                    said += kept.recv(1 << 16)
                assert said.startswith(b"HTTP/1.1 200 ")
            assert b"HTTP/1.1" not in everything(kept)
        body = json.dumps({"prompt": "Once", "max_tokens": 6000, "ignore_eos": True}).encode()
        with connected(address) as long:  # an answer takes as long as it takes
            long.sendall(HEAD.replace(b"1000", str(len(body)).encode()) + b"Connection: close\r\n\r\n" + body)
            start = time.monotonic()
            assert everything(long).startswith(b"HTTP/1.1 200 ")
            assert time.monotonic() - start > 1.1
        assert answered(address)
        process.terminate()
        assert process.communicate(timeout=30)[1] == ""


def test_who_takes_nothing_of_an_answer_is_let_go(livekv, build_dir, tiny):
    body = json.dumps({"content": " q!" * 800_000}).encode()
    whole = HEAD.replace(b"/v1/completions", b"/tokenize").replace(b"1000", str(len(body)).encode())
    with started(build_dir, "-m", tiny, "-c", 1 << 17, "-t", 1, "--timeout", 1) as (process, address):
        url = urlsplit(address)
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.settimeout(30)
            slow.connect((url.hostname, url.port))
            slow.sendall(whole + b"\r\n" + body)
            head = slow.recv(1024)
            time.sleep(4)
            said = head + everything(slow)
        length = int(said.split(b"content-length: ")[1].split(b"\r\n")[0])
        assert said.startswith(b"HTTP/1.1 200 ") and len(said) < length
        assert answered(address)
        process.terminate()
        assert process.communicate(timeout=30)[1] == ""


def test_what_is_no_request_is_said_once(livekv, build_dir, tiny):
    with started(build_dir, "-m", tiny, "-t", 1) as (process, address):
        for _ in range(20):
            with connected(address) as wrong:
                wrong.sendall(b"\x16\x03\x01 hello\r\n\r\n")
                everything(wrong)
        assert answered(address)
        process.terminate()
        assert process.communicate(timeout=30)[1].count("Invalid HTTP request") == 1
