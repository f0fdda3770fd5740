"""The scalar references of the policies beside livekv against the golden vectors of golden_policies."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from test_golden import close, seal

FOLDER = Path(os.environ.get("LIVEKV_GOLDEN_POLICIES", Path(__file__).parents[3] / "shared" / "golden_policies"))


def cases(policy: str) -> list:
    """A parameter a file of the policy, or one that is skipped."""
    found = sorted(path.stem for path in FOLDER.glob(f"{policy}*.npz"))
    return found or [pytest.param("", marks=pytest.mark.skip(reason=f"no {policy} vectors in {FOLDER}"))]


def load(case: str) -> tuple[dict, dict]:
    """The arrays of a case, and its config."""
    golden = dict(np.load(FOLDER / f"{case}.npz"))
    return golden, json.loads(bytes(golden["config"]))


@pytest.mark.parametrize("side", ["k", "v"])
@pytest.mark.parametrize("case", cases("kvstream"))
def test_kvstream_reference_reproduces_the_golden_vectors(tools, case, side):
    golden, config = load(case)
    for t, chunk in enumerate(seal(tools, golden, config, side)):
        of_chunk = {name.removeprefix(f"{side}{t}_"): x for name, x in golden.items() if name.startswith(f"{side}{t}_")}
        shape = golden[f"{side}{t}"].shape
        np.testing.assert_array_equal(np.reshape(chunk["codes"], shape), of_chunk["codes"])
        np.testing.assert_array_equal(np.reshape(chunk["bits"], shape), of_chunk["bits"])
        np.testing.assert_array_equal(np.asarray(chunk["outlier"], bool), of_chunk["outlier"])
        assert np.mean(chunk["bits"]) == pytest.approx(float(of_chunk["avg_bits"]), rel=1e-12)
        for name in ("chunk_absmax", "absmax", "scale_normal", "scale_high"):
            if name in of_chunk:  # there is no scale where entries have 16 bits
                close(chunk[name], of_chunk[name])
        close(np.reshape(chunk["reconstruction"], shape), of_chunk["reconstruction"])


FIELDS = {
    "attention_sink_size": "sink_tokens", "ema_decay": "ema_decay", "key_bits_normal": "key_bits_normal",
    "value_bits_normal": "value_bits_normal", "key_bits_sink_outlier": "key_bits_sink_outlier",
    "value_bits_sink_outlier": "value_bits_sink_outlier", "outlier_threshold_relative": "outlier_threshold_relative",
    "outlier_threshold_abs": "outlier_threshold_abs", "outlier_detection_enabled": "outlier_detection",
    "value_quant_groups": "value_quant_groups", "scale_range": "stream_range", "quantize_pre_rope": "pre_rope",
    "periodic_stat_reset": "stat_reset",
}  # fmt: skip


@pytest.mark.parametrize("case", cases("kvstream"))
def test_kvstream_streams_over_arrays_reproduce_the_golden_vectors(livekv, case):
    golden, config = load(case)
    values = {field: config[name] for name, field in FIELDS.items()}
    if values["outlier_threshold_abs"] is None:
        values["outlier_threshold_abs"] = "off"
    options = livekv.KVOptions(policy="kvstream", **values)
    streams = {"k": livekv.kv.KeyStream(options), "v": livekv.kv.ValueStream(options)}
    sealed = {"k": [], "v": []}
    for t in range(len(config["chunk_lengths"])):
        for side, stream in streams.items():
            chunk = stream.seal(golden[f"{side}{t}"].astype(np.float32))
            sealed[side].append(chunk)
            for name in ("codes", "bits", "outlier"):
                np.testing.assert_array_equal(getattr(chunk, name), golden[f"{side}{t}_{name}"])
            for name in ("chunk_absmax", "absmax", "scale_normal", "scale_high", "reconstruction"):
                assert (getattr(chunk, name) is None) == (f"{side}{t}_{name}" not in golden), name
                if getattr(chunk, name) is not None:
                    close(getattr(chunk, name), golden[f"{side}{t}_{name}"])
            assert chunk.avg_bits == pytest.approx(float(golden[f"{side}{t}_avg_bits"]), rel=1e-12)
    assert livekv.kv.stream_statistics(sealed["k"], sealed["v"]) == pytest.approx(config["statistics"], rel=1e-12)
