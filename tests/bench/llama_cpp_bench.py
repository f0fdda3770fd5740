#!/usr/bin/env python3
"""What livekv-bench measures, measured in llama.cpp through its C API (the llama-cpp-python package, `make dev`).

Like llama-bench: flash attention on, one batch of --prompt tokens, then --decode tokens one by one, each after --depth
tokens of context; one run that is not counted first. Then it waits: every line of stdin asks for another measurement, a
line of JSON on stdout, so that two engines can take turns without filling a deep context anew. The Python around the C
calls costs microseconds a call.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import random
import statistics
import sys
import time

import llama_cpp

TYPES = {"f16": 1, "q8_0": 8, "q4_0": 2}  # enum ggml_type


@llama_cpp.llama_log_callback
def silent(level, text, user_data):
    pass


def decode(ctx, tokens: list[int]) -> None:
    array = (llama_cpp.llama_token * len(tokens))(*tokens)
    if llama_cpp.llama_decode(ctx, llama_cpp.llama_batch_get_one(array, len(tokens))) != 0:
        raise SystemExit("llama_cpp_bench: llama_decode failed")
    llama_cpp.llama_synchronize(ctx)


def fill(ctx, memory, tokens: list[int], n_batch: int) -> None:
    """Tokens into sequence 0 without their attention to each other across batches.

    Each batch is a sequence of its own at its final positions, then all become one. What the cache then holds is not
    what a prompt would leave there, but reading it costs the same, and a quantized cache of 16,384 tokens is full in
    seconds instead of ten minutes.
    """
    n_seq = 0
    for at in range(0, len(tokens), n_batch):
        n_seq += 1
        part = tokens[at : at + n_batch]
        batch = llama_cpp.llama_batch_init(len(part), 0, 1)
        batch.n_tokens = len(part)
        for i, token in enumerate(part):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, at + i, 1
            batch.seq_id[i][0] = n_seq
            batch.logits[i] = i + 1 == len(part)
        status = llama_cpp.llama_decode(ctx, batch)
        llama_cpp.llama_batch_free(batch)
        if status != 0:
            raise SystemExit("llama_cpp_bench: llama_decode failed")
    for seq in range(1, n_seq + 1):
        llama_cpp.llama_memory_seq_cp(memory, seq, 0, -1, -1)
        llama_cpp.llama_memory_seq_rm(memory, seq, -1, -1)
    if llama_cpp.llama_memory_seq_pos_max(memory, 0) != len(tokens) - 1:
        raise SystemExit("llama_cpp_bench: the cache was not filled")


def timed(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--kv", default="f16", choices=TYPES)
    parser.add_argument("--depth", type=int, default=0)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--decode", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=5)
    args = parser.parse_args()

    llama_cpp.llama_log_set(silent, ctypes.c_void_p())
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(args.model.encode(), llama_cpp.llama_model_default_params())
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = args.depth + max(args.prompt, args.decode)
    params.n_batch = max(args.prompt, 512)
    params.n_ubatch = 512
    params.n_threads = params.n_threads_batch = args.threads
    params.type_k = params.type_v = TYPES[args.kv]
    params.n_seq_max = 1 + -(-args.depth // params.n_batch)
    params.kv_unified = True  # one cache for all sequences, as for one
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
    ctx = model and llama_cpp.llama_init_from_model(model, params)
    if not ctx:
        raise SystemExit(f"llama_cpp_bench: llama.cpp cannot load {args.model}")
    memory = llama_cpp.llama_get_memory(ctx)
    n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    rng = random.Random(1)
    tokens = [rng.randrange(n_vocab) for _ in range(params.n_ctx)]
    if args.depth:
        fill(ctx, memory, tokens[: args.depth], params.n_batch)
    fresh = tokens[args.depth :]

    def run() -> tuple[float, float]:
        prefill_s = timed(lambda: decode(ctx, fresh[: args.prompt]))
        llama_cpp.llama_memory_seq_rm(memory, 0, args.depth, -1)
        decode_s = timed(lambda: [decode(ctx, [token]) for token in fresh[: args.decode]])
        llama_cpp.llama_memory_seq_rm(memory, 0, args.depth, -1)
        return args.prompt / prefill_s, args.decode / decode_s

    run()
    print("ready", flush=True)
    for _ in sys.stdin:
        runs = [run() for _ in range(args.repetitions)]
        print(json.dumps({"prefill": statistics.median(r[0] for r in runs), "decode": statistics.median(r[1] for r in runs)}), flush=True)


if __name__ == "__main__":
    main()
