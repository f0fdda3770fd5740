"""livekv.ray_serve on a Ray cluster of this machine, which the test starts and ends: two replicas with one folder."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray's own
for needed in ("fastapi", "uvicorn", "llguidance", "prometheus_client"):
    pytest.importorskip(needed, reason=f"{needed} is not installed: requirements/serve.txt")
httpx = pytest.importorskip("httpx", reason="httpx is not installed: requirements/dev.txt")
for needed in ("ray", "grpc", "opencensus"):
    pytest.importorskip(needed, reason="ray[serve] is not installed: requirements/ray.txt")

STORY = ROOT / "tests" / "models" / "story.gguf"
CHUNK = 64
KEY = {"authorization": "Bearer for-the-tests"}


@pytest.fixture(scope="module")
def address(livekv, build_dir, tmp_path_factory):
    store = tmp_path_factory.mktemp("shared") / "store"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = f"-m {STORY} -t 1 -c 1500 --kv livekv:chunk-size={CHUNK} --name story --memory 256M --store {store}"
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        paths = [str(build_dir / "python"), *filter(None, [os.environ.get("PYTHONPATH")])]
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))  # of the replicas' processes
        patch.setenv("LIVEKV_API_KEY", KEY["authorization"].split()[1])
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        import ray
        from livekv.ray_serve import application
        from ray import serve

        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error", object_store_memory=80 << 20)
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            serve.run(application({"options": options, "replicas": 2, "request_cost": 1000}))
            yield f"http://127.0.0.1:{port}"
        finally:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                serve.shutdown()
                ray.shutdown()
                gc.collect()  # its processes, which nobody waits for


def ask(address, text, **more):
    """What was said, how much was known, and who said it."""
    body = {"model": "story", "prompt": text, "max_tokens": 8, "temperature": 0, "seed": 1, **more}
    done = httpx.post(f"{address}/v1/completions", json=body, headers=KEY, timeout=60)
    assert done.status_code == 200, done.text
    answer = done.json()
    known = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    return answer["choices"][0]["text"], known, done.headers["x-livekv-replica"]


def test_prompts_go_where_their_beginning_was_read(address, opening):
    text = opening.read_text()
    texts = [text[1300 * i : 1300 * i + 1200] for i in range(4)]
    first = [ask(address, one) for one in texts]
    assert [n for _, n, _ in first] == [0, 0, 0, 0]
    assert len({who for _, _, who in first[:2]}) == 2, "what nobody knows is spread"
    for one, (_, _, who) in reversed(list(zip(texts, first, strict=True))):
        said, n, again = ask(address, one + text[1200:1260])
        assert again == who and n >= 2 * CHUNK


def test_streams_chats_and_errors_come_through(address):
    prompt = "Once upon a time there was a captain"
    whole, _, _ = ask(address, prompt)
    body = {"model": "story", "prompt": prompt, "max_tokens": 8, "temperature": 0, "seed": 1, "stream": True}
    with httpx.stream("POST", f"{address}/v1/completions", json=body, headers=KEY, timeout=60) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        events = [line[6:] for line in stream.iter_lines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]" and len(events) > 3
    assert "".join(json.loads(event)["choices"][0]["text"] for event in events[:-1]) == whole
    assert httpx.get(f"{address}/v1/models", headers=KEY).json()["data"][0]["id"] == "story"
    assert httpx.post(f"{address}/v1/completions", json=body).status_code == 401
    for content, status in [(b"{", 400), (json.dumps({"prompt": "x", "none": 1}), 400), (json.dumps({"model": "other", "prompt": "x"}), 404)]:
        done = httpx.post(f"{address}/v1/completions", content=content, headers=KEY | {"content-type": "application/json"})
        assert done.status_code == status and "message" in done.json()["error"], done.text
    assert httpx.get(f"{address}/metrics", headers=KEY).status_code == 404
    assert httpx.get(f"{address}/health").json() == {"status": "ok"}


def states():
    """/status of each replica, by its name. Many ask at a time, which spreads them over all."""
    from livekv.ray_serve.asked import Asked
    from ray import serve

    handle = serve.get_deployment_handle("replica", "default").options(stream=True)
    found = {}

    async def look():
        who, text = "", b""
        async for message in handle.ask.remote(Asked("GET", "/status", b"", [], b"")):
            if message["type"] == "http.response.start":
                who = dict(message["headers"])[b"x-livekv-replica"].decode()
            text += message.get("body", b"")
        found[who] = json.loads(text)

    async def all_of_them():
        await asyncio.gather(*(look() for _ in range(10)))

    asyncio.run(all_of_them())
    return found


def test_a_client_that_goes_ends_its_request(address):
    body = {"model": "story", "prompt": "Once", "max_tokens": 1400, "temperature": 0, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{address}/v1/completions", json=body, headers=KEY, timeout=60) as stream:
        who = stream.headers["x-livekv-replica"]
        next(stream.iter_lines())
    for _ in range(100):
        state = states().get(who)
        if state and state["counters"]["cancelled"] >= 1:
            break
        time.sleep(0.1)
    else:
        raise AssertionError("it goes on")
    assert all(one["state"] == "kept" for one in state["sessions"])


def test_another_replica_goes_on_when_one_is_killed(address):
    """Also with what the killed one was at, as long as nothing of the answer was sent."""
    import ray

    prompt = (ROOT / "tests" / "data" / "island-guide.txt").read_text()[:1600]
    said, n, who = ask(address, prompt)
    assert n == 0
    (actor,) = (one["name"] for one in ray.util.list_named_actors(all_namespaces=True) if one["name"].endswith(who))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, address, prompt, max_tokens=1000, ignore_eos=True)
        for _ in range(200):
            if any(one["state"] == "writing" for one in states()[who]["sessions"]):
                break
            time.sleep(0.02)
        else:
            raise AssertionError("it is not under way")
        ray.kill(ray.get_actor(actor, namespace="serve"))
        told, n, other = waiting.result(60)
        assert told.startswith(said) and other != who and n >= 4 * CHUNK, "from the folder"
