"""How far each way of storing the cache moves predictions: KL divergence from the f16 cache, paired.

    fidelity_study.py --build build --model NAME=FILE.gguf ... --text FILE [--ctx 2048] [--windows 20] --out DIR [SETTING ...]

Runs livekv-perplexity once for every model and setting (finished runs are kept in DIR and not repeated), then prints a
table a model: measured bits a value, mean KLD, and its difference from the first setting with the paired standard error
over windows (tokens of a window are not independent). A setting is NAME=OPTIONS; without any, the study of
docs/fidelity.md.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np

PUBLISHED = "--scale-method ema_absmax --key-group chunk --zero-point off --rotate none --outlier-ratio 0.01 --v-outlier-ratio same"
OWN = "--scale-method range --zero-point on --key-group 128 --rotate none --outlier-ratio 0.01 --v-outlier-ratio same"
LEAN = "--scale-method ema_clipped --zero-point on --key-group 128 --rotate v --outlier-ratio 0.005 --v-outlier-ratio 0"
FLAT = "--kv livekv --key-alloc off --bypass-layers 0 --sink-tokens 4 --warmup-chunks 2 "
WIDTHS = "--kv livekv --scale-method ema_clipped --key-group 128 --rotate v --outlier-ratio 0 --sink-tokens 4 "

STUDY = {
    "q4_0 rotated": "--kv q4_0_rot",
    "q4_0": "--kv q4_0",
    "q8_0": "--kv q8_0",
    # what key scales are made of
    "published": FLAT + PUBLISHED,
    "published, own range": FLAT + PUBLISHED + " --scale-method range",
    "published, ema_clipped": FLAT + PUBLISHED + " --scale-method ema_clipped",
    "published, ema_minmax": FLAT + PUBLISHED + " --scale-method ema_minmax",
    "group 128": FLAT + PUBLISHED + " --scale-method range --key-group 128",
    "zero, chunk": FLAT + OWN + " --key-group chunk",
    "zero, 256": FLAT + OWN + " --key-group 256",
    "zero, 128": FLAT + OWN,
    "zero, 64": FLAT + OWN + " --key-group 64",
    "zero, 32": FLAT + OWN + " --key-group 32",
    "zero, 128, ema_clipped N=4": FLAT + OWN + " --scale-method ema_clipped",
    "zero, 128, ema_clipped N=2": FLAT + OWN + " --scale-method ema_clipped --clip-factor 2",
    "zero, 128, ema_clipped N=1": FLAT + OWN + " --scale-method ema_clipped --clip-factor 1",
    # outliers
    "zero, 128, outliers 0": FLAT + OWN + " --outlier-ratio 0",
    "zero, 128, outliers 0.5 %": FLAT + OWN + " --outlier-ratio 0.005",
    "zero, 128, outliers 2 %": FLAT + OWN + " --outlier-ratio 0.02",
    "zero, 64, outliers 0": FLAT + OWN + " --key-group 64 --outlier-ratio 0",
    "zero, 64, outliers 0.5 %": FLAT + OWN + " --key-group 64 --outlier-ratio 0.005",
    "zero, 32, outliers 0": FLAT + OWN + " --key-group 32 --outlier-ratio 0",
    # rotation
    "zero, 128, rotate k": FLAT + OWN + " --rotate k",
    "zero, 128, rotate v": FLAT + OWN + " --rotate v",
    "zero, 128, rotate kv": FLAT + OWN + " --rotate kv",
    "zero, 128, rotate v, outliers 0": FLAT + OWN + " --rotate v --outlier-ratio 0",
    "zero, 64, rotate v, outliers 0": FLAT + OWN + " --rotate v --outlier-ratio 0 --key-group 64",
    "zero, 128, rotate kv, outliers 0": FLAT + OWN + " --rotate kv --outlier-ratio 0",
    "zero, 64, rotate kv, outliers 0": FLAT + OWN + " --rotate kv --outlier-ratio 0 --key-group 64",
    # error-minimal scales
    # sinks, warm-up, chunk, bypass
    "zero, 128, sinks 0": FLAT + OWN + " --sink-tokens 0",
    "zero, 128, sinks 16": FLAT + OWN + " --sink-tokens 16",
    "zero, 128, warm-up 0": FLAT + OWN + " --warmup-chunks 0",
    "zero, 128, warm-up kept": FLAT + OWN + " --warmup-keep on",
    "zero, 128, chunk 256": FLAT + OWN + " --chunk-size 256",
    "zero, 128, chunk 128": FLAT + OWN + " --chunk-size 128",
    "zero, 128, bypass 1": FLAT + OWN + " --bypass-layers 1",
    "zero, 128, bypass 1 f16": FLAT + OWN + " --bypass-layers 1 --bypass-type f16",
    # values rotated instead of outliers of theirs
    "lean": FLAT + LEAN,
    "lean, not rotated": FLAT + LEAN + " --rotate none",
    "lean, key outliers 1 %": FLAT + LEAN + " --outlier-ratio 0.01",
    "lean, key outliers 0": FLAT + LEAN + " --outlier-ratio 0",
    "lean, 64": FLAT + LEAN + " --key-group 64",
    "lean, 64, key outliers 0": FLAT + LEAN + " --key-group 64 --outlier-ratio 0",
    "lean, own range": FLAT + LEAN + " --scale-method range",
    "lean, sinks 0": FLAT + LEAN + " --sink-tokens 0",
    "lean, sinks 16": FLAT + LEAN + " --sink-tokens 16",
    "lean, warm-up 0": FLAT + LEAN + " --warmup-chunks 0",
    "lean, bypass 1": FLAT + LEAN + " --bypass-layers 1",
    "lean, bypass 1 f16": FLAT + LEAN + " --bypass-layers 1 --bypass-type f16",
    "lean, 4,3 bits": FLAT + LEAN + " --kv-bits 4,3",
    "lean, 3 bits": FLAT + LEAN + " --kv-bits 3",
    "quality (then)": FLAT + LEAN + " --kv-bits 5,4 --key-group 64 --outlier-ratio 0.01",
    # widths by channel: the presets
    "widths, 4 bits (default)": WIDTHS + "--key-alloc block",
    "widths, 5,4 bits (quality)": WIDTHS + "--key-alloc block --kv-bits 5,4",
    "widths, 3 bits (small)": WIDTHS + "--key-alloc block --kv-bits 3",
    "widths, 2.25,2 bits (tiny)": WIDTHS + "--key-alloc block --kv-bits 2 --key-quarters 1",
    "widths, 3 bits, no feedback": WIDTHS + "--key-alloc block --kv-bits 3 --key-feedback off",
    # bits
    "zero, 128, 4,3 bits": FLAT + OWN + " --kv-bits 4,3",
    "zero, 64, 4,3 bits": FLAT + OWN + " --kv-bits 4,3 --key-group 64",
    "zero, 128, 3,4 bits": FLAT + OWN + " --kv-bits 3,4",
    "zero, 64, 3 bits": FLAT + OWN + " --kv-bits 3 --key-group 64",
    "zero, 64, 2 bits": FLAT + OWN + " --kv-bits 2 --key-group 64",
    "zero, 64, 5,4 bits": FLAT + OWN + " --kv-bits 5,4 --key-group 64",
    "crude: 2 bits, no outliers": FLAT + PUBLISHED + " --kv-bits 2 --outlier-ratio 0 --sink-tokens 0",
}


def run(args: argparse.Namespace, model: str, setting: str, options: str) -> dict:
    name = "".join(c if c.isalnum() else "_" for c in f"{model} {setting}")
    summary = args.out / f"{name}.json"
    tokens = args.out / f"{name}.f64"
    if not summary.exists():
        command = [f"{args.build}/bin/livekv-perplexity", "-m", args.models[model], "-f", args.text, "-c", args.ctx,
                   "--windows", args.windows, "-t", args.threads, "--kl-base", "f16", "--kl-tokens", tokens, "-o", "json",
                   *shlex.split(options)]  # fmt: skip
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{model}, {setting}: {done.stderr.strip().splitlines()[-1]}")
        summary.write_text(done.stdout)
    result = json.loads(summary.read_text())
    result["windows"] = np.fromfile(tokens).reshape(result["n_windows"], -1).mean(axis=1)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build")
    parser.add_argument("--model", action="append", required=True, metavar="NAME=FILE")
    parser.add_argument("--text", required=True)
    parser.add_argument("--ctx", type=int, default=2048)
    parser.add_argument("--windows", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("settings", nargs="*", metavar="NAME=OPTIONS")
    args = parser.parse_args()
    args.models = dict(m.split("=", 1) for m in args.model)
    args.out.mkdir(parents=True, exist_ok=True)
    study = dict(s.split("=", 1) for s in args.settings) or STUDY
    for model in args.models:
        print(f"\n{model}, {args.ctx} tokens a window\n")
        print("| cache | bits | KLD | difference from the first | same top |")
        print("|---|---:|---:|---:|---:|")
        first = None
        for setting, options in study.items():
            r = run(args, model, setting, options)
            first = r["windows"] if first is None else first
            difference = r["windows"] - first
            error = difference.std(ddof=1) / np.sqrt(len(difference)) if len(difference) > 1 else float("nan")
            print(f"| {setting} | {r['bits_per_value']:.2f} | {r['kl_mean']:.5f} | {difference.mean():+.5f} +- {error:.5f} | "
                  f"{100 * r['same_top']:.1f} % |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
