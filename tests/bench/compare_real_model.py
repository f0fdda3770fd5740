#!/usr/bin/env python3
"""Whether a model's file means the same to livekv as to llama.cpp: perplexity of windows, and a greedy continuation.

    PYTHONPATH=build/python python tests/bench/compare_real_model.py --model M.gguf --text FILE [--ctx 1024] [--windows 4]
        [--reference M-f32.gguf]

Both engines are given the same token ids, an f16 cache and passes of 256 tokens, and score each window's second half. The
greedy texts must be equal up to a tie: where they part, llama.cpp's lead of its choice over livekv's is printed, as a
share of the range of its logits.

With --reference, the same weights in F32, both engines are also compared with that file's distributions: the divergence
says how far each one's rounding of rows moves it. --f32 asks llama.cpp too for the reference's, which says whether the two
engines compute the same function.
"""

from __future__ import annotations

import argparse
import sys

import livekv
import llama_cpp
import numpy as np

from llama_cpp_calls import batch_of, context_params, decode, load_model

BATCH = 256


class LlamaCpp:
    def __init__(self, path: str, n_ctx: int, threads: int) -> None:
        self.model = load_model(path)
        if not self.model:
            raise SystemExit(f"compare_real_model: llama.cpp cannot load {path}")
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        params = context_params("f16", n_ctx, threads)
        params.n_batch = params.n_ubatch = BATCH
        self.ctx = llama_cpp.llama_init_from_model(self.model, params)
        self.n_tokens = 0

    def clear(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.ctx), True)
        self.n_tokens = 0

    def eval(self, tokens: list[int]) -> np.ndarray:
        """float32 [n, n_vocab] of up to BATCH tokens"""
        with batch_of(tokens, self.n_tokens, 0, first_wanted=0) as batch:
            decode(self.ctx, batch)
        self.n_tokens += len(tokens)
        rows = [llama_cpp.llama_get_logits_ith(self.ctx, i) for i in range(len(tokens))]
        return np.stack([np.ctypeslib.as_array(row, (self.n_vocab,)) for row in rows])


class LiveKV:
    def __init__(self, path: str, n_ctx: int, threads: int, repack: bool) -> None:
        self.model = livekv.Model(path, n_threads=threads, repack=repack)
        self.session = self.model.session(n_ctx=n_ctx, kv=livekv.KVOptions.parse("f16"))

    def clear(self) -> None:
        self.session.trim(0)

    def eval(self, tokens: list[int]) -> np.ndarray:
        return self.session.eval(tokens, all_logits=True)


def log_probabilities(engine: LlamaCpp | LiveKV, window: list[int]) -> np.ndarray:
    """float32 [n, n_vocab]: log p of what follows, for each token of the window's second half."""
    engine.clear()
    half = len(window) // 2
    found = []
    for at in range(0, len(window), BATCH):
        rows = engine.eval(window[at : at + BATCH])[max(0, half - 1 - at) :]
        largest = rows.max(axis=1, keepdims=True)
        sums = np.exp(rows - largest).sum(axis=1, keepdims=True, dtype=np.float64)
        found.append(rows - (largest + np.log(sums)).astype(np.float32))
    return np.concatenate(found)[:-1]


def losses(log_p: np.ndarray, window: list[int]) -> np.ndarray:
    """-log p of each token of the window's second half."""
    asked = window[len(window) - len(log_p) :]
    return -log_p[np.arange(len(log_p)), asked].astype(np.float64)


def divergence(reference: np.ndarray, other: np.ndarray) -> np.ndarray:
    """KL divergence in nats of each row's distribution from the reference's"""
    return np.stack([np.dot(np.exp(p.astype(np.float64)), p.astype(np.float64) - q) for p, q in zip(reference, other)])


def mean_and_error(by_window: list[np.ndarray]) -> tuple[float, float]:
    """Mean over tokens; the error is that of the windows' means, as tokens of one are not independent."""
    means = np.array([values.mean() for values in by_window])
    return float(means.mean()), float(means.std(ddof=1) / len(means) ** 0.5) if len(means) > 1 else float("nan")


def greedy(engine: LlamaCpp | LiveKV, prompt: list[int], n: int) -> tuple[list[int], list[np.ndarray]]:
    engine.clear()
    for at in range(0, len(prompt), BATCH):
        row = engine.eval(prompt[at : at + BATCH])[-1]
    tokens, logits = [], []
    for _ in range(n):
        tokens.append(int(row.argmax()))
        logits.append(row)
        row = engine.eval(tokens[-1:])[-1]
    return tokens, logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--ctx", type=int, default=1024)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--greedy", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repack", action="store_true", help="livekv's own products, whose rows are rounded otherwise")
    parser.add_argument("--reference", help="the model in F32: how far is each engine from it?")
    parser.add_argument("--f32", action="store_true", help="with --reference: llama.cpp's view of it too")
    args = parser.parse_args()
    ours = LiveKV(args.model, args.ctx, args.threads, args.repack)
    theirs = LlamaCpp(args.model, args.ctx, args.threads)
    with open(args.text, encoding="utf-8") as file:
        tokens = ours.model.tokenize(file.read()[: 8 * args.ctx * args.windows])
    bos = [ours.model.bos_token] if ours.model.adds_bos else []
    tokens = tokens[len(bos) :]
    n = args.ctx - len(bos)
    windows = [bos + tokens[w * n : (w + 1) * n] for w in range(args.windows)]
    engines: dict[str, LlamaCpp | LiveKV] = {"livekv": ours, "llama.cpp": theirs}
    if args.reference:
        engines["reference"] = LiveKV(args.reference, args.ctx, args.threads, repack=False)
        if args.f32:
            engines["llama.cpp on the reference"] = LlamaCpp(args.reference, args.ctx, args.threads)
    lost: dict[str, list[np.ndarray]] = {name: [] for name in engines}
    apart: dict[str, list[np.ndarray]] = {name: [] for name in engines}
    for number, window in enumerate(windows):
        log_p = {name: log_probabilities(engine, window) for name, engine in engines.items()}
        for name, rows in log_p.items():
            lost[name].append(losses(rows, window))
            if args.reference:
                apart[name].append(divergence(log_p["reference"], rows))
        means = {name: f"{lost[name][-1].mean():.5f}" for name in engines}
        if args.reference:
            means = {name: f"{mean} (KL {apart[name][-1].mean():.5f})" for name, mean in means.items()}
        print(f"window {number}: " + ", ".join(f"{name} {mean}" for name, mean in means.items()), file=sys.stderr)
    mine, other = (float(np.exp(np.concatenate(lost[name]).mean())) for name in ("livekv", "llama.cpp"))
    differences = [a - b for a, b in zip(lost["livekv"], lost["llama.cpp"])]
    _, error = mean_and_error(differences)
    largest = np.abs(np.concatenate(differences)).max()
    print(f"perplexity of {args.windows} windows of {args.ctx}: livekv {mine:.4f}, llama.cpp {other:.4f}, ", end="")
    print(f"{100 * (mine / other - 1):+.3f} +- {100 * error:.3f} %; largest difference of a token's {largest:.4f}")
    for name in engines if args.reference else ():
        moved, moved_error = mean_and_error([a - b for a, b in zip(lost[name], lost["reference"])])
        kl, kl_error = mean_and_error(apart[name])
        print(f"from the reference, {name}: KL {kl:.6f} +- {kl_error:.6f}, log perplexity {moved:+.5f} +- {moved_error:.5f}")
    prompt = windows[0][: args.ctx // 2]
    (got, _), (expected, logits) = (greedy(engine, prompt, args.greedy) for engine in (ours, theirs))
    parted = next((i for i, pair in enumerate(zip(got, expected)) if pair[0] != pair[1]), None)
    if parted is None:
        print(f"greedy: {args.greedy} of {args.greedy} tokens equal")
    else:
        row = logits[parted]
        lead = (row[expected[parted]] - row[got[parted]]) / (row.max() - row.min())
        print(f"greedy: {parted} tokens equal, then llama.cpp's choice leads livekv's by {lead:.5f} of the range")


if __name__ == "__main__":
    main()
