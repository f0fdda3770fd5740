#!/usr/bin/env python3
"""Prefill and decode speed of livekv against llama.cpp: same GGUF, same threads, same run.

    python tests/bench/compare_llama_cpp.py --model M.gguf [--kv f16,q8_0] [--depths 0,4096] [--threads 2] [--rounds 5]

llama.cpp is the llama-cpp-python package of requirements/dev.txt, built from its source by `make dev` for this CPU. The
two engines take turns, one round after the other, and each round gives one ratio, so that a machine that slows down
slows both. The table shows medians over rounds of tokens/s and of the ratio, and the ratio's range.
"""

from __future__ import annotations

import argparse
import json
import os
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
                     "--kv", kv, "-r", args.repetitions, "-o", "json"])  # fmt: skip
    return {"prefill": rows[0]["pp_tps"], "decode": rows[0]["tg_tps"]}


def bench_llama(args, kv: str, depth: int) -> dict[str, float]:
    script = Path(__file__).with_name("llama_cpp_bench.py")
    rows = run_json([sys.executable, script, "--model", args.model, "--threads", args.threads, "--prompt", args.prompt,
                     "--decode", args.decode, "--depth", depth, "--kv", kv, "--repetitions", args.repetitions])  # fmt: skip
    return {"prefill": rows[0]["pp_tps"], "decode": rows[0]["tg_tps"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--kv", default="f16", help="caches both engines have, comma-separated")
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
    print("| cache | depth | phase | livekv, tokens/s | llama.cpp, tokens/s | ratio | (range) |")
    print("|---|---:|---|---:|---:|---:|---:|")
    for kv in args.kv.split(","):
        for depth in map(int, args.depths.split(",")):
            measured = []
            for number in range(args.rounds):
                # who goes first alternates: neither always runs on the other's warmed caches
                ours_first = number % 2 == 0
                ours = bench_livekv(livekv, args, kv, depth) if ours_first else None
                theirs = bench_llama(args, kv, depth)
                ours = ours or bench_livekv(livekv, args, kv, depth)
                measured.append({"kv": kv, "depth": depth, "livekv": ours, "llama.cpp": theirs})
            rounds += measured
            for phase in ("prefill", "decode"):
                ratios = [m["livekv"][phase] / m["llama.cpp"][phase] for m in measured]
                print(f"| {kv} | {depth} | {phase} | {statistics.median(m['livekv'][phase] for m in measured):.1f} "
                      f"| {statistics.median(m['llama.cpp'][phase] for m in measured):.1f} "
                      f"| {statistics.median(ratios):.3f} | {min(ratios):.3f} to {max(ratios):.3f} |", flush=True)  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps({"threads": args.threads, "rounds": rounds}, indent=1))


if __name__ == "__main__":
    main()
