"""Programs that end while a daemon thread is inside the engine: with the status they ask for, and without a word."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys, threading, time
import livekv
path, folder, what, delay = sys.argv[1:]
model = livekv.Model(path, n_threads=1)
kv = livekv.KVOptions(chunk_size=64)
ids = model.tokenize("the king was a man and " * 300)[:2000]
text = "the king was a man and " * 20000
held = model.session(2048, kv)
held.prefill(ids[:500])
held.save(folder + "/held.kv")
engine = livekv.Engine(model)

def waits(*_):
    time.sleep(0.001)  # without the lock: where Python ends the threads of a program that ends

class Remote:
    def get(self, name): waits()
    def has(self, name): waits()
    def put(self, name, data): waits()

def serve():
    from livekv.serve.limits import Limits
    from livekv.serve.request import Request
    from livekv.serve.scheduler import Scheduler
    from livekv.serve.worker import Worker
    worker = Worker(Scheduler(model, Limits(), 2048, kv))
    worker.start()
    worker.submit(Request(ids[:1000], on_event=waits, max_tokens=1000, sampling={"temperature": 0}))
    time.sleep(10)

def begin(n):
    session = model.session(2048, kv)
    session.prefill(ids[:n])
    return session

calls = {
    "generate": lambda: "".join(model.session(2048, kv).generate("a", max_tokens=2000, ignore_eos=True)),
    "generate_batch": lambda: list(engine.generate_batch(
        [model.session(2048, kv).generate("a", max_tokens=1000, ignore_eos=True) for _ in range(2)])),
    "prefill": lambda: model.session(2048, kv).prefill(ids),
    "eval": lambda: model.session(2048, kv).eval(ids, all_logits=True),
    "step": lambda: engine.step([(model.session(2048, kv), ids), (model.session(2048, kv), ids)]),
    "tokenize": lambda: model.tokenize(text),
    "load a model": lambda: livekv.Model(path, n_threads=1),
    "save": lambda: held.save(folder + "/saved.kv"),
    "load": lambda: model.session(2048, kv).load(folder + "/held.kv"),
    "trim": lambda: begin(500).trim(490),
    "verify": lambda: begin(64).verify(ids[64:68], lambda logits: waits() or ids[65]),
    "fidelity": lambda: livekv.fidelity(model, ids, n_ctx=64, kv=kv, progress=waits),
    "store": lambda: livekv.Model(path, n_threads=1, store=livekv.ChunkStore(folder, remote=Remote())).session(
        2048, kv).generate(ids[:200], max_tokens=1).__next__(),
    "serve": serve,
}

begun = threading.Event()

def run():
    while True:
        begun.set()
        calls[what]()

threading.Thread(target=run, daemon=True).start()
begun.wait()
time.sleep(float(delay))
sys.exit(7)
"""

WHAT = ["generate", "generate_batch", "prefill", "eval", "step", "tokenize", "load a model", "save", "load", "trim",
        "verify", "fidelity", "store", "serve"]  # fmt: skip


@pytest.mark.parametrize("what", WHAT)
def test_the_status_is_the_programs_whatever_a_daemon_thread_does(livekv, story, tmp_path, what):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    for delay in (0.05, 0.2, 0.31):
        command = [sys.executable, "-c", PROGRAM, story, tmp_path, what, str(delay)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
        assert (done.returncode, done.stderr) == (7, ""), delay
