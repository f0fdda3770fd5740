"""Which replica a prompt goes to, and the front that gives it there; neither needs Ray."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random

import pytest

pytest.importorskip("starlette", reason="starlette is not installed: requirements/serve.txt")
httpx = pytest.importorskip("httpx", reason="httpx is not installed: requirements/dev.txt")


@pytest.fixture(scope="module")
def placement(livekv):
    import livekv.ray_serve.placement

    return livekv.ray_serve.placement


@pytest.fixture
def three(placement):
    def make(**given):
        one = placement.Placement(**given)
        one.set_replicas("abc")
        return one

    return make


def words(seed, n=4000):
    draw = random.Random(seed)
    return "".join(draw.choice("abcdefgh ") for _ in range(n))


def blocks(placement, text):
    return placement.blocks_of(placement.text_of({"prompt": text}))


def ask(one, placement, text, request=None):
    """Where it went; it has ended then, unless it has a name."""
    where = one.choose(request or "x", blocks(placement, text))[0]
    if request is None:
        one.ended("x")
    return where


def test_prompts_go_where_their_beginning_was_read_and_others_spread(placement, three):
    one = three()
    texts = [words(i) for i in range(6)]
    first = [ask(one, placement, text) for text in texts]
    assert sorted(first) == sorted("abcabc"), "six texts of a length are two for each"
    for i in random.Random(1).sample(range(6), 6):
        assert ask(one, placement, texts[i] + words(10 + i, 900)) == first[i]
        assert ask(one, placement, texts[i][:2500] + words(20 + i, 300)) == first[i]


def test_the_longest_known_beginning_wins(placement, three):
    one = three(request_cost=0)
    document = words(1, 8000)
    one.moved("r", "a", blocks(placement, document[:2000]))
    one.moved("s", "b", blocks(placement, document[:6000]))
    one.moved("t", "c", blocks(placement, words(2, 8000)))
    assert one.choose("x", blocks(placement, document)) == ["b", "a", "c"]


def test_load_weighs_against_what_is_known(placement, three):
    block = placement.BLOCK
    document = words(3, 40 * block)
    for worth, cost, n_more in [(1.0, 10 * block, 4), (1.0, 20 * block, 2), (0.1, 2 * block, 2)]:
        one = three(worth=worth, request_cost=cost)
        one.moved("first", "c", blocks(placement, document))
        one.ended("first")
        for i in range(n_more):
            assert ask(one, placement, document, f"r{i}") == "c", (worth, cost, i)
        # 40 blocks less so many requests is what a replica has that knows and does nothing.
        assert ask(one, placement, document, "r") != "c"


def test_requests_of_others_count(placement, three):
    one = three()
    assert one.choose("x", [], {"a": 3, "b": 2, "c": 5, "elsewhere": 0}) == ["b", "a", "c"]
    one.ended("x")
    assert one.choose("x", [], {"a": 0, "b": 2})[0] in "ac"


def test_a_request_is_counted_once_wherever_it_goes(placement, three):
    one = three(request_cost=1)
    for _ in range(5):  # asked again, as all were full
        first, second, _ = one.choose("x", [])
    one.moved("x", second, [])
    assert one.choose("y", [])[-1] == second
    one.ended("x")
    one.ended("x")
    one.ended("never seen")
    one.ended("y")
    assert one._at == {}


def test_replicas_come_and_go(placement, three):
    one = three()
    text = words(4)
    where = ask(one, placement, text, "under way")
    one.set_replicas(set("abcd") - {where})
    assert where not in one.choose("x", blocks(placement, text))
    one.moved("y", where, blocks(placement, text))  # too late
    one.set_replicas("abcd")
    assert one._replicas[where].n_known(blocks(placement, text)) == 0, "it is a new one"
    one.set_replicas([])
    assert one.choose("x", []) == [] and one._at == {}


def test_what_was_not_used_for_the_longest_time_goes_first(placement, three, monkeypatch):
    monkeypatch.setattr(placement, "MOST_BLOCKS", 32)
    one = three()
    one.set_replicas("a")
    known = one._replicas["a"].n_known
    old, new = (blocks(placement, words(i, 20 * placement.BLOCK)) for i in (5, 6))
    ask(one, placement, words(5, 20 * placement.BLOCK))
    ask(one, placement, words(6, 20 * placement.BLOCK))
    assert known(new) == 20 and known(old) == 12, "its end goes first"
    assert len(one._replicas["a"].blocks) == 32


@pytest.mark.parametrize("api", ["openai", "anthropic", "tools"])
def test_the_next_turn_begins_as_the_one_before(placement, api):
    system = {"anthropic": {"system": words(1, 900)}, "tools": {"tools": [{"type": "function", "function": {"name": "f"}}]}}
    said = [] if api == "anthropic" else [{"role": "system", "content": words(1, 900)}]
    body = {"model": "m", **system.get(api, {}), "messages": [*said, {"role": "user", "content": words(2, 2000)}]}
    first = placement.blocks_of(placement.text_of(body))
    body["messages"] += [{"role": "assistant", "content": words(3, 500)}, {"role": "user", "content": "And } ]?"}]
    body |= {"temperature": 0.3, "stream": True}
    second = placement.blocks_of(placement.text_of(body))
    assert len(first) >= 2900 // placement.BLOCK and second[: len(first)] == first and len(second) > len(first)
    body["messages"][0] = body["messages"][0] | {"content": "Z" * 300}
    assert placement.blocks_of(placement.text_of(body))[4:] != second[4:], "a name stands for all before it"


def test_tokens_are_text_too(placement):
    tokens = list(range(1000))
    first, second = (placement.blocks_of(placement.text_of({"prompt": t})) for t in (tokens[:500], tokens))
    assert len(first) > 5 and second[: len(first)] == first


@pytest.mark.parametrize("body", [None, 7, [], {}, {"prompt": None}, {"prompt": ""}, {"messages": "x"}, {"messages": [None, 3]}, {"prompt": "\ud800"}])
def test_what_has_no_prompt_goes_anywhere(placement, three, body):
    assert placement.blocks_of(placement.text_of(body)) == []
    assert sorted(three().choose("x", placement.blocks_of(placement.text_of(body)))) == ["a", "b", "c"]


# --- the front ---


class Counting:
    """An app as replicas have: it says what it was asked, or streams; and a way to it."""

    def __init__(self):
        self.asked, self.n_gone, self.fails = [], 0, 0
        self.streams_for_ever = False

    async def __call__(self, scope, receive, send):
        body = (await receive())["body"]
        await send({"type": "http.response.start", "status": 201, "headers": [(b"content-type", b"text/plain"), (b"x-a", b"1")]})
        try:
            n = 0
            while self.streams_for_ever or n < 3:
                await send({"type": "http.response.body", "body": b"%d " % n, "more_body": True})
                n += 1
                await asyncio.sleep(0)
            await send({"type": "http.response.body", "body": body})
        except asyncio.CancelledError:
            self.n_gone += 1
            raise

    async def ask(self, asked):
        from livekv.ray_serve.asked import answer
        from livekv.ray_serve.front import ReplicaGone

        self.asked.append(asked)
        if self.fails > 0:
            self.fails -= 1
            raise ReplicaGone
        async with contextlib.aclosing(answer(self, asked)) as messages:
            async for message in messages:
                yield message


@pytest.fixture
def front(livekv):
    """(an app, a coroutine that sends it a request)"""
    for needed in ("fastapi", "llguidance"):
        pytest.importorskip(needed, reason=f"{needed} is not installed: requirements/serve.txt")
    from livekv.ray_serve.front import make_front

    def make(api_key=None, max_body=1000):
        app = Counting()

        async def send(path, headers=None, **given):
            transport = httpx.ASGITransport(make_front(app.ask, api_key, max_body))
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.post(path, headers=headers, **given)

        return app, lambda *args, **given: asyncio.run(send(*args, **given))

    return make


def test_a_request_goes_whole_and_the_answer_comes_back(front, placement):
    app, send = front(max_body=10_000)
    text = words(7, 3000)
    done = send("/v1/completions?a=b", headers={"x-b": "2"}, json={"prompt": text})
    assert done.status_code == 201 and done.headers["x-a"] == "1"
    assert done.text.startswith("0 1 2 {") and json.loads(done.text[6:]) == {"prompt": text}
    (asked,) = app.asked
    assert (asked.method, asked.path, asked.query) == ("POST", "/v1/completions", b"a=b") and (b"x-b", b"2") in asked.headers
    assert asked.blocks == blocks(placement, text)


def test_a_replica_that_ends_before_its_answer_begins_costs_none(front):
    app, send = front()
    app.fails = 2
    assert send("/x", content=b"not json").status_code == 201 and len(app.asked) == 3
    app.fails = 3
    done = send("/v1/messages", json={})
    assert done.status_code == 503 and done.json()["error"]["type"] == "overloaded_error"


def test_the_front_asks_for_the_key_and_bounds_bodies(front):
    app, send = front(api_key="secret")
    assert send("/v1/completions", json={}).json()["error"]["code"] == "invalid_api_key"
    key = {"authorization": "Bearer secret"}
    assert send("/v1/completions", headers=key, content=b"x" * 1001).status_code == 413

    async def chunks():
        for _ in range(11):
            yield b"x" * 100

    assert send("/v1/completions", headers=key, content=chunks()).status_code == 413
    assert app.asked == []
    assert send("/v1/completions", headers=key, json={}).status_code == 201
    assert front()[1]("/v1/completions", headers={"host": "elsewhere.example"}).status_code == 403


def test_paths_of_one_server_are_not_there(front):
    app, send = front()
    assert send("/metrics").status_code == 404 and send("/").status_code == 404 and app.asked == []


def test_a_client_that_goes_ends_the_answer(front, livekv):
    from livekv.ray_serve.asked import Asked, answer

    app = Counting()
    app.streams_for_ever = True

    async def some():
        seen = 0
        async with contextlib.aclosing(answer(app, Asked("POST", "/x", b"", [], b""))) as messages:
            async for _ in messages:
                seen += 1
                if seen == 200:
                    break
        assert app.n_gone == 1, "before the iteration is over"

    asyncio.run(asyncio.wait_for(some(), 30))


def test_an_app_that_fails_is_said_so(livekv):
    from livekv.ray_serve.asked import Asked, answer

    async def broken(scope, receive, send):
        raise ValueError("broken")

    async def all_of_it():
        return [message async for message in answer(broken, Asked("GET", "/x", b"", [], b""))]

    with pytest.raises(ValueError, match="broken"):
        asyncio.run(asyncio.wait_for(all_of_it(), 30))


# --- what it is built from ---


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"replicas": "0"}, "replicas is '0'"),
        ({"replicas": "two"}, "replicas is 'two'"),
        ({"replicas": 1.5}, "replicas is '1.5'"),
        ({"request_cost": -1}, "request_cost is '-1'"),
        ({"replica": 2}, "'replica' is unknown"),
        ({"options": 7}, "options must be"),
        ({"options": ["-m", 7]}, "options must be"),
        ({"options": ""}, "options: the following arguments are required: -m/--model"),
        ({"options": "-m x.gguf --port 80"}, "options: unrecognized arguments: --port 80"),
        ({"options": "-m x.gguf --memory much"}, "options: argument --memory"),
    ],
)
def test_what_cannot_be_built_is_one_line(livekv, given, part):
    from livekv.ray_serve import application

    with pytest.raises(livekv.Error) as caught:
        application({"options": "-m x.gguf", **given})
    assert part in str(caught.value) and "\n" not in str(caught.value)
