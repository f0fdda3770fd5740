#!/usr/bin/env python3
"""Sessions of one model in several threads, doing anything for hours: is memory flat, and is every result the right one?

    PYTHONPATH=build/python python tests/reliability/soak.py --minutes 120

Each thread runs episodes: a few sessions with caches of all kinds, and a hundred random operations on them (prefill,
generate, fork, trim, save, load, reset, drop). An episode depends on its number alone, and gives a digest of all that it
saw: logits, texts, the bytes of saved files. One episode in ten is repeated alone at the end; the digests must be equal.
Resident memory is taken after every episode, with what malloc keeps for later given back; the last quarter's median must
lie within --flat per cent of the second quarter's, in runs of ten minutes or more: before, a process still takes what
it keeps (71.0, 74.8, 75.7 and 77.2 MiB in the quarters of a minute). Exit status 1 when anything was otherwise.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import livekv  # noqa: E402
from python_eval.memory import begin_peak, current_rss  # noqa: E402

CACHES = [livekv.KVOptions()] * 2
CACHES += [livekv.KVOptions.preset(name, chunk_size=128) for name in ("default", "small", "quality", "reference")]
CACHES += [livekv.KVOptions(policy=name) for name in ("f16", "q8_0", "q4_0_rot")]
N_CTX = 768
SETTLED_MINUTES = 10


class Episode:
    """Some sessions and what was done to them."""

    def __init__(self, model: livekv.Model, number: int, folder: Path) -> None:
        self.model, self.number, self.folder = model, number, folder
        self.rng = random.Random(number)
        self.digest = hashlib.sha256()
        self.sessions: list[livekv.Session] = []
        self.saved: list[tuple[Path, livekv.KVOptions]] = []
        self.done: Counter[str] = Counter()

    def run(self, n_operations: int) -> str:
        try:
            for _ in range(n_operations):
                self.operate()
        finally:
            for session in self.sessions:
                session.close()
            for path, _ in self.saved:
                path.unlink()
        return self.digest.hexdigest()

    def operate(self) -> None:
        rng = self.rng
        if not self.sessions:
            return self.open(rng.choice(CACHES))
        session = rng.choice(self.sessions)
        room = session.n_ctx - session.n_tokens
        name = rng.choice(["prefill", "prefill", "generate", "generate", "fork", "trim", "save", "load", "reset", "drop",
                           "open"])
        self.done[name] += 1
        if name == "open" and len(self.sessions) < 4:
            self.open(rng.choice(CACHES))
        elif name == "prefill" and room > 0:
            n = min(room, int(2 ** rng.uniform(0, 8.5)))
            self.saw(session.prefill([rng.randrange(3, self.model.n_vocab) for _ in range(n)]).tobytes())
        elif name == "generate" and room > 8 and session.last_logits is not None:
            seed = rng.randrange(1 << 30)
            for piece in session.generate(None, max_tokens=rng.randrange(1, 8), temperature=0.7, seed=seed):
                self.saw(piece.encode())
        elif name == "fork" and len(self.sessions) < 4:
            self.sessions.append(session.fork())
        elif name == "trim" and session.n_tokens:
            session.trim(rng.randrange(session.n_tokens + 1))
        elif name == "save" and session.n_tokens and session.kv.policy == "livekv":
            path = self.folder / f"{self.number}-{len(self.saved)}.kv"
            session.save(path)
            self.saw(path.read_bytes())
            self.saved.append((path, session.kv))
        elif name == "load" and self.saved and len(self.sessions) < 4:
            path, kv = rng.choice(self.saved)
            self.open(kv)
            self.sessions[-1].load(path)
            self.saw(str(self.sessions[-1].tokens).encode())
        elif name == "reset":
            session.reset()
        elif name == "drop":
            self.sessions.remove(session)
            session.close()

    def open(self, kv: livekv.KVOptions) -> None:
        self.sessions.append(self.model.session(N_CTX, kv=kv))

    def saw(self, what: bytes) -> None:
        self.digest.update(hashlib.sha256(what).digest())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default=str(ROOT / "tests/models/story.gguf"))
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--operations", type=int, default=100, help="of an episode")
    parser.add_argument("--first", type=int, default=0, help="number of the first episode")
    parser.add_argument("--flat", type=float, default=2.0, help="per cent that memory may grow by")
    args = parser.parse_args()
    if not args.minutes > 0:
        parser.error(f"argument --minutes: {args.minutes:g} is not more than 0")

    model = livekv.Model(args.model, n_threads=2)
    until = time.monotonic() + 60 * args.minutes
    lock = threading.Lock()
    digests: dict[int, str] = {}
    resident: list[int] = []
    operations: Counter[str] = Counter()
    failures: list[str] = []
    next_number = args.first

    def work(folder: Path) -> None:
        nonlocal next_number
        while time.monotonic() < until and not failures:
            with lock:
                number = next_number
                next_number += 1
            episode = Episode(model, number, folder)
            try:
                digest = episode.run(args.operations)
            except Exception as problem:
                failures.append(f"episode {number}: {type(problem).__name__}: {problem}")
                return
            with lock:
                digests[number] = digest
                operations.update(episode.done)
                begin_peak()
                resident.append(current_rss())

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        threads = [threading.Thread(target=work, args=(folder,)) for _ in range(args.threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        repeated = [number for number in sorted(digests) if number % 10 == 0]
        for number in repeated:
            if Episode(model, number, folder).run(args.operations) != digests[number]:
                failures.append(f"episode {number} gave other results when it was repeated alone")

    n = len(resident)
    quarters = [statistics.median(resident[n * i // 4 : n * (i + 1) // 4]) for i in range(4)] if n >= 8 else []
    judged = bool(quarters) and args.minutes >= SETTLED_MINUTES
    if judged and quarters[3] > quarters[1] * (1 + args.flat / 100):
        failures.append(f"resident memory grew from {quarters[1] / 2**20:.1f} to {quarters[3] / 2**20:.1f} MiB")
    print(f"{n} episodes, {sum(operations.values())} operations ({dict(sorted(operations.items()))})")
    print(f"{len(repeated)} episodes repeated alone")
    if quarters:
        said = "" if judged else f", not judged in less than {SETTLED_MINUTES} minutes"
        print("resident memory by quarters: " + ", ".join(f"{q / 2**20:.1f}" for q in quarters) + f" MiB{said}")
    for failure in failures:
        print(f"FAILED: {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
