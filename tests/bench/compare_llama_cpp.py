#!/usr/bin/env python3
"""Prefill and decode speed of livekv against llama.cpp: same GGUF, same threads, same run.

    python tests/bench/compare_llama_cpp.py --model M.gguf [--pairs livekv:f16,livekv:q8_0] [--depths 0,4096] ...

A pair names livekv's cache and llama.cpp's; livekv's may carry options: 'livekv --kv-bits 4,3:f16'.

llama.cpp is the llama-cpp-python package of requirements/dev.txt, built from its source by `make dev` for this CPU. The
two engines take turns, one round after the other, and each round gives one ratio, so that a machine that slows down
slows both. The table shows medians over rounds of tokens/s and of the ratio, and the ratio's range.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
def run_json(command: list) -> list[dict]:
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"compare: {command[0]} failed:\n{result.stderr.strip()[-2000:]}")
    return json.loads(result.stdout)


def bench_livekv(binary: Path, args, kv: str, depth: int) -> dict[str, float]:
    rows = run_json([binary, "-m", args.model, "-t", args.threads, "-p", args.prompt, "-n", args.decode, "-d", depth,
                     "--kv", *shlex.split(kv), "-r", args.repetitions, "-o", "json"])  # fmt: skip
    return {"prefill": rows[0]["pp_tps"], "decode": rows[0]["tg_tps"]}


class LlamaCpp:
    """llama.cpp in a process that has filled its context and measures when asked."""

    def __init__(self, args, kv: str, depth: int):
        script = Path(__file__).with_name("llama_cpp_bench.py")
        command = [sys.executable, script, "--model", args.model, "--threads", args.threads, "--prompt", args.prompt,
                   "--decode", args.decode, "--depth", depth, "--kv", kv, "--repetitions", args.repetitions]  # fmt: skip
        self.process = subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline() != "ready\n":
            sys.exit("compare: llama.cpp did not start")
        self.process.send_signal(signal.SIGSTOP)

    def measure(self) -> dict[str, float]:
        """One measurement. Between them the process is stopped: its waiting threads would spin on livekv's cores."""
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
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="build folder of livekv")
    parser.add_argument("--json", type=Path, help="also write every round's figures here")
    args = parser.parse_args()
    livekv = args.build / "bin" / "livekv-bench"

    rounds: list[dict] = []
    print("| livekv cache | llama.cpp cache | depth | phase | livekv, tokens/s | llama.cpp, tokens/s | ratio | (range) |")
    print("|---|---|---:|---|---:|---:|---:|---:|")
    for pair in args.pairs.split(","):
        our_kv, their_kv = pair.split(":")
        for depth in map(int, args.depths.split(",")):
            llama = LlamaCpp(args, their_kv, depth)
            measured = []
            for _ in range(args.rounds):
                ours = bench_livekv(livekv, args, our_kv, depth)
                measured.append({"pair": pair, "depth": depth, "livekv": ours, "llama.cpp": llama.measure()})
            llama.close()
            rounds += measured
            for phase in ("prefill", "decode"):
                ratios = [m["livekv"][phase] / m["llama.cpp"][phase] for m in measured]
                print(f"| {our_kv} | {their_kv} | {depth} | {phase} "
                      f"| {statistics.median(m['livekv'][phase] for m in measured):.1f} "
                      f"| {statistics.median(m['llama.cpp'][phase] for m in measured):.1f} "
                      f"| {statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} |", flush=True)  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps({"threads": args.threads, "rounds": rounds}, indent=1))


if __name__ == "__main__":
    main()
