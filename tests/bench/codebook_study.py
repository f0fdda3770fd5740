#!/usr/bin/env python3
"""Would uneven levels beat even ones? The cache's fidelity with codebooks, simulated in PyTorch.

    codebook_study.py --model MODEL --text FILE [--ctx 2048] [--windows 6] [--train-text FILE]

The engine has evenly spaced levels only, because they fold into integer products. Before another kind is built, this
says what it would gain: transformers runs the model chunk by chunk, and after each chunk its keys and values in the
cache are replaced by what 16 levels leave of them (`even` is the engine's default without outliers and sinks, so its
divergence can be held against livekv-perplexity's). Keys: 128 tokens of a channel share a range, values: a token's
channels, after a Walsh-Hadamard rotation. The table is the mean KL divergence from the model's own cache on the second
halves of the windows, and the paired difference from `even` with its standard error over windows.

- even: levels spaced evenly from the group's minimum to its maximum.
- normal-float: the 16 levels of QLoRA's NF4 (arXiv 2305.14314, appendix E) between minus and plus the absolute maximum.
- lloyd-max: the least-squares levels for a normal distribution (Max 1960), scaled by the group's standard deviation
  about its mean.
- fitted: the least-squares levels in the group's range for this very model, found by k-means on --train-text: what no
  calibration-free codebook can beat by much.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, DynamicCache, LlamaForCausalLM

CHUNK, GROUP, N_LEVELS = 512, 128, 16
NF4 = torch.tensor([-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0,
                    0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0])  # fmt: skip

# Maps groups, the last dimension, to what is left of them.
Quantizer = Callable[[torch.Tensor, str], torch.Tensor]


def nearest(x: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """Each value's nearest of the sorted levels."""
    return levels[torch.bucketize(x.contiguous(), (levels[1:] + levels[:-1]) / 2)]


def even(x: torch.Tensor, _: str) -> torch.Tensor:
    low = x.amin(-1, keepdim=True)
    scale = (x.amax(-1, keepdim=True) - low + 1e-6) / (N_LEVELS - 1)
    zero = torch.round(-low / scale)  # a whole number of steps, as in the engine
    return (torch.clamp(torch.round(x / scale) + zero, 0, N_LEVELS - 1) - zero) * scale


def normal_float(x: torch.Tensor, _: str) -> torch.Tensor:
    top = x.abs().amax(-1, keepdim=True) + 1e-6
    return nearest(x / top, NF4) * top


def least_squares_levels(samples: torch.Tensor) -> torch.Tensor:
    """Lloyd's algorithm in one dimension: sorted float32 [N_LEVELS]."""
    levels = torch.quantile(samples, (torch.arange(N_LEVELS) + 0.5) / N_LEVELS)
    for _ in range(200):
        place = torch.bucketize(samples, (levels[1:] + levels[:-1]) / 2)
        count = torch.bincount(place, minlength=N_LEVELS)
        mean = torch.bincount(place, samples, minlength=N_LEVELS) / count.clamp(min=1)
        levels = torch.where(count > 0, mean, levels)
    return levels


def lloyd_max() -> Quantizer:
    quantiles = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    levels = least_squares_levels(torch.special.ndtri(quantiles).float())

    def quantize(x: torch.Tensor, _: str) -> torch.Tensor:
        mean, deviation = x.mean(-1, keepdim=True), x.std(-1, correction=0, keepdim=True) + 1e-6
        return nearest((x - mean) / deviation, levels) * deviation + mean

    return quantize


def fitted(samples: dict[str, list[torch.Tensor]]) -> Quantizer:
    levels = {}
    for side, groups in samples.items():
        x = torch.cat([((g - g.amin(-1, keepdim=True)) / (g.amax(-1, keepdim=True) - g.amin(-1, keepdim=True) + 1e-6)).flatten() for g in groups])
        levels[side] = least_squares_levels(x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:1_000_000]])

    def quantize(x: torch.Tensor, side: str) -> torch.Tensor:
        low = x.amin(-1, keepdim=True)
        span = x.amax(-1, keepdim=True) - low + 1e-6
        return nearest((x - low) / span, levels[side]) * span + low

    return quantize


def rotate(x: torch.Tensor) -> torch.Tensor:
    """Orthonormal Walsh-Hadamard transform of the last dimension, a power of two; its own inverse."""
    n = x.shape[-1]
    step = 1
    while step < n:
        pairs = x.reshape(*x.shape[:-1], n // (2 * step), 2, step)
        x = torch.stack((pairs[..., 0, :] + pairs[..., 1, :], pairs[..., 0, :] - pairs[..., 1, :]), -2).reshape(x.shape)
        step *= 2
    return x / n**0.5


@torch.no_grad()
def logits_of(model: LlamaForCausalLM, window: torch.Tensor, quantize: Quantizer | None) -> torch.Tensor:
    """The second half's log-probabilities, float64 [ctx / 2 - 1, n_vocab], with each chunk quantized after its pass."""
    cache = DynamicCache(config=model.config)
    rows = []
    for start in range(0, len(window), CHUNK):
        rows.append(model(window[None, start : start + CHUNK], past_key_values=cache).logits[0])
        for layer in cache.layers if quantize else ():
            # [1, n_head_kv, n, head_dim]; keys: [..., head_dim, group of tokens]
            k = layer.keys[:, :, start:].transpose(-1, -2)
            groups = k.reshape(*k.shape[:-1], -1, min(GROUP, k.shape[-1]))
            layer.keys[:, :, start:] = quantize(groups, "k").reshape(k.shape).transpose(-1, -2)
            layer.values[:, :, start:] = rotate(quantize(rotate(layer.values[:, :, start:]), "v"))
    return torch.log_softmax(torch.cat(rows)[len(window) // 2 : -1].double(), -1)


def windows_of(tokenizer, path: Path, ctx: int, n: int) -> list[torch.Tensor]:
    ids = tokenizer(path.read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"]
    windows = [torch.tensor([tokenizer.bos_token_id, *ids[i * ctx : (i + 1) * ctx - 1]]) for i in range(n)]
    return [w for w in windows if len(w) == ctx]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face folder, or a GGUF file")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--train-text", type=Path, help="another text, for the fitted levels")
    parser.add_argument("--ctx", type=int, default=2048, help="tokens a window, a multiple of 512")
    parser.add_argument("--windows", type=int, default=6)
    args = parser.parse_args()
    where = {"gguf_file": args.model.name} if args.model.is_file() else {}
    folder = args.model.parent if where else args.model
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, **where).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, **where)
    settings: dict[str, Quantizer] = {"even": even, "normal-float": normal_float, "lloyd-max": lloyd_max()}
    if args.train_text:
        samples: dict[str, list[torch.Tensor]] = {"k": [], "v": []}

        def collect(x: torch.Tensor, side: str) -> torch.Tensor:
            samples[side].append(x.clone())
            return x

        for window in windows_of(tokenizer, args.train_text, args.ctx, 2):
            logits_of(model, window, collect)
        settings["fitted"] = fitted(samples)

    kld: dict[str, list[float]] = {name: [] for name in settings}
    for window in windows_of(tokenizer, args.text, args.ctx, args.windows):
        exact = logits_of(model, window, None)
        for name, quantize in settings.items():
            other = logits_of(model, window, quantize)
            kld[name].append(float((exact.exp() * (exact - other)).sum(-1).mean()))
    print("| levels | KLD | difference from even |\n|---|---:|---:|")
    for name, values in kld.items():
        difference = np.array(values) - np.array(kld["even"])
        error = difference.std(ddof=1) / np.sqrt(len(difference))
        print(f"| {name} | {np.mean(values):.5f} | {difference.mean():+.5f} +- {error:.5f} |", flush=True)


if __name__ == "__main__":
    main()
