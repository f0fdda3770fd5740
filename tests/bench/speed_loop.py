"""What livekv_bench.py and llama_cpp_bench.py share: the command line, the runs, and the taking of turns.

One batch of --prompt tokens, then --decode tokens one by one, each after --depth tokens of context; one run that is not
counted first. Then every line of stdin asks for another measurement, a line of JSON on stdout, so that two engines can
take turns without filling a deep context anew.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol


class Sequence(Protocol):
    """One sequence in one engine, empty at first."""

    n_vocab: int

    def fill(self, tokens: list[int]) -> None:
        """Puts the context there; not measured."""

    def process(self, tokens: list[int]) -> None:
        """One batch behind what is there, to the end of its computation."""

    def trim(self, n: int) -> None:
        """Back to the first n tokens."""


def serve(description: str | None, start: Callable[[argparse.Namespace, int], Sequence], **kv: Any) -> None:
    """Measures what `start(arguments, n_ctx)` gives, as often as stdin asks. `kv`: argparse's keywords of --kv."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", required=True)
    parser.add_argument("--kv", **kv)
    parser.add_argument("--depth", type=int, default=0)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--decode", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=5)
    args = parser.parse_args()
    n_ctx = args.depth + max(args.prompt, args.decode)
    sequence = start(args, n_ctx)
    rng = random.Random(1)
    tokens = [rng.randrange(sequence.n_vocab) for _ in range(n_ctx)]
    if args.depth:
        sequence.fill(tokens[: args.depth])
    fresh = tokens[args.depth :]

    def run() -> tuple[float, float]:
        """Tokens a second of prefill and of decode."""
        prefill_s = _timed(lambda: sequence.process(fresh[: args.prompt]))
        sequence.trim(args.depth)
        decode_s = _timed(lambda: [sequence.process([token]) for token in fresh[: args.decode]])
        sequence.trim(args.depth)
        return args.prompt / prefill_s, args.decode / decode_s

    run()
    print("ready", flush=True)
    for _ in sys.stdin:
        prefill, decode = map(statistics.median, zip(*(run() for _ in range(args.repetitions)), strict=True))
        print(json.dumps({"prefill": prefill, "decode": decode}), flush=True)


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
