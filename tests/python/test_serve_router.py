"""Three servers behind a router that nobody here wrote: prompts that begin alike go where their beginning is known, and
what one server has read another goes on from when it is gone."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time

import pytest
from conftest import ROOT
from serving import served

for needed in ("fastapi", "uvicorn", "llguidance", "prometheus_client"):
    pytest.importorskip(needed, reason=f"{needed} is not installed: requirements/serve.txt")
httpx = pytest.importorskip("httpx", reason="httpx is not installed: requirements/dev.txt")

STORY = ROOT / "tests" / "models" / "story.gguf"
ROUTERS = {"vllm-router": ["vllm-router"], "sglang-router": ["sglang-router", "launch"]}
CHUNK = 64
KEY = {"authorization": "Bearer for-the-tests"}
"""Which the router hands on."""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def replicas(build_dir, tmp_path_factory):
    """Their addresses, and a stack for each that ends it when it is closed. They share a folder. A router asks in other
    protocols first, which a server's log says."""
    folder = tmp_path_factory.mktemp("shared") / "store"
    with contextlib.ExitStack() as all_of_them:
        made = {}
        for _ in range(3):
            own = all_of_them.enter_context(contextlib.ExitStack())
            address = own.enter_context(
                served(build_dir, "-m", STORY, "-t", 1, "-c", 1500, "--kv", f"livekv:chunk-size={CHUNK}",
                       "--api-key", KEY["authorization"].split()[1], "--store", folder, "--name", "story", "--prefix-cache", "32M", "--memory", "256M", may_say="Invalid HTTP request"))  # fmt: skip
            made[address] = own
        yield made


@contextlib.contextmanager
def routed(name, addresses, log):
    if shutil.which(ROUTERS[name][0]) is None:
        pytest.skip(f"{name} is not installed")
    address = f"http://127.0.0.1:{free_port()}"
    command = [*ROUTERS[name], "--worker-urls", *addresses, "--policy", "cache_aware", "--host", "127.0.0.1",
               "--port", address.rpartition(":")[2], "--prometheus-port", str(free_port()), "--prometheus-host", "127.0.0.1",
               "--health-check-interval-secs", "1"]  # fmt: skip
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            for _ in range(300):
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"{address}/v1/models", headers=KEY).status_code == 200:
                        break
                assert process.poll() is None, log.read_text()[-3000:]
                time.sleep(0.1)
            else:
                raise AssertionError(log.read_text()[-3000:])
            yield address
        finally:
            process.terminate()
            process.wait(30)


def ask(address, text):
    body = {"model": "story", "prompt": text, "max_tokens": 8, "temperature": 0, "seed": 1}
    done = httpx.post(f"{address}/v1/completions", json=body, headers=KEY, timeout=60)
    assert done.status_code == 200, done.text
    answer = done.json()
    return answer["choices"][0]["text"], answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def metric(address, name):
    lines = httpx.get(f"{address}/metrics", headers=KEY).text.splitlines()
    return int(float(next(line.split()[1] for line in lines if line.startswith(f"livekv_{name}_total "))))


def n_requests(address):
    return metric(address, "requests")


@pytest.mark.parametrize("name", ROUTERS)
def test_three_servers_behind_a_router(name, replicas, opening, tmp_path):
    files = dict(zip(ROUTERS, (opening, ROOT / "tests" / "data" / "island-guide.txt"), strict=True))
    text = files[name].read_text()  # each router has texts of its own
    texts = [text[1300 * i : 1300 * i + 1200] for i in range(3)]
    before = {address: n_requests(address) for address in replicas}
    n_stored = sum(metric(address, "store_tokens_read") for address in replicas)
    with routed(name, replicas, tmp_path / "log") as address:
        first = [ask(address, one) for one in texts]
        again = [ask(address, one + text[1200:1260]) for one in reversed(texts)]
        assert all(n == 0 for _, n in first) and all(n >= 2 * CHUNK for _, n in again)
        # It knows where a beginning was read: nothing came from the store.
        assert sum(metric(one, "store_tokens_read") for one in replicas) == n_stored
        body = {"model": "story", "prompt": texts[0], "max_tokens": 8, "temperature": 0, "seed": 1, "stream": True}
        with httpx.stream("POST", f"{address}/v1/completions", json=body, headers=KEY, timeout=60) as stream:
            streamed = [line for line in stream.iter_lines() if line.startswith("data: ")]
        assert len(streamed) > 3 and streamed[-1] == "data: [DONE]"
        counts = {one: n_requests(one) - before[one] for one in replicas}
        assert sum(counts.values()) == 7
        # Directly at each: the same answer, from what another has stored.
        for one in replicas:
            for prompt, (said, _) in zip(texts, first, strict=True):
                told, n = ask(one, prompt)
                assert told == said and n >= 2 * CHUNK


def test_a_server_that_goes_takes_no_prompt_with_it(replicas, opening, tmp_path):
    name = next((name for name in ROUTERS if shutil.which(ROUTERS[name][0])), None)
    if name is None:
        pytest.skip(f"none of {', '.join(ROUTERS)} is installed")
    prompt = opening.read_text()[4300:5900]
    with routed(name, replicas, tmp_path / "log") as address:
        before = {one: n_requests(one) for one in replicas}
        said, n = ask(address, prompt)
        assert n == 0
        (mine,) = (one for one in replicas if n_requests(one) > before[one])
        replicas[mine].close()
        for _ in range(100):  # until the router has seen it
            with contextlib.suppress(AssertionError):
                told, n = ask(address, prompt)
                break
            time.sleep(0.2)
        else:
            raise AssertionError((tmp_path / "log").read_text()[-3000:])
        assert told == said and n >= 4 * CHUNK
