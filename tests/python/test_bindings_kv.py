"""Session.kv_dump and livekv.kv: the cache as arrays, and the reference method on the golden vectors."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from test_golden import CASES, close

SPECS = ["livekv:chunk-size=64:warmup-chunks=1", "livekv:chunk-size=64:warmup-chunks=3:rotate=kv:kv-bits=5,3:outlier-ratio=0.05",
         "reference:chunk-size=64:v-outlier-ratio=0.05", "livekv:chunk-size=64:scale-method=ema_minmax:kv-bits=8:v-outlier-ratio=0.02",
         "livekv:chunk-size=64:bypass-layers=1:bypass-type=f16:zero-point=off"]  # fmt: skip


def hadamard(x: np.ndarray, run: int) -> np.ndarray:
    """The last axis in runs of `run`, each times the orthonormal Walsh-Hadamard matrix: its own inverse."""
    if run < 2:
        return x
    h = np.ones((1, 1))
    while len(h) < run:
        h = np.block([[h, h], [h, -h]])
    return (x.reshape(*x.shape[:-1], -1, run) @ h / np.sqrt(run)).reshape(x.shape)


@pytest.mark.parametrize("spec", SPECS)
def test_the_arrays_of_a_layer_fit_together(livekv, model, tokens, spec):
    options = livekv.KVOptions.parse(spec)
    session = model.session(400, kv=options)
    session.prefill(tokens)
    kv = livekv.kv
    n_outliers = 0  # with those that blocks keep, as zeros, in the place of sinks
    n_values = 0
    for layer in range(model.n_layer):
        dump = session.kv_dump(layer)
        for side in "kv":
            d = {name[2:]: array for name, array in dump.items() if name.startswith(f"{side}_")}
            shape = (model.n_head_kv, len(tokens), model.head_dim)
            assert d["stored"].shape == d["reconstruction"].shape == d["codes"].shape == shape
            assert d["kind"].shape == d["group"].shape == (len(tokens),)
            sealed = d["kind"] == kv.SEALED
            np.testing.assert_array_equal(d["group"] >= 0, sealed)
            expected = np.where(sealed[None, :, None], 0, d["stored"])
            scale, zero = d["scale"], d["zero"]
            assert scale.shape == zero.shape
            if side == "k":
                per_entry = scale[:, d["group"][sealed], :], zero[:, d["group"][sealed], :]
            else:
                per_entry = scale[:, d["group"][sealed], None], zero[:, d["group"][sealed], None]
            expected[:, sealed] = (d["codes"][:, sealed] - per_entry[1]).astype(np.float32) * per_entry[0]
            if side == "k":
                expected[:, sealed] += d["minimum"][:, d["group"][sealed], :]
            head, token, channel = d["outlier_index"].T
            assert sealed[token].all()
            expected[head, token, channel] = d["outlier_value"]
            np.testing.assert_array_equal(expected, d["stored"])
            np.testing.assert_allclose(d["reconstruction"], hadamard(d["stored"], int(d["rotation"])), atol=1e-4)
            if d["rotation"] == 0:
                np.testing.assert_array_equal(d["reconstruction"], d["stored"])
            np.testing.assert_array_equal(d["tail"], d["stored"][:, d["kind"] == kv.TAIL])
            assert d["tail"].shape[1] == (0 if not options.seal_decode else len(tokens) % 64)
            seals = d["bits"] > 0
            assert d["sinks"].shape[1] == (4 if seals else 0)
            if seals:
                width = d["width"][:, d["group"][sealed], :] if side == "k" else d["bits"]
                top = 2 ** np.asarray(width, int)
                symmetric = not options.zero_point and options.scale_method != "ema_minmax"
                codes = d["codes"][:, sealed]
                assert (codes >= (-top // 2 if symmetric else 0)).all()
                assert (codes < (top // 2 if symmetric else top)).all()
                assert len(np.unique(codes)) > 2 ** int(d["bits"]) // 4
                n_outliers += len(d["outlier_value"])
                n_values += int(sealed.sum() + d["sinks"].shape[1]) * model.n_head_kv * model.head_dim
    # Blocks have places for outliers among the sinks too, which hold zeros: they are counted, not shown.
    assert 0.9 * session.kv_stats().outlier_fraction <= n_outliers / n_values <= session.kv_stats().outlier_fraction


def test_the_cache_stands_for_what_f16_keeps_exactly(livekv, model, tokens):
    exact = model.session(400, kv=livekv.KVOptions(policy="f16"))
    exact.prefill(tokens[:64])
    reference = exact.kv_dump(0)
    assert set(reference) == {f"{s}_{n}" for s in "kv" for n in ("kind", "rotation", "stored", "reconstruction")}
    assert (reference["k_kind"] == livekv.kv.DENSE).all()
    # One chunk, which attends to itself exactly: layer 0 sees the same keys and values whatever the cache.
    for spec, worst in [("q8_0", 0.01), ("q4_0", 0.15), ("q4_0_rot", 0.15), ("livekv:chunk-size=64:warmup-chunks=0", 0.1),
                        ("livekv:chunk-size=64:warmup-chunks=0:kv-bits=8:rotate=kv", 0.01)]:  # fmt: skip
        session = model.session(400, kv=livekv.KVOptions.parse(spec))
        session.prefill(tokens[:64])
        dump = session.kv_dump(0)
        for side in ("k_reconstruction", "v_reconstruction"):
            error = np.linalg.norm(dump[side] - reference[side]) / np.linalg.norm(reference[side])
            assert 0 < error < worst, (spec, side, error)
    assert model.session(64).kv_dump(0)["k_stored"].shape == (2, 0, 64)


def test_measured_noise_is_that_of_the_arrays(livekv, model, tokens):
    """--kv-error's signal to noise, anew from the exact keys and values of layer 0's one chunk."""
    options = livekv.KVOptions(chunk_size=64, warmup_chunks=0, sink_tokens=0, measure_error=True)
    session = model.session(64, kv=options)
    session.prefill(tokens[:64])
    exact = model.session(64, kv=livekv.KVOptions(policy="f16"))
    exact.prefill(tokens[:64])
    dump, reference = session.kv_dump(0), exact.kv_dump(0)
    stats = session.kv_stats()
    for side, snr in (("k", stats.snr_k[0]), ("v", stats.snr_v[0])):
        x = hadamard(reference[f"{side}_stored"].astype(np.float64), int(dump[f"{side}_rotation"]))
        noise = ((x - dump[f"{side}_stored"]) ** 2).sum()
        assert 10 * np.log10((x**2).sum() / noise) == pytest.approx(snr, abs=0.02)  # f16 rounding, twice


def test_a_dump_is_a_copy_and_shows_trimmed_and_forked_sequences(livekv, model, tokens):
    session = model.session(400, kv=livekv.KVOptions.parse(SPECS[0]))
    session.prefill(tokens[:200])
    before = session.kv_dump(2)
    fork = session.fork()
    session.prefill(tokens[200:])
    session.trim(100)
    after, forked = session.kv_dump(2), fork.kv_dump(2)
    assert after["k_stored"].shape == (2, 100, 64)
    for name, array in before.items():
        np.testing.assert_array_equal(forked[name], array)
    fresh = model.session(400, kv=livekv.KVOptions.parse(SPECS[0]))
    fresh.prefill(tokens[:100])
    for name, array in fresh.kv_dump(2).items():  # as if the rest had never been there
        np.testing.assert_array_equal(after[name], array)


def golden_options(livekv, config: dict):
    method = {"ema_absmax": "ema_absmax", "ema_minmax": "ema_minmax"}[config["stats_method"]]
    isolates = config["use_outlier_isolation"]
    return livekv.KVOptions(
        kv_bits=config["bits"], ema_alpha=config["ema_alpha"], clip_factor=config["clip_factor_n"], scale_method=method,
        outlier_ratio=config["outlier_ratio"] if isolates else 0.0, v_outlier_ratio="same", zero_point=False,
        sink_tokens=config["sink_tokens"] if isolates else 0, chunk_size=config["chunk_size"],
        warmup_chunks=config["n_warmup"] if config["use_warmup"] else 0)  # fmt: skip


@pytest.mark.parametrize("kind", ["k", "v"])
@pytest.mark.parametrize("case", CASES)
def test_streams_reproduce_the_golden_vectors(livekv, shared, case, kind):
    with np.load(shared / "golden" / f"{case}.npz") as file:
        golden = dict(file)
    config = json.loads(bytes(golden["config"]))
    options = golden_options(livekv, config)
    stream = livekv.kv.KeyStream(options) if kind == "k" else livekv.kv.ValueStream(options)
    compared = 0
    for t in range(len(config["chunk_lengths"])):
        x = np.ascontiguousarray(golden[f"{kind}{t}"], np.float32)
        sealed = stream.seal(x)
        recorded = {name.removeprefix(f"{kind}{t}_"): golden[name] for name in golden if name.startswith(f"{kind}{t}_")}
        assert sealed.warmup == bool(recorded["warmup"])
        np.testing.assert_array_equal(sealed.outlier_index, recorded["outlier_index"])
        # A sink that was also taken as an outlier, because its token is all zeros by then, is recorded as zero.
        index = sealed.outlier_index
        n_sinks = options.sink_tokens if t == 0 else 0
        is_sink = index // x.shape[2] % x.shape[1] < n_sinks
        np.testing.assert_array_equal(sealed.outlier_value[~is_sink], recorded["outlier_value"][~is_sink])
        np.testing.assert_array_equal(sealed.outlier_value[is_sink], x.reshape(-1)[index[is_sink]])
        for name in recorded.keys() - {"warmup", "outlier_index", "outlier_value"}:
            actual = getattr(sealed, name)
            assert actual.shape == recorded[name].shape, name
            if name in ("codes", "zero"):
                np.testing.assert_array_equal(actual, recorded[name])
            else:
                close(actual, recorded[name])
            compared += 1
        if sealed.warmup:
            np.testing.assert_array_equal(sealed.reconstruction, x)
            assert sealed.codes is None and sealed.scale is None
    assert compared >= len(config["chunk_lengths"])


def test_a_stream_follows_its_options(livekv):
    rng = np.random.default_rng(3)
    chunk = rng.standard_normal((2, 128, 64)).astype(np.float32)
    errors = []
    for bits in (2, 3, 4, 5, 8):
        sealed = livekv.kv.KeyStream(livekv.KVOptions(kv_bits=bits, warmup_chunks=0, key_group=32)).seal(chunk)
        assert sealed.scale.shape == sealed.zero.shape == (2, 4, 64) and sealed.codes.max() < 2**bits
        errors.append(np.square(sealed.reconstruction - chunk).mean())
    assert all(a > 3 * b for a, b in itertools.pairwise(errors))


def test_chunks_that_are_none_are_errors(livekv):
    good = np.ones((2, 8, 16), np.float32)
    bad = good.copy()
    bad[1, 2, 3] = np.nan
    for chunk, message in [
        (good.astype(np.float64), "must be float32, not float64"),
        (good[0], r"must be \[n_head_kv, n, head_dim\]"),
        (good[:, :0], "none of them 0"),
        (good[:, ::2], "contiguous"),
        (np.asfortranarray(good), "contiguous"),
        (good.tolist(), "must be a numpy array, not list"),
        (bad, r"value at \[1, 2, 3\] is not a finite number"),
        (good[:1], "this stream has 2 heads of 16 channels, the chunk 1 of 16"),
        (np.ascontiguousarray(good[:, :, :8]), "the chunk 2 of 8"),
    ]:
        stream = livekv.kv.ValueStream()
        stream.seal(good)
        with pytest.raises(livekv.Error, match=message):
            stream.seal(chunk)
    with pytest.raises(livekv.Error, match="only the policies livekv, kvstream, guided, kivi, fastkv, finch and kvquant seal"):
        livekv.kv.KeyStream(livekv.KVOptions(policy="f16"))
