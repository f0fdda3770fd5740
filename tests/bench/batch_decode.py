#!/usr/bin/env python3
"""Sequences decoded in one batch against one after another, and what the memory of many is beside that of one.

PYTHONPATH=build/python python tests/bench/batch_decode.py --model MODEL.gguf

Each sequence is filled with --depth tokens of its own. Then the two ways take turns, --decode tokens of every sequence a
round; medians of the rounds, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import livekv

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from python_eval.memory import begin_peak, current_rss


def resident() -> int:
    """Bytes, without what malloc keeps for later."""
    begin_peak()
    return current_rss()


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--kv", default="livekv", help="a cache spec")
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--depth", type=int, default=2048)
    parser.add_argument("--decode", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    model = livekv.Model(args.model, n_threads=args.threads)
    engine = livekv.Engine(model)
    rng = random.Random(1)
    n_ctx = args.depth + 2 * args.decode * (args.rounds + 1)
    sessions: list[livekv.Session] = []
    memory = []  # resident bytes with 1, 2, ... sequences
    while len(sessions) < args.sequences:
        session = model.session(n_ctx, kv=livekv.KVOptions.parse(args.kv))
        session.prefill([rng.randrange(3, model.n_vocab) for _ in range(args.depth)])
        sessions.append(session)
        memory.append(resident())
    expected = memory[0] + sum(session.kv_bytes for session in sessions[1:])

    def together() -> None:
        for _ in range(args.decode):
            engine.step([(session, [5]) for session in sessions], generated=True)

    def alone() -> None:
        for session in sessions:
            for _ in range(args.decode):
                engine.step([(session, [5])], generated=True)

    n = args.sequences * args.decode
    rates: dict[str, list[float]] = {"together": [], "alone": []}
    for number in range(args.rounds + 1):
        for name, work in (("together", together), ("alone", alone)):
            rate = n / seconds(work)
            if number > 0:  # the first round finds caches cold
                rates[name].append(rate)
    ratios = [a / b for a, b in zip(rates["together"], rates["alone"], strict=True)]
    report = {name: {"median": statistics.median(r), "min": min(r), "max": max(r)} for name, r in rates.items()}
    print(
        json.dumps(
            report
            | {
                "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
                "resident_of_1": memory[0],
                "resident_of_all": memory[-1],
                "resident_of_1_and_the_other_caches": expected,
                "over": memory[-1] / expected - 1,
                "resident_after_decode": resident(),
                "caches_after_decode": sum(session.kv_bytes for session in sessions),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
