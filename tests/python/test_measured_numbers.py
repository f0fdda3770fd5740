"""What livekv-bench and livekv-cli say of contexts that are no whole number of chunks."""

from __future__ import annotations

import json
import subprocess


def run(tools, name, *arguments):
    command = [str(word) for word in (tools.bin_dir / name, *arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_repeated_prompt_fills_any_depth(tools, story):
    for depth in (256, 257, 300, 319, 320):
        done = run(tools, "livekv-bench", "-m", story, "-t", 1, "--kv", "livekv", "--chunk-size", 64, "--warmup-chunks", 1,
                   "--repeat-prompt", 192, "-d", depth, "-p", 8, "-n", 2, "-r", 1, "-o", "json")  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)[0]["depth"] == depth


def test_savings_are_told_from_a_whole_chunk_on(tools, story):
    def cache_line(n_tokens):
        # One token is generated and not in the cache.
        text = "a " * n_tokens
        n = len(json.loads(run(tools, "livekv-cli", "-m", story, "-p", text, "--tokenize").stdout))
        said = run(tools, "livekv-cli", "-m", story, "-p", text, "-n", 1, "-t", 1, "--chunk-size", 64, "--kv", "f16").stderr
        return n, next(line for line in said.splitlines() if line.startswith("cache "))

    n, short = cache_line(5)
    assert n < 64 and short.endswith(f" MiB for {n} tokens") and "saved" not in short
    n, long = cache_line(100)
    assert n >= 64 and "saved" in long and "bits a value" in long
