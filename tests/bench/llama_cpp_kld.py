#!/usr/bin/env python3
"""What livekv-perplexity --kl-base f16 measures, measured in llama.cpp: the mean KL divergence of a quantized cache.

    python tests/bench/llama_cpp_kld.py --model M.gguf --text FILE [--kv q4_0] [--ctx 2048] [--windows 6]

llama.cpp rotates quantized caches by itself where head_dim is a multiple of 64 (LLAMA_ATTN_ROT_DISABLE=1 turns that
off), so its q4_0 is livekv's q4_0_rot. Same windows, same scored half, batches of 512 tokens, flash attention on.
"""

from __future__ import annotations

import argparse

import llama_cpp
import numpy as np

from llama_cpp_calls import KV_TYPES, batch_of, context_params, decode, load_model

BATCH = 512


def tokenize(vocab, text: bytes) -> list[int]:
    room = len(text) + 8
    tokens = (llama_cpp.llama_token * room)()
    n = llama_cpp.llama_tokenize(vocab, text, len(text), tokens, room, True, False)
    return list(tokens[:n])


def make_context(model, kv: str, n_ctx: int, threads: int):
    params = context_params(kv, n_ctx, threads)
    params.n_batch = params.n_ubatch = BATCH
    return llama_cpp.llama_init_from_model(model, params)


def log_probabilities(ctx, window: list[int], n_vocab: int) -> np.ndarray:
    """Of each token after the window's first half, [n_scored, n_vocab] float64."""
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(ctx), True)
    rows = []
    for at in range(0, len(window), BATCH):
        tokens = window[at : at + BATCH]
        with batch_of(tokens, at, 0, first_wanted=len(window) // 2) as batch:
            decode(ctx, batch)
            for i in range(len(tokens)):
                if batch.logits[i] and at + i + 1 < len(window):
                    row = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(ctx, i), (n_vocab,))
                    rows.append(row.astype(np.float64))
    logits = np.stack(rows)
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--kv", default="q4_0", choices=KV_TYPES)
    parser.add_argument("--ctx", type=int, default=2048)
    parser.add_argument("--windows", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    model = load_model(args.model)
    if not model:
        raise SystemExit(f"llama_cpp_kld: llama.cpp cannot load {args.model}")
    vocab = llama_cpp.llama_model_get_vocab(model)
    n_vocab = llama_cpp.llama_vocab_n_tokens(vocab)
    with open(args.text, "rb") as file:
        tokens = tokenize(vocab, file.read())
    base, test = (make_context(model, kv, args.ctx, args.threads) for kv in ("f16", args.kv))
    kl = []
    for w in range(args.windows):
        window = tokens[w * args.ctx : (w + 1) * args.ctx]
        if llama_cpp.llama_vocab_get_add_bos(vocab):
            window[0] = llama_cpp.llama_vocab_bos(vocab)
        p, q = (log_probabilities(ctx, window, n_vocab) for ctx in (base, test))
        kl.append((np.exp(p) * (p - q)).sum(axis=1).mean())
    print(f"{args.kv}: mean KL from f16 {np.mean(kl):.6f} +- {np.std(kl, ddof=1) / np.sqrt(len(kl)):.6f} over {args.windows} windows")


if __name__ == "__main__":
    main()
