#!/usr/bin/env python3
"""Prefill and decode speed of livekv against llama.cpp: same GGUF, same threads, same run.

    PYTHONPATH=build/python python tests/bench/compare_llama_cpp.py --model M.gguf [--pairs livekv:f16,livekv:q8_0] ...

A pair names livekv's cache and llama.cpp's; livekv's may be any cache spec, with a bar and semicolons instead of colon and
commas then: --pairs 'livekv:kv-bits=4,3|f16;livekv|q8_0'.

llama.cpp is the llama-cpp-python package of requirements/dev.txt, built from its source by `make dev` for this CPU. Each
cache of each engine has a process that fills it once; then they take turns, one round after the other, the others
stopped, and each round gives one ratio a pair, so that a machine that slows down slows both. The table shows medians
over rounds of tokens/s and of the ratio, and the ratio's range.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path

SCRIPTS = {"livekv": "livekv_bench.py", "llama.cpp": "llama_cpp_bench.py"}


class Engine:
    """One engine with one cache in a process that has filled its context and measures when asked."""

    def __init__(self, args: argparse.Namespace, engine: str, kv: str, depth: int):
        script = Path(__file__).with_name(SCRIPTS[engine])
        command = [sys.executable, script, "--model", args.model, "--threads", args.threads, "--prompt", args.prompt,
                   "--decode", args.decode, "--depth", depth, "--kv", kv, "--repetitions", args.repetitions]  # fmt: skip
        self.process = subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline() != "ready\n":
            sys.exit(f"compare: {engine} with {kv} did not start")
        self.process.send_signal(signal.SIGSTOP)

    def measure(self) -> dict[str, float]:
        """One measurement. Between them the process is stopped: its waiting threads would spin on the others' cores."""
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        result = json.loads(self.process.stdout.readline())
        self.process.send_signal(signal.SIGSTOP)
        return result

    def close(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.close()
        self.process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--pairs", default="f16:f16", help="livekv's cache:llama.cpp's, comma-separated")
    parser.add_argument("--depths", default="0")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--prompt", type=int, default=512, help="tokens prefilled in each run")
    parser.add_argument("--decode", type=int, default=32, help="tokens decoded in each run")
    parser.add_argument("--repetitions", type=int, default=3, help="runs of each program in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write every round's figures here")
    args = parser.parse_args()
    pairs = [tuple(pair.split("|" if "|" in pair else ":")) for pair in args.pairs.split(";" if ";" in args.pairs else ",")]

    rounds: list[dict] = []
    print("| livekv cache | llama.cpp cache | depth | phase | livekv, tokens/s | llama.cpp, tokens/s | ratio | (range) |")
    print("|---|---|---:|---|---:|---:|---:|---:|")
    for depth in map(int, args.depths.split(",")):
        caches = dict.fromkeys(cache for ours, theirs in pairs for cache in (("livekv", ours), ("llama.cpp", theirs)))
        engines = {cache: Engine(args, *cache, depth) for cache in caches}
        measured = [{cache: engine.measure() for cache, engine in engines.items()} for _ in range(args.rounds)]
        for engine in engines.values():
            engine.close()
        rounds += [{"depth": depth, **{" ".join(cache): figures for cache, figures in one.items()}} for one in measured]
        for ours, theirs in pairs:
            for phase in ("prefill", "decode"):
                a = [one["livekv", ours][phase] for one in measured]
                b = [one["llama.cpp", theirs][phase] for one in measured]
                ratios = [x / y for x, y in zip(a, b, strict=True)]
                print(f"| {ours} | {theirs} | {depth} | {phase} | {statistics.median(a):.1f} | {statistics.median(b):.1f} "
                      f"| {statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} |", flush=True)  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps({"threads": args.threads, "rounds": rounds}, indent=1))


if __name__ == "__main__":
    main()
