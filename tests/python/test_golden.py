"""The scalar reference of the livekv method (engine/kv/kv_stats, kv_quant) against the golden vectors."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest

CASES = ["default_hd128", "default_hd64", "alpha02_clip4", "minmax", "no_warmup_no_outliers", "ratio05_chunk256",
         "short_prompt", "bits8"]  # fmt: skip
FLOAT_TOLERANCE = 1e-6  # relative; the recorded sums ran in another order


def seal(tools, golden, config: dict, kind: str) -> list[dict]:
    """Per chunk: every field as an array over kv heads, [n_head_kv, ...]."""
    n_chunks = len(config["chunk_lengths"])
    chunks = [np.ascontiguousarray(golden[f"{kind}{t}"], np.float32) for t in range(n_chunks)]
    n_head_kv, _, head_dim = chunks[0].shape
    request = {"method": config, "keys": kind == "k", "n_head_kv": n_head_kv, "head_dim": head_dim,
               "lengths": config["chunk_lengths"]}  # fmt: skip
    stdin = json.dumps(request).encode() + b"\n" + b"".join(chunk.tobytes() for chunk in chunks)
    done = subprocess.run([tools.bin_dir / "livekv-seal"], input=stdin, capture_output=True, check=True)
    heads = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(heads) == n_chunks * n_head_kv
    return [
        {field: [head[field] for head in heads[t * n_head_kv : (t + 1) * n_head_kv]] for field in heads[0]}
        for t in range(n_chunks)
    ]


def close(actual, expected) -> None:
    np.testing.assert_allclose(np.asarray(actual, np.float64), expected, rtol=FLOAT_TOLERANCE, atol=1e-12)


@pytest.mark.parametrize("kind", ["k", "v"])
@pytest.mark.parametrize("case", CASES)
def test_reference_reproduces_the_golden_vectors(shared, tools, case, kind):
    golden = np.load(shared / "golden" / f"{case}.npz")
    config = json.loads(bytes(golden["config"]))
    for t, sealed in enumerate(seal(tools, golden, config, kind)):
        x = golden[f"{kind}{t}"]
        n_head_kv, n, d = x.shape
        n_sinks = min(config["sink_tokens"], n) if t == 0 and config["use_outlier_isolation"] else 0
        is_sink = np.zeros((n_head_kv, n, d), bool)
        is_sink[:, :n_sinks] = True

        # Outliers: the recorded list holds the sinks too. Where a sink's token is all zeros, which of its entries were
        # "the largest" is anyone's choice, so values are compared outside the sinks.
        stored = np.zeros((n_head_kv, n * d), bool)
        values = np.zeros((n_head_kv, n * d), np.float32)
        for h in range(n_head_kv):
            stored[h, sealed["outlier_index"][h]] = True
            values[h, sealed["outlier_index"][h]] = sealed["outlier_value"][h]
        stored |= is_sink.reshape(n_head_kv, -1)
        np.testing.assert_array_equal(np.flatnonzero(stored), golden[f"{kind}{t}_outlier_index"])
        expected_values = np.zeros(n_head_kv * n * d, np.float32)
        expected_values[golden[f"{kind}{t}_outlier_index"]] = golden[f"{kind}{t}_outlier_value"]
        outside = ~is_sink.reshape(-1)
        np.testing.assert_array_equal(values.reshape(-1)[outside], expected_values[outside])

        if kind == "k" and config["stats_method"] == "ema_minmax":
            close(sealed["high"], golden[f"k{t}_max"][:, 0])
            close(sealed["low"], golden[f"k{t}_min"][:, 0])
        elif kind == "k":
            close(sealed["high"], golden[f"k{t}_absmax"][:, 0])
        if golden[f"{kind}{t}_warmup"]:
            continue
        np.testing.assert_array_equal(np.reshape(sealed["codes"], x.shape), golden[f"{kind}{t}_codes"])
        close(np.reshape(sealed["scale"], golden[f"{kind}{t}_scale"].shape), golden[f"{kind}{t}_scale"])
        if config["stats_method"] == "ema_minmax":
            zero = np.reshape(sealed["zero"], golden[f"{kind}{t}_zero"].shape)
            np.testing.assert_array_equal(zero, golden[f"{kind}{t}_zero"])
        close(np.reshape(sealed["reconstruction"], x.shape), golden[f"{kind}{t}_reconstruction"])
