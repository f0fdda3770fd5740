"""The page at /: what it is told, and what a real browser makes of it."""

from __future__ import annotations

import json
import shutil

import pytest
from conftest import ROOT
from serving import served

for needed in ("fastapi", "uvicorn", "llguidance", "prometheus_client"):
    pytest.importorskip(needed, reason=f"{needed} is not installed: requirements/serve.txt")
pytest.importorskip("httpx", reason="httpx is not installed: requirements/dev.txt")

TINY = ROOT / "tests" / "models" / "tiny.gguf"
HOSTILE = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"


def node(depth, in_use=False, n=32):
    return {"depth": depth, "n_tokens": n, "bytes": 10, "in_use": in_use}


@pytest.mark.parametrize(
    ("nodes", "pieces"),
    [
        ([], []),
        ([node(0, n=64), node(1), node(2)], [(0, 0, 128, 30, False)]),
        ([node(0, True), node(1, True), node(2), node(3)], [(0, 0, 64, 20, True), (1, 64, 64, 20, False)]),
        ([node(0), node(1), node(2), node(2), node(3), node(1), node(0)],
         [(0, 0, 32, 10, False), (1, 32, 32, 10, False), (2, 64, 32, 10, False), (2, 64, 64, 20, False), (1, 32, 32, 10, False),
          (0, 0, 32, 10, False)]),
    ],
)  # fmt: skip
def test_a_tree_without_branches_is_one_piece(nodes, pieces):
    from livekv.serve.status import branches

    told = branches(nodes)
    assert [tuple(one.values()) for one in told["pieces"]] == pieces and told["more"] == 0


def test_long_lists_are_cut_and_say_so():
    from livekv.serve.status import MOST_ROWS, branches

    told = branches([node(0)] * (MOST_ROWS + 7))
    assert len(told["pieces"]) == MOST_ROWS and told["more"] == 7


@pytest.fixture
def app_of(livekv):
    from livekv.serve.app import make_app
    from livekv.serve.limits import Limits
    from livekv.serve.scheduler import Scheduler
    from livekv.serve.worker import Worker

    def make(**options):
        model = livekv.Model(TINY, n_threads=1, prefix_cache_bytes=1 << 26)
        return make_app(Worker(Scheduler(model, Limits(), 1000, livekv.KVOptions(chunk_size=64))), "tiny", **options)

    return make


def test_the_page_needs_no_key_and_what_it_shows_does(app_of):
    from starlette.testclient import TestClient

    with TestClient(app_of(api_key="secret"), base_url="http://localhost") as client:
        for path in ("/", "/page.js", "/page.css"):
            answer = client.get(path)
            assert answer.status_code == 200 and len(answer.content) > 500
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert client.get(path, headers={"host": "elsewhere.example"}).status_code == 403
        assert client.get("/status").status_code == 401
        assert client.get("/status", headers={"x-api-key": "secret"}).json()["model"] == "tiny"
        assert "livekv_prefix_bytes 0.0" in client.get("/metrics", headers={"x-api-key": "secret"}).text
        assert client.get("/page/../scheduler.py").status_code in (401, 404)


def test_the_state_is_that_of_the_requests_under_way(livekv):
    from livekv.serve.limits import Limits
    from livekv.serve.request import Request
    from livekv.serve.scheduler import Scheduler
    from livekv.serve.status import status_of

    model = livekv.Model(TINY, n_threads=1, prefix_cache_bytes=1 << 26)
    scheduler = Scheduler(model, Limits(), 1000, livekv.KVOptions(chunk_size=64))
    before = status_of(scheduler)
    assert before["sessions"] == [] and before["prefix_tree"] == {"pieces": [], "more": 0} and before["store"] is None
    prompt = [5 + i % 50 for i in range(200)]
    scheduler.submit(Request(prompt, 2, ignore_eos=True))
    scheduler.step()
    (reading,) = status_of(scheduler)["sessions"]
    assert reading["state"] == "reading" and reading["tokens"] == 64 and reading["reused"] == []
    while scheduler.step():
        pass
    scheduler.submit(Request(prompt + [9] * 40, 600, n=2, ignore_eos=True))
    waiting = status_of(scheduler)
    assert waiting["waiting"] == 1
    while not any(one["state"] == "writing" for one in status_of(scheduler)["sessions"]):
        scheduler.step()
    status = status_of(scheduler)
    live = [one for one in status["sessions"] if one["state"] != "kept"]
    assert [(one["state"], one["request"], one["choice"]) for one in live] == [("writing", 2, 0), ("writing", 2, 1)]
    for one in live:
        assert one["prompt_tokens"] == 240 <= one["tokens"] and one["tokens_per_s"] > 0 and 2 < one["bits_per_value"] < 17
        assert one["bytes"].pop("total") == one["kv_bytes"] == sum(one["bytes"].values())
        assert sum(part["tokens"] for part in one["reused"]) >= 192
    memory = status["memory"]
    assert memory["requests"] == sum(one["kv_bytes"] for one in live) <= memory["limit"]
    assert memory["prefix_cache_limit"] == 1 << 26 > memory["prefix_cache"] >= 0
    tree = status["prefix_tree"]["pieces"]
    assert tree[0]["n_tokens"] == 192 and tree[0]["in_use"]
    assert status["counters"]["requests"] == 2 and status["waiting"] == 0
    kept = status["sessions"][len(live) :]
    assert len(kept) == status["n_kept"] and memory["kept"] == sum(one["kv_bytes"] for one in kept)
    assert json.loads(json.dumps(status)) == status


def test_who_looks_while_the_server_ends_is_told(app_of):
    import asyncio

    from livekv.serve.request import Refused
    from livekv.serve.scheduler import Scheduler  # noqa: F401 (the fixture's imports)
    from livekv.serve.worker import Worker

    class Idle:
        def step(self):
            return False

        def fail_all(self, failure):
            pass

        class model:
            store = None

    async def asked():
        worker = Worker(Idle())
        worker.start()
        assert await worker.between_steps(lambda: 7) == 7
        with pytest.raises(ZeroDivisionError):
            await worker.between_steps(lambda: 1 // 0)
        await asyncio.to_thread(worker.close)
        with pytest.raises(Refused, match="the server ends"):
            await worker.between_steps(lambda: 7)

    asyncio.run(asyncio.wait_for(asked(), 30))


# --- in a browser ---


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    with sync_api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def address(build_dir):
    with served(build_dir, "-m", TINY, "-t", 1, "-c", 2000, "--kv", "livekv:chunk-size=64", "--api-key", "secret") as url:
        yield url


@pytest.fixture
def page(browser, address):
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(20_000)
    page.complaints = []
    page.on("console", lambda message: page.complaints.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda problem: page.complaints.append(str(problem)))
    page.goto(address)
    yield page
    context.close()


def expect_in(page, selector, text):
    """Waits for it."""
    from playwright.sync_api import expect

    expect(page.locator(selector).last).to_contain_text(text, timeout=20_000)


def enter_key(page):
    page.fill("#key", "secret")
    page.click("#key-form button")
    expect_in(page, "#model", "tiny: ")
    page.complaints.clear()  # of what was refused without the key


def answer_of(page):
    page.wait_for_selector("#send:not([disabled])")
    return page.locator(".turn.assistant").last.text_content()


def test_a_conversation_in_a_browser(page):
    page.wait_for_selector("#key-form:not([hidden])")
    assert "no valid API key" in page.text_content("#trouble")
    enter_key(page)
    assert page.is_hidden("#trouble") and page.is_hidden("#key-form")
    page.fill("#temperature", "0")
    page.fill("#max-tokens", "30")
    page.fill("#question", "Once upon a time")
    page.press("#question", "Enter")
    assert page.locator(".turn.user").text_content() == "Once upon a time"
    first = answer_of(page)
    assert len(first) > 5
    assert " written" in page.locator(".facts").last.text_content()
    page.fill("#question", "And then?")
    page.click("#send")
    page.wait_for_selector(".turn.assistant >> nth=1")
    assert len(answer_of(page)) > 5
    expect_in(page, "#sessions", "kept")
    assert page.locator("#memory span").count() == 3 and "1.0 GiB of it for the prefix cache" in page.text_content("#memory-text")
    page.click("#clear")
    assert page.locator(".turn").count() == 0
    assert page.complaints == []


STATUS = {
    "model": "tiny", "description": "as a busy server has it", "kv": "livekv", "n_ctx": 2000, "waiting": 3, "n_kept": 1, "store": None,
    "memory": {"limit": 3000, "requests": 1000, "kept": 500, "prefix_cache": 100, "prefix_cache_limit": 1000},
    "sessions": [
        {"state": "writing", "request": 4, "choice": 1, "prompt_tokens": 240, "tokens": 1500, "tokens_per_s": 12.34, "bits_per_value": 4.567,
         "kv_bytes": 90, "bytes": dict.fromkeys(["codes", "scales", "outliers", "sinks", "warm_up", "bypass", "tail", "statistics", "padding"], 10),
         "reused": [{"from": "prefix tree", "tokens": 192}]},
        {"state": "kept", "tokens": 20, "bits_per_value": 5.0, "kv_bytes": 500},
    ],
    "prefix_tree": {"pieces": [{"depth": 0, "first_token": 0, "n_tokens": 192, "bytes": 60, "in_use": True},
                               {"depth": 1, "first_token": 192, "n_tokens": 64, "bytes": 20, "in_use": False},
                               {"depth": 0, "first_token": 0, "n_tokens": 128, "bytes": 20, "in_use": False}], "more": 2},
    "counters": {"requests": 7},
}  # fmt: skip


def test_a_busy_server_is_seen(page):
    """Its state is made up: how long a real one is busy is a matter of the machine."""
    enter_key(page)
    page.route("**/status", lambda route: route.fulfill(json=STATUS))
    expect_in(page, "#queue", "1 under way, 3 waiting")
    cells = page.locator("#sessions tr").first.locator("td").all_text_contents()
    assert cells == ["writing 4.1", "1,500", "12.3", "4.57", "90 B", "192: prefix tree"]
    assert page.locator("#sessions tr").first.locator(".bar span").count() == 9
    assert [part["style"] for part in page.locator("#memory span").evaluate_all(
        "parts => parts.map(one => ({ style: one.style.width }))")] == ["25%", "12.5%", "2.5%"]  # fmt: skip
    assert page.locator("#tree > ul > li").count() == 2 and page.locator("#tree > ul > li > ul > li").count() == 1
    assert "tokens 192 to 255, 20 B" in page.text_content("#tree") and "and 2 more" in page.text_content("#tree")
    assert page.complaints == []


def test_an_answer_is_stopped(page):
    enter_key(page)
    held = []
    page.route("**/v1/chat/completions", lambda route: held.append(route))  # which is never answered
    page.fill("#question", "Once")
    page.click("#send")
    page.wait_for_selector("#stop:not([disabled])")
    page.click("#stop")
    expect_in(page, ".facts", "stopped")
    assert len(held) == 1 and page.is_enabled("#send") and page.complaints == []


def test_texts_and_errors_are_no_html(page):
    enter_key(page)

    def answer(route):
        text = json.dumps({"choices": [{"delta": {"content": HOSTILE}}]})
        route.fulfill(content_type="text/event-stream", body=f"data: {text}\n\ndata: [DONE]\n\n")

    page.route("**/v1/chat/completions", answer)
    page.fill("#question", HOSTILE)
    page.click("#send")
    assert answer_of(page) == HOSTILE == page.locator(".turn.user").text_content()
    page.unroute("**/v1/chat/completions")
    page.route("**/v1/chat/completions", lambda route: route.fulfill(status=400, json={"error": {"message": HOSTILE}}))
    page.fill("#question", "again")
    page.click("#send")
    page.wait_for_selector(".facts.failed")
    assert page.locator(".facts.failed").text_content() == HOSTILE
    assert page.locator("main img, main script").count() == 0 and page.title() == "livekv"


def test_the_policy_holds_in_a_browser(page, address):
    """Even where a text became HTML, nothing of it would run or be fetched."""
    page.evaluate("text => { document.body.innerHTML = text + '<link rel=stylesheet href=http://127.0.0.1:1/a.css>'; }", HOSTILE)
    page.evaluate("() => { const one = document.createElement('script'); one.textContent = \"document.title='taken'\"; document.body.append(one); }")
    page.wait_for_timeout(200)
    assert page.title() == "livekv"
    assert sum("Content Security Policy" in text for text in page.complaints) >= 3, page.complaints
