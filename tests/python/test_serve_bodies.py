"""What a body can cost: bodies that are wrong or too large are refused at once, and nobody else waits for it."""

from __future__ import annotations

import json
import random
import resource

import pytest

for needed in ("fastapi", "uvicorn", "llguidance", "prometheus_client"):
    pytest.importorskip(needed, reason=f"{needed} is not installed: requirements/serve.txt")
pytest.importorskip("httpx", reason="httpx is not installed: requirements/dev.txt")
from serving_app import JSON, app_of, others_wait_at_most, refused  # noqa: E402, F401 (a fixture)

CHAT, TEXT, CLAUDE = "/v1/chat/completions", "/v1/completions", "/v1/messages"
WAIT_S = 1.0
"""The loop stands still for a tenth of a second at most; tests share the machine with others."""
MOST_MIB = 200
"""Of the largest body here, 15 MiB, and its values."""


@pytest.fixture(scope="module")
def client(app_of):  # noqa: F811
    from starlette.testclient import TestClient

    with TestClient(app_of(), base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


def listed(part: bytes, n: int) -> bytes:
    return b"[" + b",".join([part] * n) + b"]"


def tool_call(arguments: str) -> dict:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [call]}]}


USER = {"role": "user", "content": "a"}
MANY = 100_000
LARGE = "ab " * 5_000_000
BODIES = {
    "prompts that are objects": (TEXT, lambda: b'{"prompt":' + listed(b"{}", MANY) + b"}", "prompt"),
    "the same, too many to look at": (TEXT, lambda: b'{"prompt":' + listed(b"{}", 1_000_000) + b"}", "too many values"),
    "tokens that are objects": ("/detokenize", lambda: b'{"tokens":' + listed(b"{}", MANY) + b"}", "tokens.0"),
    "tokens that are lists of objects": (TEXT, lambda: b'{"prompt":[' + listed(b"{}", MANY) + b"]}", "prompt"),
    "messages that are empty": (CHAT, lambda: b'{"messages":' + listed(b"{}", MANY) + b"}", "messages.0"),
    "Anthropic's": (CLAUDE, lambda: b'{"model":"tiny","max_tokens":1,"messages":' + listed(b"{}", MANY) + b"}", "messages.0"),
    "parts": (CHAT, lambda: b'{"messages":[{"role":"user","content":' + listed(b"{}", MANY) + b"}]}", "content"),
    "blocks": (CLAUDE, lambda: b'{"model":"tiny","max_tokens":1,"messages":[{"role":"user","content":' + listed(b'{"type":"a"}', MANY // 2) + b"}]}", "content"),
    "calls": (CHAT, lambda: b'{"messages":[{"role":"assistant","tool_calls":' + listed(b"{}", MANY) + b"}]}", "tool_calls.0"),
    "stops": (TEXT, lambda: b'{"prompt":"a","stop":' + listed(b"{}", MANY) + b"}", "stop"),
    "unknown fields": (TEXT, lambda: json.dumps({"prompt": "a"} | {str(i): i for i in range(MANY)}).encode(), "no such field"),
    "unknown fields of a message": (CHAT, lambda: json.dumps({"messages": [USER | {str(i): i for i in range(MANY)}]}).encode(), "messages.0.0: there is no such field"),
    "7 M token numbers": (TEXT, lambda: b'{"prompt":' + listed(b"5", 7_000_000) + b"}", "too many values"),
    "token numbers that do not fit": (TEXT, lambda: b'{"prompt":' + listed(b"5", 250_000) + b"}", "250000 tokens; the context of 1000 (-c)"),
    "65 prompts": (TEXT, lambda: json.dumps({"prompt": ["a " * 1000] * 65}).encode(), "65 prompts"),
    "200,000 messages": (CHAT, lambda: json.dumps({"messages": [USER] * 200_000}).encode(), "too many values"),
    "50,000 messages": (CHAT, lambda: json.dumps({"messages": [USER] * 50_000}).encode(), "messages"),
    "more messages than tokens": (CHAT, lambda: json.dumps({"messages": [{"role": "user", "content": ""}] * 1000}).encode(), "1000 messages; the context of 1000"),
    "Anthropic's messages": (CLAUDE, lambda: json.dumps({"model": "tiny", "max_tokens": 1, "messages": [USER] * 1001}).encode(), "1001 messages"),
    "arguments": (CHAT, lambda: json.dumps(tool_call(json.dumps({"a": LARGE}))).encode(), "characters are too many"),
    "a tool's description": (CHAT, lambda: json.dumps({"messages": [USER], "tools": [{"type": "function", "function": {"name": "f", "description": LARGE}}]}).encode(), "characters are too many"),
    "a tool's schema": (CHAT, lambda: json.dumps({"messages": [USER], "tools": [{"type": "function", "function": {"name": "f", "parameters": {"title": LARGE}}}]}).encode(), "characters are too many"),
    "Anthropic's tool": (CLAUDE, lambda: json.dumps({"model": "tiny", "max_tokens": 1, "messages": [USER], "tools": [{"name": "f", "input_schema": {"title": LARGE}}]}).encode(), "characters are too many"),
    "metadata": (TEXT, lambda: json.dumps({"prompt": "a", "metadata": {str(i): i for i in range(900_000)}}).encode(), "too many values"),
    "a stop": (TEXT, lambda: json.dumps({"prompt": "a", "stop": LARGE}).encode(), "stop"),
    "a number": (TEXT, lambda: b'{"prompt":"a","n":' + b"9" * 10_000_000 + b"}", "not valid JSON"),
    "no JSON": (TEXT, lambda: b'{"prompt":"a"}' + b" " * 10_000_000 + b"{", "not valid JSON"),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_nobody_waits_for_a_body_that_is_refused(client, name):
    path, make, part = BODIES[name]
    body = make()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with others_wait_at_most(client, WAIT_S):
        problem = refused(client.post(path, content=body, headers=JSON))
    assert part in problem["message"], problem
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < MOST_MIB


@pytest.mark.uninstrumented
def test_bodies_that_are_large_and_right_are_taken(client):
    """In a thread, as they are above 64 KiB."""
    metadata = {"prompt": "Once", "max_tokens": 2, "metadata": {str(i): [i] for i in range(50_000)}}
    assert client.post(TEXT, json=metadata).json()["usage"]["completion_tokens"] == 2
    prompts = {"prompt": [[5] * 990] * 64, "max_tokens": 1}
    assert client.post(TEXT, json=prompts).json()["usage"]["prompt_tokens"] == 64 * 990
    assert client.post("/detokenize", json={"tokens": [5] * 200_000}).json()["content"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_what_a_page_may_send_unasked_is_no_request(client, kind):
    assert "Content-Type" in refused(client.post(TEXT, content=b'{"prompt":"a"}', headers={"content-type": kind}))["message"]


def reference(text: str) -> int:
    """Marks outside strings, a character at a time."""
    n, in_string, escaped = 0, False, False
    for c in text:
        if in_string:
            in_string = escaped or c != '"'
            escaped = not escaped and c == "\\"
        else:
            in_string = c == '"'
            n += c in ",:[{"
    return n


def test_marks_are_counted_outside_strings_alone(livekv, monkeypatch):
    from livekv.serve import bodies

    monkeypatch.setattr(bodies, "_SLICE", 7)
    draw = random.Random(1)

    def value(depth):
        kind = draw.randrange(5 if depth else 3)
        if kind < 2:
            return "".join(draw.choices('a,:[{"\\\u017c\U0001f600\n', k=draw.randrange(8)))
        if kind == 2:
            return draw.choice([None, True, 5, -1.5])
        parts = [value(depth - 1) for _ in range(draw.randrange(5))]
        return parts if kind == 3 else {str(value(0)): part for part in parts}

    for i in range(500):
        text = json.dumps(value(4), ensure_ascii=i % 2 == 0)
        assert bodies.n_marks(text.encode()) == reference(text), text
