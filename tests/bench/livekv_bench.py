#!/usr/bin/env python3
"""livekv's side of compare_llama_cpp.py: what llama_cpp_bench.py measures, measured through the livekv package.

Through Python as llama.cpp's is; a call costs microseconds.
"""

from __future__ import annotations

import argparse

import livekv
from speed_loop import serve


class Session:
    def __init__(self, args: argparse.Namespace, n_ctx: int):
        model = livekv.Model(args.model, n_threads=args.threads)
        self.n_vocab = model.n_vocab
        self.session = model.session(n_ctx=n_ctx, kv=livekv.KVOptions.parse(args.kv))
        self.fill = self.process = self.session.prefill
        self.trim = self.session.trim


if __name__ == "__main__":
    serve(__doc__, Session, default="livekv", help="a cache spec")
