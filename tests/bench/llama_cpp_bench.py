#!/usr/bin/env python3
"""What livekv-bench measures, measured in llama.cpp through its C API (the llama-cpp-python package, `make dev`).

Like llama-bench: flash attention on. The Python around the C calls costs microseconds a call.
"""

from __future__ import annotations

import argparse

import llama_cpp

from llama_cpp_calls import KV_TYPES, batch_of, context_params, decode, load_model
from speed_loop import serve


class Context:
    def __init__(self, args: argparse.Namespace, n_ctx: int):
        params = context_params(args.kv, n_ctx, args.threads)
        self.n_batch = params.n_batch = max(args.prompt, 512)
        params.n_ubatch = 512
        params.n_seq_max = 1 + -(-args.depth // params.n_batch)
        params.kv_unified = True  # one cache for all sequences, as for one
        model = load_model(args.model)
        self.context = model and llama_cpp.llama_init_from_model(model, params)
        if not self.context:
            raise SystemExit(f"llama_cpp_bench: llama.cpp cannot load {args.model}")
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))

    def process(self, tokens: list[int]) -> None:
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        decode(self.context, llama_cpp.llama_batch_get_one(array, len(tokens)))
        llama_cpp.llama_synchronize(self.context)

    def trim(self, n: int) -> None:
        llama_cpp.llama_memory_seq_rm(self.memory, 0, n, -1)

    def fill(self, tokens: list[int]) -> None:
        """Tokens into sequence 0 without their attention to each other across batches.

        Each batch is a sequence of its own at its final positions, then all become one. What the cache then holds is
        not what a prompt would leave there, but reading it costs the same, and a quantized cache of 16,384 tokens is
        full in seconds instead of ten minutes.
        """
        starts = range(0, len(tokens), self.n_batch)
        for seq, at in enumerate(starts, start=1):
            part = tokens[at : at + self.n_batch]
            with batch_of(part, at, seq, first_wanted=at + len(part) - 1) as batch:
                decode(self.context, batch)
        for seq in range(1, len(starts) + 1):
            llama_cpp.llama_memory_seq_cp(self.memory, seq, 0, -1, -1)
            llama_cpp.llama_memory_seq_rm(self.memory, seq, -1, -1)
        if llama_cpp.llama_memory_seq_pos_max(self.memory, 0) != len(tokens) - 1:
            raise SystemExit("llama_cpp_bench: the cache was not filled")


if __name__ == "__main__":
    serve(__doc__, Context, default="f16", choices=KV_TYPES)
