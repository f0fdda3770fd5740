#!/usr/bin/env python3
"""What livekv-perplexity --kl-base f16 measures, measured in llama.cpp: the mean KL divergence of a quantized cache.

    python tests/bench/llama_cpp_kld.py --model M.gguf --text FILE [--kv q4_0] [--ctx 2048] [--windows 6]

llama.cpp rotates quantized caches by itself where head_dim is a multiple of 64 (LLAMA_ATTN_ROT_DISABLE=1 turns that
off), so its q4_0 is livekv's q4_0_rot. Same windows, same scored half, batches of 512 tokens, flash attention on.
"""

from __future__ import annotations

import argparse
import ctypes

import llama_cpp
import numpy as np

TYPES = {"f16": 1, "q8_0": 8, "q4_0": 2}  # enum ggml_type
BATCH = 512


@llama_cpp.llama_log_callback
def silent(level, text, user_data):
    pass


def tokenize(vocab, text: bytes) -> list[int]:
    room = len(text) + 8
    tokens = (llama_cpp.llama_token * room)()
    n = llama_cpp.llama_tokenize(vocab, text, len(text), tokens, room, True, False)
    return list(tokens[:n])


def make_context(model, kv: str, n_ctx: int, threads: int):
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = n_ctx
    params.n_batch = params.n_ubatch = BATCH
    params.n_threads = params.n_threads_batch = threads
    params.type_k = params.type_v = TYPES[kv]
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
    return llama_cpp.llama_init_from_model(model, params)


def log_probabilities(ctx, window: list[int], n_vocab: int) -> np.ndarray:
    """Of each token after the window's first half, [n_scored, n_vocab] float64."""
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(ctx), True)
    rows = []
    for at in range(0, len(window), BATCH):
        tokens = window[at : at + BATCH]
        batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i] = token
            batch.pos[i] = at + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = at + i >= len(window) // 2
        if llama_cpp.llama_decode(ctx, batch) != 0:
            raise SystemExit("llama_cpp_kld: llama_decode failed")
        for i in range(len(tokens)):
            if batch.logits[i] and at + i + 1 < len(window):
                rows.append(np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(ctx, i), (n_vocab,)).astype(np.float64))
        llama_cpp.llama_batch_free(batch)
    logits = np.stack(rows)
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--kv", default="q4_0", choices=TYPES)
    parser.add_argument("--ctx", type=int, default=2048)
    parser.add_argument("--windows", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    llama_cpp.llama_log_set(silent, ctypes.c_void_p())
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(args.model.encode(), llama_cpp.llama_model_default_params())
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
