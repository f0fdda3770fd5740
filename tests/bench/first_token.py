#!/usr/bin/env python3
"""Seconds from a prompt to its first token, tokens a second after it and peak memory: livekv, llama.cpp, OpenVINO GenAI.

    PYTHONPATH=build/python python tests/bench/first_token.py --model M.gguf --text FILE --prompts 500,4000 \
        --engines livekv:livekv,livekv:f16,llama.cpp:f16,openvino --openvino-python /elsewhere/bin/python

The same GGUF file and the same tokens, the first of a text; nothing is kept from one prompt to the next. Each engine is a
process that takes its turn in every round while the others are stopped. llama.cpp is the llama-cpp-python package of
requirements/dev.txt; the package openvino-genai wants an environment of its own. The table has medians of the rounds, and
their range. Loading is not counted. Memory is the most that was resident during a turn (VmHWM), weights that were touched
included; the largest of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

Turn = Callable[[list[int]], tuple[float, float]]  # tokens of a prompt: seconds to the first token, tokens/s after it


def livekv_turn(args: argparse.Namespace, kv: str) -> Turn:
    import livekv

    model = livekv.Model(args.model, n_threads=args.threads)

    def turn(tokens: list[int]) -> tuple[float, float]:
        with model.session(len(tokens) + args.decode, kv=livekv.KVOptions.parse(kv)) as session:

            def decode() -> None:  # the first of these tokens takes no pass: its logits are there
                text = session.generate(None, max_tokens=args.decode + 1, temperature=0, ignore_eos=True)
                for _ in text:
                    pass

            return clock(lambda: session.prefill(tokens), decode, args.decode)

    return turn


def llama_cpp_turn(args: argparse.Namespace, kv: str) -> Turn:
    import llama_cpp

    from llama_cpp_calls import context_params, decode, load_model

    model = load_model(args.model)

    def turn(tokens: list[int]) -> tuple[float, float]:
        params = context_params(kv, len(tokens) + args.decode, args.threads)
        params.n_batch, params.n_ubatch = len(tokens), 512
        context = llama_cpp.llama_init_from_model(model, params)

        def process(ids: list[int]) -> None:
            array = (llama_cpp.llama_token * len(ids))(*ids)
            decode(context, llama_cpp.llama_batch_get_one(array, len(ids)))
            llama_cpp.llama_synchronize(context)

        try:
            return clock(
                lambda: process(tokens), lambda: [process([tokens[0]]) for _ in range(args.decode)], args.decode
            )
        finally:
            llama_cpp.llama_free(context)

    return turn


def with_peak(turn: Turn, tokens: list[int]) -> tuple[float, float, int]:
    """The turn's figures, and the most bytes that were resident during it."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak falls to what is resident now
    first, rate = turn(tokens)
    status = Path("/proc/self/status").read_text()
    (peak,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    return first, rate, 1024 * peak


def clock(prompt: Callable[[], object], decode: Callable[[], object], n: int) -> tuple[float, float]:
    """decode: n passes of one token."""
    start = time.perf_counter()
    prompt()
    first = time.perf_counter()
    decode()
    return first - start, n / (time.perf_counter() - first)


class Engine:
    """A process that has loaded the model and takes a prompt when asked."""

    def __init__(self, args: argparse.Namespace, spec: str):
        self.spec = spec
        engine, _, kv = spec.partition(":")
        options = ["--model", args.model, "--threads", args.threads, "--decode", args.decode]
        if engine == "openvino":
            command = [args.openvino_python, Path(__file__).with_name("openvino_bench.py"), *options]
        else:
            command = [sys.executable, __file__, *options, "--serve", engine, "--kv", kv]
        self.process = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline() != "ready\n":
            sys.exit(f"first_token: {spec} did not start")
        self.process.send_signal(signal.SIGSTOP)

    def measure(self, tokens: list[int]) -> tuple[float, float, int]:
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(json.dumps(tokens) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"first_token: {self.spec} ended")
        self.process.send_signal(signal.SIGSTOP)
        first, rate, *peak = json.loads(line)
        return first, rate, peak[0] if peak else 0  # OpenVINO's side says nothing of memory

    def close(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.close()
        self.process.wait()


def compare(args: argparse.Namespace) -> None:
    import livekv

    tokens = livekv.Model(args.model, n_threads=1).tokenize(args.text.read_text(encoding="utf-8")[: 12 * max(args.prompts)])
    if len(tokens) < max(args.prompts):
        sys.exit(f"first_token: the text has {len(tokens)} tokens")
    engines = {spec: Engine(args, spec) for spec in args.engines}
    print("| prompt, tokens | engine and cache | to the first token, s | (range) | decode after it, tokens/s | (range) | peak, MiB |")
    print("|---:|---|---:|---:|---:|---:|---:|")
    for n in args.prompts:
        rounds = [{spec: engine.measure(tokens[:n]) for spec, engine in engines.items()} for _ in range(args.rounds)]
        for spec in engines:
            first, rate, peak = zip(*(one[spec] for one in rounds), strict=True)
            memory = f"{max(peak) / 2**20:.0f}" if max(peak) else "-"
            print(f"| {n} | {spec} | {statistics.median(first):.2f} | {min(first):.2f} to {max(first):.2f} "
                  f"| {statistics.median(rate):.1f} | {min(rate):.1f} to {max(rate):.1f} "
                  f"| {memory} |", flush=True)  # fmt: skip
    for engine in engines.values():
        engine.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", type=Path, help="file the prompts are the beginning of")
    parser.add_argument("--prompts", type=lambda s: list(map(int, s.split(","))), default=[500, 4000])
    parser.add_argument("--engines", type=lambda s: s.split(","), default=["livekv:livekv", "llama.cpp:f16"])
    parser.add_argument("--openvino-python", help="interpreter with openvino-genai, for engine openvino")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--decode", type=int, default=32, help="tokens decoded after each prompt")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", choices=["livekv", "llama.cpp"], help=argparse.SUPPRESS)
    parser.add_argument("--kv", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.serve:
        if not args.text:
            parser.error("--text is missing")
        if "openvino" in args.engines and not args.openvino_python:
            parser.error("engine openvino needs --openvino-python")
        return compare(args)
    turn = (livekv_turn if args.serve == "livekv" else llama_cpp_turn)(args, args.kv)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(with_peak(turn, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
