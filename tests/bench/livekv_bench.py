#!/usr/bin/env python3
"""livekv's side of compare_llama_cpp.py: what llama_cpp_bench.py measures, measured through the livekv package.

One batch of --prompt tokens, then --decode tokens one by one, each after --depth tokens of context; one run that is not
counted first. Every line of stdin then asks for another measurement, a line of JSON on stdout. Through Python as
llama.cpp's is; a call costs microseconds.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time

import livekv


def timed(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--kv", default="livekv", help="a cache spec")
    parser.add_argument("--depth", type=int, default=0)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--decode", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=5)
    args = parser.parse_args()
    model = livekv.Model(args.model, n_threads=args.threads)
    rng = random.Random(1)
    tokens = [rng.randrange(model.n_vocab) for _ in range(args.depth + max(args.prompt, args.decode))]
    session = model.session(n_ctx=len(tokens), kv=livekv.KVOptions.parse(args.kv))
    if args.depth:
        session.prefill(tokens[: args.depth])
    fresh = tokens[args.depth :]

    def run() -> tuple[float, float]:
        prefill_s = timed(lambda: session.prefill(fresh[: args.prompt]))
        session.trim(args.depth)
        decode_s = timed(lambda: [session.prefill([token]) for token in fresh[: args.decode]])
        session.trim(args.depth)
        return args.prompt / prefill_s, args.decode / decode_s

    run()
    print("ready", flush=True)
    for _ in sys.stdin:
        runs = [run() for _ in range(args.repetitions)]
        print(json.dumps({"prefill": statistics.median(r[0] for r in runs), "decode": statistics.median(r[1] for r in runs)}), flush=True)


if __name__ == "__main__":
    main()
