"""Whatever is sent to the server: a clear 4xx, and the others do not notice."""

from __future__ import annotations

import asyncio
import json
import threading
import time

import pytest

fastapi = pytest.importorskip("fastapi", reason="fastapi is not installed: requirements/serve.txt")
for needed in ("uvicorn", "llguidance", "prometheus_client"):
    pytest.importorskip(needed, reason=f"{needed} is not installed: requirements/serve.txt")
pytest.importorskip("httpx", reason="httpx is not installed: requirements/dev.txt")
hypothesis = pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, settings  # noqa: E402
from serving_app import JSON, app_of, others_wait_at_most, refused  # noqa: E402, F401 (a fixture)

CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
PATHS = ["/v1/completions", "/v1/chat/completions", "/v1/messages", "/v1/messages/count_tokens", "/tokenize", "/detokenize"]


@pytest.fixture(scope="module")
def client(app_of):  # noqa: F811
    from starlette.testclient import TestClient

    with TestClient(app_of(max_body=1 << 20), base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client
        assert client.get("/health").json() == {"status": "ok"}
        answer = client.post("/v1/completions", json={"prompt": "Once", "max_tokens": 3, "temperature": 0})
        assert answer.json()["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"nothing", b"[]", b"null", b'"text"', b"\xff\xfe", b"{}", b"[" * 200_000, b'{"a":' * 100_000, b'{"model": 1e999}',
     b'{"model": ' + b"9" * 10_000 + b"}", b'{"model": "\\ud800"}', b'{"\\ud800": 1}', b'{"' + b"k" * 100_000 + b'": 1}', b'{"prompt": "a", "messages": 3, "content": {}, "tokens": {}}'],
)  # fmt: skip
def test_bodies_that_are_none(client, path, body):
    refused(client.post(path, content=body, headers=JSON))


@pytest.mark.parametrize(
    ("path", "body", "part"),
    [
        ("/v1/completions", {"prompt": "a", "max_tokens": -1}, "max_tokens"),
        ("/v1/completions", {"prompt": "a", "max_tokens": 10**30}, "max_tokens"),
        ("/v1/completions", {"prompt": "a", "max_tokens": "5"}, "max_tokens"),
        ("/v1/completions", {"prompt": "a", "max_tokens": 1.5}, "max_tokens"),
        ("/v1/completions", {"prompt": "a", "max_tokens": True}, "max_tokens"),
        ("/v1/completions", {"prompt": "a", "temperature": -0.1}, "temperature"),
        ("/v1/completions", {"prompt": "a", "top_p": 1.1}, "top_p"),
        ("/v1/completions", {"prompt": "a", "seed": 2**64}, "seed"),
        ("/v1/completions", {"prompt": "a", "n": 0}, "n"),
        ("/v1/completions", {"prompt": "a", "n": 100}, "n is 100"),
        ("/v1/completions", {"prompt": "a", "logprobs": 1000}, "logprobs"),
        ("/v1/completions", {"prompt": "a", "stop": ""}, "stop string is empty"),
        ("/v1/completions", {"prompt": "a", "stop": ["x"] * 17}, "stop"),
        ("/v1/completions", {"prompt": "a", "unknown": 1}, "unknown"),
        ("/v1/completions", {"prompt": "a", "\ud800": 1}, "not valid JSON"),
        ("/v1/completions", {"prompt": "a", "metadata": {"\ud800": "\udfff"}}, "not valid JSON"),
        ("/v1/messages", {"model": "tiny", "max_tokens": 1, "messages": CHAT["messages"], "\udfff" * 5000: 1}, "not valid JSON"),
        ("/v1/chat/completions", {**CHAT, "tools": [{"type": "function", "function": {"name": "f", "description": "\ud800"}}]}, ""),
        ("/v1/chat/completions", {**CHAT, "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"enum": ["\ud800"]}}}}, ""),
        ("/v1/completions", {"prompt": "a", "frequency_penalty": 0.5}, "frequency_penalty: it is not supported"),
        ("/v1/completions", {"prompt": "a", "logit_bias": {"5": 1}}, "logit_bias"),
        ("/v1/completions", {"prompt": "a", "best_of": 2}, "best_of"),
        ("/v1/completions", {"prompt": "a", "no_stop_trim": True}, "no_stop_trim"),
        ("/v1/completions", {"prompt": "a", "skip_special_tokens": False}, "skip_special_tokens"),
        ("/v1/chat/completions", {**CHAT, "continue_final_message": True}, "continue_final_message"),
        ("/v1/completions", {"prompt": "a", "echo": True, "stream": True}, "a stream has no echo"),
        ("/v1/completions", {"prompt": "\ud800"}, "not valid JSON"),
        ("/v1/completions", {"prompt": []}, "no tokens"),
        ("/v1/completions", {"prompt": [[]]}, "no tokens"),
        ("/v1/completions", {"prompt": ["a"] * 65}, "65 prompts"),
        ("/v1/completions", {"prompt": [-1]}, "outside the vocabulary"),
        ("/v1/completions", {"prompt": [2**40]}, "outside the vocabulary"),
        ("/v1/completions", {"prompt": [0.5]}, "prompt"),
        ("/v1/completions", {"prompt": "word " * 150_000}, "leaves no room"),
        ("/v1/completions", {"prompt": [1] * 200_000}, "leaves no room"),
        ("/v1/completions", {"prompt": ["a", " " * 900_000]}, "900000 characters are too many"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x" * 450_000}] * 2}, "900000 characters are too many"),
        ("/v1/messages", {"model": "tiny", "max_tokens": 1, "messages": [{"role": "user", "content": "x" * 900_000}]}, "900000 characters are too many"),
        ("/v1/chat/completions", {"messages": []}, "messages"),
        ("/v1/chat/completions", {"messages": [{"role": "alien", "content": "a"}]}, "role"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": 5}]}, "content"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://localhost"}}]}]}, "content"),
        ("/v1/chat/completions", {**CHAT, "top_logprobs": 2}, "top_logprobs needs logprobs"),
        ("/v1/chat/completions", {**CHAT, "tool_choice": "required"}, "there are no tools"),
        ("/v1/chat/completions", {**CHAT, "tools": [{"type": "function", "function": {"name": "a b"}}]}, "name"),
        ("/v1/chat/completions", {**CHAT, "tools": [{"type": "function", "function": {"name": "f"}}],
                                  "tool_choice": {"type": "function", "function": {"name": "g"}}}, "not among the tools"),
        ("/v1/chat/completions", {**CHAT, "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": 7}}}]}, "the tools"),
        ("/v1/chat/completions", {**CHAT, "response_format": {"type": "json_schema"}}, "without a json_schema"),
        ("/v1/chat/completions", {**CHAT, "response_format": {"type": "json_schema", "json_schema": {
            "name": "a", "schema": {"$ref": "http://localhost/schema.json"}}}}, "schema"),
        ("/v1/chat/completions", {"messages": [{"role": "assistant", "content": "", "tool_calls": [
            {"id": "1", "function": {"name": "f", "arguments": "[1]"}}]}]}, "not a JSON object"),
        ("/v1/messages", {"model": "tiny", "max_tokens": 0, "messages": CHAT["messages"]}, "max_tokens"),
        ("/v1/messages", {"model": "tiny", "max_tokens": 1, "messages": [{"role": "system", "content": "a"}]}, "role"),
        ("/v1/messages", {"model": "tiny", "max_tokens": 1, "messages": CHAT["messages"], "thinking": {"type": "enabled", "budget_tokens": 1}}, "thinking"),
        ("/v1/messages", {"model": "tiny", "max_tokens": 1, "messages": CHAT["messages"], "tool_choice": {"type": "any"}}, "there are no tools"),
        ("/tokenize", {"content": "\udfff"}, "not valid JSON"),
        ("/tokenize", {"content": "x" * 900_000}, "900000 characters are too many"),
        ("/v1/completions", {"prompt": "a", "stop": "\ud800"}, "not valid JSON"),
        ("/v1/completions", {"prompt": "a", "stop": ["b", "\udfff"]}, "not valid JSON"),
        ("/v1/messages", {"model": "tiny", "max_tokens": 1, "messages": CHAT["messages"], "stop_sequences": ["\ud800"]}, "not valid JSON"),
        ("/detokenize", {"tokens": [4096]}, "vocabulary"),
        ("/detokenize", {"tokens": [2**70]}, ""),
        ("/detokenize", {"tokens": [-5]}, ""),
    ],
)  # fmt: skip
def test_values_that_are_wrong(client, path, body, part):
    assert part in refused(client.post(path, content=json.dumps(body), headers=JSON))["message"]


OPTIONAL = {"type": "object", "properties": {f"p{i}": {"type": "integer"} for i in range(900)}, "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "part"),
    [
        ({"$ref": "#"}, "the JSON schema: no text keeps to it"),
        ({"allOf": [{"$ref": "#"}]}, "the JSON schema: no text keeps to it"),
        (OPTIONAL, "900 properties, of which more than 498 are not required"),
        (OPTIONAL | {"required": [f"q{i}" for i in range(500)] + ["p1"] * 500}, "900 properties, of which more than 498 are not"),
        ({"items": {"x-guidance": {"whitespace_flexible": True}}}, "x-guidance is not supported"),
        ({"allOf": [{"type": "string", "pattern": f".*{chr(97 + i)}.*"} for i in range(20)]}, "20 patterns"),
        ({"enum": ["a" * 1000] * 300}, "characters; at most"),
        ({"type": "string", "pattern": "("}, "unclosed group"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_that_cannot_be_kept_to_is_refused_before_the_answer(client, schema, part, stream):
    """And nobody waits for it."""
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    with others_wait_at_most(client, 1.0):
        problem = refused(client.post("/v1/chat/completions", json={**CHAT, "response_format": wanted, "max_tokens": 40, "stream": stream}))
    assert part in problem["message"]
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    if "$ref" not in str(schema):  # a tool's is a part of a grammar, whose root is another
        refused(client.post("/v1/chat/completions", json={**CHAT, "tools": tools, "tool_choice": "required", "stream": stream}))


def test_what_routers_put_into_requests_changes_nothing(client):
    """sglang-router 0.3.2 and vllm-router 0.1.17 write these fields into every request."""
    put_in = {"no_stop_trim": False, "ignore_eos": False, "skip_special_tokens": True, "return_hidden_states": False, "stream": False}
    more = {"continue_final_message": False, "separate_reasoning": True, "stream_reasoning": True, "include_reasoning": True, "logprobs": False}
    for path, body in (("/v1/completions", {"prompt": "Once", "max_tokens": 8, "echo": False}), ("/v1/chat/completions", CHAT | more)):
        body = body | {"temperature": 0}
        plain = {name: value for name, value in body.items() if name not in more and name != "echo"}
        answers = [client.post(path, json=one).json()["choices"] for one in (plain, body | put_in)]
        assert answers[0] == answers[1]


def test_bodies_that_are_too_large_are_not_read(client):
    taken = []

    def endless():
        for _ in range(1000):
            taken.append(1)
            yield b" " * (1 << 14)

    refused(client.post("/v1/completions", content=b" " * (1 << 20) + b"{}", headers=JSON), 413)
    refused(client.post("/v1/messages", content=endless(), headers=JSON), 413)


def test_other_paths_and_hosts(client):
    refused(client.get("/nothing"), 404)
    refused(client.get("/v1/models/other"), 404)
    refused(client.get("/v1/completions"), 405)
    refused(client.get("/health", headers={"host": "somewhere.example"}), 403)
    for host in ("[::1]:8080", "LOCALHOST", "localhost.:80", "127.0.0.1."):
        assert client.get("/health", headers={"host": host}).status_code == 200


def test_a_key_is_needed_where_there_is_one(app_of):
    from starlette.testclient import TestClient

    with TestClient(app_of(api_key="\u017c\u00f3\u0142w", any_host=True), base_url="http://anywhere") as client:
        right = "\u017c\u00f3\u0142w".encode()
        for headers in ({}, {"authorization": "Bearer x"}, {"authorization": b"Basic " + right}, {"x-api-key": "zolw"}, {"authorization": "Bearer"}):
            for path in ("/v1/models", "/metrics", "/openapi.json"):
                refused(client.get(path, headers=headers), 401)
        for headers in ({"authorization": b"Bearer " + right}, {"x-api-key": right}):
            assert client.get("/v1/models", headers=headers).status_code == 200


def test_a_step_that_fails_is_said_and_the_server_lives(app_of, monkeypatch, caplog):
    from livekv.serve.scheduler import Scheduler
    from starlette.testclient import TestClient

    def fail(self):
        raise MemoryError("for the test")

    with TestClient(app_of(), base_url="http://localhost") as client:
        with monkeypatch.context() as patch:
            patch.setattr(Scheduler, "_begin_waiting", fail)
            for _ in range(2):
                assert "its log says more" in refused(client.post("/v1/completions", json={"prompt": "a"}), 500)["message"]
        assert "for the test" in caplog.text
        assert client.post("/v1/completions", json={"prompt": "a", "max_tokens": 2}).json()["usage"]["completion_tokens"] == 2
        assert client.get("/health").status_code == 200


def test_bad_requests_do_not_disturb_a_good_one(client):
    asked = {"prompt": "Once upon a time", "max_tokens": 30, "temperature": 0, "ignore_eos": True}
    alone = client.post("/v1/completions", json=asked).json()["choices"][0]["text"]
    found = []
    good = threading.Thread(target=lambda: found.append(client.post("/v1/completions", json=asked).json()["choices"][0]["text"]))
    good.start()
    for _ in range(40):
        refused(client.post("/v1/completions", json={"prompt": "a", "n": 0}))
        refused(client.post("/v1/completions", content=b"{", headers=JSON))
    good.join()
    assert found == [alone]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/messages"])
def test_little_is_sent_after_a_client_has_gone(livekv, root, path):
    """Pieces that wait together are not all written to a connection that is lost: whether it is shows between them."""
    from livekv.serve.app import make_app
    from livekv.serve.limits import Limits
    from livekv.serve.scheduler import Scheduler
    from livekv.serve.worker import Worker

    scheduler = Scheduler(livekv.Model(root / "tests" / "models" / "tiny.gguf", n_threads=2), Limits(), 1000)
    app = make_app(Worker(scheduler), "tiny", any_host=True)
    prompt = {"prompt": "Once"} if path == "/v1/completions" else {"messages": CHAT["messages"]}
    body = json.dumps({**prompt, "model": "tiny", "max_tokens": 40, "stream": True, "temperature": 0}).encode()
    sent = []

    async def talk():
        gone = asyncio.Event()
        parts = [{"type": "http.request", "body": body}]

        async def receive():
            if not parts:
                await gone.wait()
            return parts.pop() if parts else {"type": "http.disconnect"}

        async def send(message):
            if message.get("body"):
                sent.append(message["body"])
            if len(sent) == 1:
                while scheduler.n_texts:  # the loop stands still until all pieces wait
                    time.sleep(0.001)
                gone.set()

        scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
                 "headers": [(b"content-type", b"application/json"), (b"host", b"localhost")], "asgi": {"version": "3.0", "spec_version": "2.3"}}  # fmt: skip
        async with app.router.lifespan_context(app):
            await app(scope, receive, send)

    asyncio.run(talk())
    assert sent[0].startswith((b"data:", b"event:")) and len(sent) <= 4, sent


def test_the_description_says_what_is_answered(client):
    described = client.get("/openapi.json").json()
    paths, schemas = described["paths"], described["components"]["schemas"]
    for path in ("/v1/completions", "/v1/chat/completions", "/v1/messages"):
        answers = paths[path]["post"]["responses"]
        assert {"200", "400", "401", "404", "413", "429", "503", "504"} <= answers.keys() and "422" not in answers
        assert answers["200"]["content"].keys() == {"application/json", "text/event-stream"}
    for path in PATHS:
        (kind,) = paths[path]["post"]["requestBody"]["content"].values()
        assert schemas[kind["schema"]["$ref"].removeprefix("#/components/schemas/")]["properties"]
    assert paths["/metrics"]["get"]["responses"]["200"]["content"].keys() == {"text/plain"}
    answer = client.post("/v1/completions", json={"prompt": "a", "max_tokens": 1}).json()
    assert set(paths["/v1/completions"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]["required"]) == answer.keys()


def ask_at_random(client, operation):
    method, path = operation.method.upper(), operation.path.replace("{model_name}", "tiny")

    @settings(max_examples=8, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @hypothesis.given(case=operation.as_strategy())
    def ask(case):
        body = case.body if isinstance(case.body, (dict, list)) else {}
        if isinstance(body, dict):  # texts of two tokens say as much about the server
            body = {key: min(value, 2) if isinstance(value, int) and key.startswith("max_") else value for key, value in body.items()}
            if {"prompt", "messages"} & body.keys() and "count" not in path:
                body.setdefault("max_tokens", 2)
        answer = client.request(method, path, content=json.dumps(body), headers=JSON)
        assert answer.status_code < 500, (path, body, answer.text)

    ask()


def test_nothing_of_the_description_makes_it_fail(client):
    """Requests at random, right and wrong ones, from its own OpenAPI description: never a 5xx."""
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed: requirements/dev.txt")
    schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    for operation in schema.get_all_operations():
        ask_at_random(client, operation.ok())
