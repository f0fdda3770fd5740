#!/usr/bin/env python3
"""What a context shift costs a cache: divergence behind it, beside that of a cache that needed none.

    PYTHONPATH=build/python python tests/bench/context_shift.py --model M.gguf --text FILE --context 4096 --keep 512

A text fills the context; then the oldest chunks behind the first --keep tokens leave, and --scored more tokens are read. Each
cache's distributions there are compared with those of a 16-bit cache whose keys were kept before RoPE, which moved without
loss: once both shifted, and once both hold the whole text. The difference is what moving, that is rounding once more, costs.
Also printed: how long the shift took. Means over --windows windows of the text.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import livekv
import numpy as np

EXACT = "kvstream:key-bits-normal=16:value-bits-normal=16:key-bits-sink-outlier=16:value-bits-sink-outlier=16"


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    x = logits.astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def scored(session: livekv.Session, tokens: list[int]) -> np.ndarray:
    return log_probabilities(session.eval(tokens, all_logits=True))


def kld(base: np.ndarray, other: np.ndarray) -> float:
    return float((np.exp(base) * (base - other)).sum(axis=1).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", type=Path, required=True)
    add("--text", type=Path, required=True)
    add("--kv", default="livekv,small,kvstream,q8_0,q4_0_rot", help="(default: %(default)s)")
    add("--context", type=int, default=4096, help="(default: %(default)s)")
    add("--keep", type=int, default=512, help="(default: %(default)s)")
    add("--scored", type=int, default=512, help="(default: %(default)s)")
    add("--windows", type=int, default=2, help="(default: %(default)s)")
    args = parser.parse_args()
    model = livekv.Model(args.model)
    text = args.text.read_text(encoding="utf-8")
    size = args.context + args.scored
    tokens = model.tokenize(text[: 8 * size * args.windows])
    caches = [EXACT, *args.kv.split(",")]
    found: dict[str, list[tuple[float, float, float]]] = {kv: [] for kv in caches}
    for window in range(args.windows):
        mine = tokens[window * size : (window + 1) * size]
        if len(mine) < size:
            raise SystemExit(f"the text has {len(tokens)} tokens; {args.windows} windows need {args.windows * size}")
        n_wanted = (args.context - args.keep) // 2
        base: tuple[np.ndarray, np.ndarray] | None = None
        for kv in caches:
            with model.session(size, kv=livekv.KVOptions.parse(kv)) as whole:
                whole.prefill(mine[: args.context])
                with whole.fork() as shifted:
                    start = time.monotonic()
                    n_wanted = shifted.forget(args.keep, n_wanted)
                    seconds = time.monotonic() - start
                    pair = scored(shifted, mine[args.context :]), scored(whole, mine[args.context :])
            base = base or pair
            found[kv].append((kld(base[0], pair[0]), kld(base[1], pair[1]), seconds))
            print(f"window {window}, {kv}: {n_wanted} tokens leave, {found[kv][-1]}", flush=True)
    print("| cache | shifted | whole | seconds |\n|---|---:|---:|---:|")
    for kv, rows in found.items():
        shifted_kld, whole_kld, seconds = (sum(column) / len(rows) for column in zip(*rows, strict=True))
        print(f"| `{kv}` | {shifted_kld:.5f} | {whole_kld:.5f} | {seconds:.2f} |")


if __name__ == "__main__":
    main()
