"""The scalar reference of policy kivi against the golden vectors of golden_policies, from C++ and from Python."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest
from test_golden import close
from test_golden_policies import cases, load

FIELDS = ("codes", "scale", "low", "reconstruction")


def quantized(config: dict, side: str, after: str = "") -> int:
    name = {"k": "keys", "v": "values"}[side]
    return config[f"n_{name}_quantized{after}"]


def compare(made: dict, golden: dict, side: str) -> None:
    for name in FIELDS:
        expected = golden[f"{side}_{name}"]
        actual = np.reshape(made[name], expected.shape)
        if name == "codes":
            np.testing.assert_array_equal(actual, expected)
        elif name == "reconstruction":  # a sum of two, which may be small beside either
            np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
        else:
            close(actual, expected)


@pytest.mark.parametrize("side", ["k", "v"])
@pytest.mark.parametrize("case", cases("kivi"))
def test_kivi_reference_reproduces_the_golden_vectors(tools, case, side):
    golden, config = load(case)
    n = quantized(config, side)
    x = np.ascontiguousarray(golden[side][:, :n], np.float32)
    request = {"method": config, "keys": side == "k", "n_head_kv": config["n_head_kv"], "head_dim": config["head_dim"],
               "lengths": [n]}  # fmt: skip
    stdin = json.dumps(request).encode() + b"\n" + x.tobytes()
    done = subprocess.run([tools.bin_dir / "livekv-seal"], input=stdin, capture_output=True, check=True)
    heads = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(heads) == config["n_head_kv"]
    compare({name: [head[name] for head in heads] for name in FIELDS}, golden, side)


@pytest.mark.parametrize("side", ["k", "v"])
@pytest.mark.parametrize("case", cases("kivi"))
def test_kivi_streams_over_arrays_reproduce_the_golden_vectors(livekv, case, side):
    """The prompt at once, then a token at a time: what leaves the window, and when."""
    golden, config = load(case)
    assert config["group_size"] == 32
    options = livekv.KVOptions(policy="kivi", kv_bits=config["bits"], residual=config["residual_length"])
    stream = livekv.kv.KeyStream(options) if side == "k" else livekv.kv.ValueStream(options)
    x = golden[side].astype(np.float32)
    n_prompt = config["n_prompt"]
    parts = [stream.seal(np.ascontiguousarray(x[:, :n_prompt]))]
    assert parts[0].codes.shape[1] == quantized(config, side, "_after_prompt")
    for t in range(n_prompt, n_prompt + config["n_decode"]):
        parts.append(stream.seal(np.ascontiguousarray(x[:, t : t + 1])))
    made = {name: np.concatenate([getattr(part, name) for part in parts], axis=1) for name in FIELDS}
    assert made["codes"].shape[1] == quantized(config, side)
    compare(made, golden, side)
