"""PyTorch's scaled_dot_product_attention over an f16 cache, the shapes of bench_kernels; one JSON object a line."""

from __future__ import annotations

import json
import statistics
import sys

try:
    import torch
except ImportError:
    print("bench_torch: no torch")
    sys.exit(77)

N_HEAD, N_HEAD_KV, HEAD_DIM = 32, 8, 128


def seconds(work, n_runs: int) -> float:
    times = []
    for i in range(n_runs + 3):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        stop.record()
        torch.cuda.synchronize()
        if i >= 3:
            times.append(1e-3 * start.elapsed_time(stop))
    return statistics.median(times)


def bench(n_new: int, n: int, n_layers: int, n_runs: int) -> None:
    def make(heads: int, tokens: int) -> torch.Tensor:
        return torch.randn(1, heads, tokens, HEAD_DIM, device="cuda", dtype=torch.float16)

    layers = [(make(N_HEAD, n_new), make(N_HEAD_KV, n), make(N_HEAD_KV, n)) for _ in range(n_layers)]

    def all_layers() -> None:
        for q, k, v in layers:
            torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)

    s = seconds(all_layers, n_runs) / n_layers
    size = 2 * n * N_HEAD_KV * HEAD_DIM * 2
    name = "torch decode" if n_new == 1 else "torch prefill"
    operations = 4 * N_HEAD * HEAD_DIM * n_new * n
    row = {"bench": name, "shape": "f16", "tokens": n, "us": round(1e6 * s, 2), "bytes": size}
    print(json.dumps(row | {"GB_s": round(1e-9 * size / s, 1), "TFLOPS": round(1e-12 * operations / s, 1)}), flush=True)


if not torch.cuda.is_available():
    print("bench_torch: no GPU")
    sys.exit(77)
for tokens in (32768, 131072):
    bench(1, tokens, 8, 20)
for tokens in (4096, 32768, 131072):
    bench(512, tokens, 1, 5)
