"""What tests of livekv.serve's scheduler share: requests that write down what they are told, and fixtures."""

from __future__ import annotations

import pytest

CHUNK = 64


@pytest.fixture(scope="module")
def tiny(livekv, root):
    return livekv.Model(root / "tests" / "models" / "tiny.gguf", n_threads=2)


@pytest.fixture(scope="module")
def ids(tiny, opening):
    return tiny.tokenize(opening.read_text())[:1000]


@pytest.fixture(scope="module")
def serve(livekv):
    import livekv.serve.limits
    import livekv.serve.request
    import livekv.serve.scheduler

    return livekv.serve


@pytest.fixture(scope="module")
def kv(livekv):
    return livekv.KVOptions(chunk_size=CHUNK)


@pytest.fixture
def scheduler(serve, tiny, kv):
    def make(model=tiny, n_ctx=1000, **limits):
        return serve.scheduler.Scheduler(model, serve.limits.Limits(**{"step_tokens": CHUNK, **limits}), n_ctx, kv)

    return make


class Asked:
    """A request, what it was told, and when: steps of the scheduler."""

    def __init__(self, serve, prompt, **given):
        self.events, self.texts, self.reasons, self.clock = [], {}, {}, lambda: 0
        self.when = []
        given.setdefault("sampling", {"temperature": 0})
        self.request = serve.request.Request(prompt, on_event=self.take, **given)
        self.failure_type = serve.request.Failure

    def take(self, event):
        self.events.append(event)
        self.when.append(self.clock())
        if not isinstance(event, self.failure_type):
            assert event.choice not in self.reasons, "a piece behind the last one"
            self.texts[event.choice] = self.texts.get(event.choice, "") + event.text
            if event.reason:
                self.reasons[event.choice] = event.reason

    @property
    def text(self):
        return self.texts[0]

    @property
    def failure(self):
        return next((e for e in self.events if isinstance(e, self.failure_type)), None)

    @property
    def chances(self):
        return [chance for event in self.events for chance in event.chances]


def run(scheduler, asked, at_most=10_000):
    for one in asked:
        one.clock = lambda: scheduler.counters.steps
        scheduler.submit(one.request)
    for _ in range(at_most):
        if not scheduler.step():
            return
    raise AssertionError("it does not come to an end")


def alone(tiny, kv, prompt, n, **given):
    with tiny.session(1000, kv=kv) as session:
        text = session.generate(prompt, n, **{"temperature": 0, **given})
        return "".join(text), text.usage.finish_reason
