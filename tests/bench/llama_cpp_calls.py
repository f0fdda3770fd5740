"""llama.cpp's C API (the llama-cpp-python package, `make dev`) as the benches beside this file call it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import llama_cpp

KV_TYPES = {"f16": 1, "q8_0": 8, "q4_0": 2}  # enum ggml_type


@llama_cpp.llama_log_callback
def _silent(level, text, user_data):
    pass


def load_model(path: str) -> Any:
    """A model, without llama.cpp's log; falsy when it cannot be loaded."""
    llama_cpp.llama_log_set(_silent, ctypes.c_void_p())
    llama_cpp.llama_backend_init()
    return llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())


def context_params(kv: str, n_ctx: int, n_threads: int) -> Any:
    """Flash attention on, keys and values of one type."""
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = n_ctx
    params.n_threads = params.n_threads_batch = n_threads
    params.type_k = params.type_v = KV_TYPES[kv]
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
    return params


@contextmanager
def batch_of(tokens: list[int], first: int, seq: int, first_wanted: int) -> Iterator[Any]:
    """A batch of consecutive tokens of one sequence from position `first`; logits from position `first_wanted` on."""
    batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
    try:
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, first + i, 1
            batch.seq_id[i][0] = seq
            batch.logits[i] = first + i >= first_wanted
        yield batch
    finally:
        llama_cpp.llama_batch_free(batch)


def decode(context: Any, batch: Any) -> None:
    if llama_cpp.llama_decode(context, batch) != 0:
        raise SystemExit("llama.cpp: llama_decode failed")
