"""The server's app in the process of the tests, and how long its loop stands still meanwhile."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def app_of(livekv, root):
    from livekv.serve.app import make_app
    from livekv.serve.limits import Limits
    from livekv.serve.scheduler import Scheduler
    from livekv.serve.worker import Worker

    model = livekv.Model(root / "tests" / "models" / "tiny.gguf", n_threads=2)

    def make(**options):
        return make_app(Worker(Scheduler(model, Limits(), 1000)), "tiny", **options)

    return make


def refused(answer, status=400):
    """The error, which is one short line."""
    assert answer.status_code == status, answer.text
    problem = answer.json()["error"]
    assert problem["message"] and "\n" not in problem["message"] and len(problem["message"]) < 1000, problem
    return problem


@contextlib.contextmanager
def others_wait_at_most(client, seconds):
    """For an answer, while the block asks for something else. client: of starlette's, around an app."""
    longest, done = [0.0], threading.Event()

    def ask():
        while not done.is_set():
            start = time.monotonic()
            client.get("/health")
            longest[0] = max(longest[0], time.monotonic() - start)
            time.sleep(0.01)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield
    finally:
        done.set()
        asking.join()
    assert longest[0] < seconds, longest
