"""The scalar reference of policy guided against the golden vectors of golden_policies, from C++ and from Python."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict

import numpy as np
import pytest
from test_golden import close
from test_golden_policies import cases, load

EXACT = ("positions", "label", "protected", "kept", "bits_assigned", "bits", "k_codes", "v_codes")
NEAR = ("attention_hat", "layer_weight", "position_bias", "relevance", "score")
OF_ATTENTION = ("attention", "attention_low", "attention_high")  # what comes of q and k: 1e-5 of the largest

FIELDS = {
    "alpha": "alpha", "beta": "beta", "gamma": "gamma", "theta_h": "theta_h", "theta_m": "theta_m",
    "early_layer_ratio": "early_ratio", "middle_layer_ratio": "middle_ratio", "later_layer_ratio": "later_ratio",
    "guide": "guide", "guide_tokens": "guide_tokens", "propagate": "propagate", "budget": "budget",
    "protect": "protect", "sink_tokens": "sink_tokens", "keep_last": "keep_last", "key_axis": "key_axis",
    "min_class": "min_class",
}  # fmt: skip


def rows(golden: dict, config: dict, layer: int) -> list[tuple]:
    """q, k, v, positions and the chunk's length before earlier layers dropped any, for each chunk of a layer."""
    chunks = []
    for t, n in enumerate(config["chunk_lengths"]):
        positions = golden[f"l{layer}_c{t}_positions"]
        x = (np.ascontiguousarray(golden[f"l{layer}_{name}"][:, positions], np.float32) for name in "qkv")
        chunks.append((*x, positions.tolist(), n))
    return chunks


def compare(chunk: dict, golden: dict, prefix: str) -> None:
    """Every array of the case is compared with the chunk's of its name, and there is no other."""
    expected = {name.removeprefix(prefix): x for name, x in golden.items() if name.startswith(prefix)}
    coded = np.isin(expected["bits"], (0, 16), invert=True).any()
    assert set(chunk) - set(expected) <= (set() if coded else {"k_low", "k_scale", "v_low", "v_scale"})
    for name, x in expected.items():
        actual = np.reshape(chunk[name], x.shape)
        if name in EXACT:
            np.testing.assert_array_equal(actual, x, err_msg=name)
        elif name in OF_ATTENTION:
            np.testing.assert_allclose(actual, x, rtol=0, atol=1e-5 * np.abs(expected["attention"]).max())
        elif name in NEAR:
            np.testing.assert_allclose(actual, x, rtol=1e-5, atol=1e-6)
        elif name.endswith("reconstruction"):
            np.testing.assert_allclose(actual, x, rtol=1e-6, atol=1e-6 * np.abs(x).max())
        else:
            close(actual, x)


def decided_by(tools, golden: dict, config: dict, layer: int, **more) -> list[dict]:
    """What livekv-guide says of each chunk of a layer."""
    chunks = rows(golden, config, layer)
    request = {"method": config, "layer": layer, "n_layer": config["n_layer"],
               "n_prompt": sum(config["chunk_lengths"]), "n_head": config["n_head"],
               "n_head_kv": config["n_head_kv"], "head_dim": config["head_dim"],
               "chunks": [{"positions": positions, "n": n} for *_, positions, n in chunks], **more}  # fmt: skip
    stdin = json.dumps(request).encode() + b"\n" + b"".join(x.tobytes() for c in chunks for x in c[:3])
    done = subprocess.run([tools.bin_dir / "livekv-guide"], input=stdin, capture_output=True, check=True)
    decided = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(decided) == len(chunks)
    return decided


@pytest.mark.parametrize("case", cases("guided"))
def test_guided_reference_reproduces_the_golden_vectors(tools, case):
    golden, config = load(case)
    for layer in config["layers"]:
        for t, chunk in enumerate(decided_by(tools, golden, config, layer)):
            compare(chunk, golden, f"l{layer}_c{t}_")


@pytest.mark.parametrize("held", ["high", "exact"])
@pytest.mark.parametrize("case", cases("guided_last"))
def test_the_engine_reproduces_the_golden_vectors_of_a_guide_at_the_end(tools, case, held):
    """With high bits of 16 earlier chunks are exact until the prompt's end, as in the vectors, and so is everything. With
    8 the same tokens are kept, but keys were rounded before the guide looked at them: where a token's score is as near
    to a threshold, its level, and whether so many others are enough for a level, may differ."""
    golden, config = load(case)
    if held == "exact":
        config["high_bits"] = 16
    alike = []
    for layer in config["layers"]:
        for t, chunk in enumerate(decided_by(tools, golden, config, layer, engine=True)):
            expected = golden[f"l{layer}_c{t}_bits"]
            bits = np.where(expected == 8, config["high_bits"], expected)
            same = np.asarray(chunk["bits"]) == bits
            assert same.all() or held == "high"
            np.testing.assert_array_equal(np.asarray(chunk["bits"]) > 0, bits > 0)
            alike.extend(same)
            exact = held == "exact" or t + 1 == len(config["chunk_lengths"])
            for name in ("k_reconstruction", "v_reconstruction"):
                x = golden[f"l{layer}_c{t}_{name}"].copy()
                actual = np.reshape(chunk[name], x.shape)
                x[:, (bits == 16) | ~same] = actual[:, (bits == 16) | ~same] = 0  # sinks are not in blocks
                if exact:
                    np.testing.assert_allclose(actual, x, rtol=0, atol=2e-3 * np.abs(x).max())
                else:
                    assert ((actual - x) ** 2).mean() <= 0.05 * (x**2).mean()
    assert np.mean(alike) > 0.9


@pytest.mark.parametrize("case", cases("guided"))
def test_guided_layers_over_arrays_reproduce_the_golden_vectors(livekv, case):
    golden, config = load(case)
    n_prompt = sum(config["chunk_lengths"])
    level_bits = (config["high_bits"], config["medium_bits"], config["low_bits"])
    method = livekv.kv.GuidedMethod(level_bits=level_bits, **{ours: config[name] for name, ours in FIELDS.items()})
    layers = []
    for index in config["layers"]:
        layer = livekv.kv.GuidedLayer(method, layer=index, n_layer=config["n_layer"], n_prompt=n_prompt)
        decided = [chunk for row in rows(golden, config, index) for chunk in layer.add(*row)]
        assert len(decided) == len(config["chunk_lengths"])
        for t, chunk in enumerate(decided):
            fields = {field: getattr(chunk, field) for field in asdict(chunk)}
            for name in ("k_low", "k_scale"):
                if isinstance(fields[name], dict):
                    fields |= {f"{name}_{bits}": x for bits, x in fields.pop(name).items()}
            compare(fields, golden, f"l{index}_c{t}_")
        layers.append(decided)
    expected = dict(config["statistics"])
    going_on = [sum(len(c.kept) for c in chunks) for chunks in layers]
    if config["propagate"] == "layers":
        assert going_on == expected["tokens_going_on"]
    del expected["tokens_going_on"]
    found = livekv.kv.guided_statistics(layers, n_prompt)
    assert found.pop("precision_distribution") == pytest.approx(expected.pop("precision_distribution"), rel=1e-12)
    assert found == pytest.approx(expected, rel=1e-12)


def one_layer(livekv, **fields):
    return livekv.kv.GuidedLayer(livekv.kv.GuidedMethod(**fields), layer=0, n_layer=1, n_prompt=8)


@pytest.mark.parametrize(("fields", "said"), [
    ({"theta_m": 0.8}, "theta_m: 0.8 is more than theta-h, 0.7"),
    ({"alpha": 1.5}, "alpha: 1.5 is not in 0..1"),
    ({"level_bits": (4, 8, 2)}, "level_bits: 8 is more than 4 of the level above"),
    ({"level_bits": (8, 0, 0)}, "level_bits: 0 is not one of 16, 8, 5, 4, 3, 2; the last may be 0"),
    ({"level_bits": (8, 4, 1)}, "level_bits: 1 is not one of 16, 8, 5, 4, 3, 2; the last may be 0"),
    ({"middle_ratio": 0.9}, "middle_ratio: 0.9 is more than the 0.8 of earlier layers"),
    ({"later_ratio": 0.0}, "later_ratio: 0 is not in (0, 1]"),
    ({"budget": "bits"}, "budget: bits are counted with propagate cache only"),
    ({"guide_tokens": 9}, "guide-tokens: 9 are more than the prompt's 8"),
    ({"keep_last": -1}, "keep_last: -1 is not a whole number, 0 or more"),
    ({"guide": "middle"}, "guide: there is no 'middle'"),
])  # fmt: skip
def test_methods_that_contradict_themselves_are_refused(livekv, fields, said):
    with pytest.raises(livekv.Error) as refused:
        one_layer(livekv, **fields)
    assert str(refused.value) == said


def test_a_layer_is_given_what_it_can_read(livekv):
    rng = np.random.default_rng(5)
    q, k = (rng.standard_normal((n, 4, 8)).astype(np.float32) for n in (2, 1))
    layer = one_layer(livekv)
    with pytest.raises(livekv.Error, match="positions do not rise, or are beyond the prompt's 8 tokens"):
        layer.add(q, k, k, [0, 1, 2, 8])
    with pytest.raises(livekv.Error, match="there are 3 positions of 4 tokens"):
        layer.add(q, k, k, [0, 1, 2])
    with pytest.raises(livekv.Error, match="q, k and v are not of as many tokens"):
        layer.add(q, k, k[:, :3].copy(), [0, 1, 2, 3])
    with pytest.raises(livekv.Error, match="a chunk of 3 tokens does not let 4 through"):
        layer.add(q, k, k, None, 3)
    with pytest.raises(livekv.Error, match="is not a finite number"):
        layer.add(q, np.full_like(k, np.nan), k)
    assert len(layer.add(q, k, k)) == 1  # nothing of these changed it


def test_z_scores_are_of_the_tokens_so_far(livekv):
    rng = np.random.default_rng(6)
    layer = one_layer(livekv, guide_norm="zscore", propagate="off", alpha=1.0, beta=0.0, gamma=0.0)
    seen = []
    for _ in range(2):
        q, k = (rng.standard_normal((n, 4, 8)).astype(np.float32) for n in (2, 1))
        (chunk,) = layer.add(q, k, k)
        seen.extend(chunk.attention)
        np.testing.assert_allclose(chunk.attention_hat, (chunk.attention - np.mean(seen)) / np.std(seen), rtol=1e-5)


def test_without_range_a_code_is_0(livekv):
    q = k = np.zeros((1, 8, 8), np.float32)
    (chunk,) = one_layer(livekv, propagate="off", protect=False).add(q, k, k)
    assert not chunk.k_codes.any() and not chunk.v_codes.any() and not chunk.k_reconstruction.any()
