#!/usr/bin/env python3
"""What prompt lookup is worth: decode of one text, with and without, in turns.

    PYTHONPATH=build/python python tests/bench/lookup.py --model M.gguf --text FILE --depth 8192 --lookup 4,9

Greedy text of a small model soon repeats what stands in its context, and drafts are right; with --temperature 0.8 it goes
its own way, and drafts only cost. All texts are checked to be the same. Prints, for each --lookup, the median and range of
how many times as fast it was.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import livekv


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", type=Path, required=True)
    add("--text", type=Path, required=True)
    add("--depth", type=int, default=8192, help="tokens of it that are read before (default: %(default)s)")
    add("--lookup", default="4,9", help="tokens drafted at a time (default: %(default)s)")
    add("--decode", type=int, default=200, help="tokens (default: %(default)s)")
    add("--temperature", type=float, default=0.0, help="(default: %(default)s)")
    add("--rounds", type=int, default=4, help="(default: %(default)s)")
    add("--threads", type=int, help="(default: all cores)")
    args = parser.parse_args()
    model = livekv.Model(args.model, n_threads=args.threads)
    tokens = model.tokenize(args.text.read_text(encoding="utf-8")[: 8 * args.depth])[: args.depth]
    session = model.session(len(tokens) + args.decode)
    session.prefill(tokens[:-1])
    plans = [0, *map(int, args.lookup.split(","))]
    seconds: dict[int, list[float]] = {plan: [] for plan in plans}
    texts, usages = set(), {}
    for _ in range(args.rounds):
        for plan in plans:
            with session.fork() as fork:
                options = {"temperature": args.temperature, "seed": 5, "ignore_eos": True}
                text = fork.generate(tokens[-1:], args.decode, lookup=plan, **options)
                texts.add("".join(text))
                seconds[plan].append(text.usage.decode_s)
                usages[plan] = text.usage
    if len(texts) != 1:
        raise SystemExit("the texts are not the same")
    print(f"{len(tokens)} tokens, {args.decode} more; the text ends {texts.pop()[-60:]!r}")
    for plan in plans:
        ratios = sorted(plain / one for plain, one in zip(seconds[0], seconds[plan], strict=True))
        print(f"lookup {plan}: {args.decode / statistics.median(seconds[plan]):.1f} tokens/s, {statistics.median(ratios):.3f} "
              f"({ratios[0]:.3f} to {ratios[-1]:.3f}); {usages[plan].accepted_tokens} of {usages[plan].drafted_tokens} drafted")  # fmt: skip


if __name__ == "__main__":
    main()
