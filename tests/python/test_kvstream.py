"""--kv kvstream in the engine: what its cache holds, and that sequences are saved, forked, trimmed and batched alike."""

from __future__ import annotations

import numpy as np
import pytest

from sequences import check_one_batch, go_on, kl
from test_golden import close

RAW = "kvstream:chunk-size=64:key-bits-normal=16:value-bits-normal=16:key-bits-sink-outlier=16:value-bits-sink-outlier=16"
SPECS = ["kvstream:chunk-size=64", "kvstream:chunk-size=32:pre-rope=off:key-bits-normal=3:value-quant-groups=8:sink-tokens=0",
         "kvstream:chunk-size=32:key-bits-sink-outlier=16:value-bits-sink-outlier=16:outlier-threshold-abs=2:stat-reset=2",
         "kvstream:chunk-size=32:value-bits-normal=16:value-bits-sink-outlier=16"]  # fmt: skip


@pytest.fixture(params=SPECS)
def kv(livekv, request):
    return livekv.KVOptions.parse(request.param)


def test_layer_0_holds_what_the_reference_says(livekv, model, tokens):
    """Layer 0's keys and values are the same whatever the cache: the raw ones go through the streams."""
    for spec in SPECS:
        options = livekv.KVOptions.parse(spec)
        size = options.chunk_size
        session = model.session(400, kv=options)
        raw = model.session(400, kv=livekv.KVOptions.parse(RAW).replace(pre_rope=options.pre_rope))
        for one in (session, raw):
            one.prefill(tokens)
        dump, exact = session.kv_dump(0), raw.kv_dump(0)
        n_flagged = 0
        for side, stream in (("k", livekv.kv.KeyStream(options)), ("v", livekv.kv.ValueStream(options))):
            n_sinks = options.sink_tokens
            for first in range(0, len(tokens) - size + 1, size):
                rows = np.ascontiguousarray(exact[f"{side}_stored"][:, first : first + size])
                expected = stream.seal(rows)
                stored = dump[f"{side}_stored"][:, first : first + size]
                n_flagged += int(expected.outlier.sum())
                # Of f16 scales; subnormal ones are seen as absolute errors.
                np.testing.assert_allclose(stored, expected.reconstruction, rtol=2e-3, atol=1e-5)
                if first == 0:
                    assert (dump[f"{side}_kind"][:n_sinks] == livekv.kv.SINK).all()
                is_sealed = dump[f"{side}_kind"][first : first + size] == livekv.kv.SEALED
                if dump[f"{side}_bits"] > 0:
                    assert is_sealed.sum() == size - (n_sinks if first == 0 else 0)
                    group = dump[f"{side}_group"][first : first + size][is_sealed]
                    coded = dump[f"{side}_width"][:, group] < 16  # others are kept as they are
                    codes = dump[f"{side}_codes"][:, first : first + size][:, is_sealed]
                    np.testing.assert_array_equal(codes, np.where(coded, expected.codes[:, is_sealed], 0))
            tail = len(tokens) // size * size
            np.testing.assert_array_equal(dump[f"{side}_stored"][:, tail:], exact[f"{side}_stored"][:, tail:])
        assert (n_flagged > 0) == (options.outlier_threshold_abs != "off"), spec


def test_keys_before_rope_in_16_bits_are_the_f16_cache(livekv, model, tokens):
    caches = {"f16": "f16", "unturned": RAW, "turned": RAW + ":pre-rope=off"}
    logits = {}
    for name, spec in caches.items():
        session = model.session(400, kv=livekv.KVOptions.parse(spec))
        session.prefill(tokens[:200])
        logits[name] = go_on(session, tokens[200:300])
    for name in ("unturned", "turned"):  # products of rows in 8 bits make 2e-4 of any rounding of keys
        assert kl(logits[name], logits["f16"]) < 6e-4, name


def test_it_costs_little_and_saves_memory(livekv, model, tokens):
    exact = model.session(400, kv=livekv.KVOptions(policy="f16"))
    exact.prefill(tokens[:200])
    reference = go_on(exact, tokens[200:300])
    lost = []
    for bits in (8, 4, 2):
        kv = livekv.KVOptions(policy="kvstream", chunk_size=32, key_bits_normal=bits, value_bits_normal=bits,
                              stream_range="own")  # fmt: skip
        session = model.session(400, kv=kv)
        session.prefill(tokens[:200])
        lost.append(kl(go_on(session, tokens[200:300]), reference))
        session.reset()
        session.prefill(tokens[:288])
        stats = session.kv_stats()
        # A short chunk's block has 16 bits of scale a channel, widths, a header and padding.
        assert bits < stats.bits_per_value < bits + 2.2, stats
    assert lost[0] < 1e-3 and lost[0] < lost[1] < lost[2], lost


def test_an_open_chunk_is_raw_rows_and_nothing_else(livekv, model, tokens):
    """No queries wait in it: they are for livekv's widths of channels."""
    tails = []
    for spec in ("kvstream:chunk-size=64", "livekv:chunk-size=64:key-alloc=off", "livekv:chunk-size=64"):
        session = model.session(400, kv=livekv.KVOptions.parse(spec))
        session.prefill(tokens[:32])
        tails.append(session.kv_stats().bytes.tail)
    assert tails[0] == tails[1] < tails[2]


def test_no_decompressed_copy_is_kept(livekv, model, tokens):
    session = model.session(400, kv=livekv.KVOptions(policy="kvstream", chunk_size=32))
    session.prefill(tokens[:96])
    before = session.kv_stats().workspace_bytes
    session.prefill(tokens[96:288])
    a_copy = 192 * model.n_layer * model.n_head_kv * model.head_dim * 2 * 4
    assert session.kv_stats().workspace_bytes - before < a_copy / 4


def test_statistics_are_those_of_the_streams(livekv, model, tokens):
    """The engine's, of all layers, against the reference's of layer 0; all of it where the thresholds flag something."""
    for more in ("", ":outlier-threshold-relative=1.2:ema-decay=0.5:value-quant-groups=16:stat-reset=3"):
        options = livekv.KVOptions.parse("kvstream:chunk-size=32" + more)
        raw = model.session(400, kv=livekv.KVOptions.parse(RAW))
        raw.prefill(tokens)
        session = model.session(400, kv=options)
        assert session.kv_stats().stream["layers"][0]["updates"] == 0
        session.prefill(tokens)
        stats, exact = session.kv_stats().stream, raw.kv_dump(0)
        sealed = {}
        for side, stream in (("k", livekv.kv.KeyStream(options)), ("v", livekv.kv.ValueStream(options))):
            chunks = [exact[f"{side}_stored"][:, at : at + 32] for at in range(0, 288, 32)]
            sealed[side] = [stream.seal(np.ascontiguousarray(chunk)) for chunk in chunks]
        layer = stats["layers"][0]
        assert layer["updates"] == 9
        for name, side in (("key", "k"), ("value", "v")):
            mu, flags = sealed[side][-1].absmax, np.stack([chunk.outlier for chunk in sealed[side]])
            assert (flags.any() and not flags[:3:3].any()) == (more != "")
            assert layer[f"{name}_outlier_ratio"] == pytest.approx(flags.mean(), rel=1e-9)
            assert layer[f"{name}_absmax_mean"] == pytest.approx(mu.mean(), rel=1e-6)
            assert layer[f"{name}_absmax_max"] == pytest.approx(mu.max(), rel=1e-6)
        of_layer_0 = livekv.kv.stream_statistics(sealed["k"], sealed["v"])
        assert set(stats) == {*of_layer_0, "layers"}
        if not more:  # no layer flags anything: the same bits in all
            for name in ("avg_key_bits", "avg_value_bits", "overall_memory_savings", "total_outliers"):
                assert stats[name] == pytest.approx(of_layer_0[name], rel=1e-9), name
        assert stats["total_channels"] == of_layer_0["total_channels"] * model.n_layer
        assert stats["avg_key_bits"] >= 4 and stats["compression_ratio_key"] == 16 / stats["avg_key_bits"]
    assert model.session(400).kv_stats().stream is None


def test_a_saved_session_goes_on_bit_for_bit(livekv, model, tokens, kv, tmp_path):
    session = model.session(n_ctx=400, kv=kv)
    session.prefill(tokens[:75])
    go_on(session, tokens[75:80])
    session.save(tmp_path / "s.kv")
    loaded = model.session(n_ctx=400)
    loaded.load(tmp_path / "s.kv")
    fork = session.fork()
    expected = go_on(session, tokens[80:170])
    np.testing.assert_array_equal(go_on(loaded, tokens[80:170]), expected)
    np.testing.assert_array_equal(go_on(fork, tokens[80:170]), expected)
    for one in (loaded, fork):
        for layer in range(model.n_layer):
            for name, array in session.kv_dump(layer).items():
                np.testing.assert_array_equal(one.kv_dump(layer)[name], array, err_msg=name)


def test_a_trimmed_session_goes_on_as_a_new_one(model, tokens, kv):
    session, fresh = (model.session(n_ctx=400, kv=kv) for _ in range(2))
    session.prefill(tokens[:230])
    session.trim(150)
    fresh.prefill(tokens[:150])
    for layer in range(model.n_layer):
        for name, array in fresh.kv_dump(layer).items():
            np.testing.assert_array_equal(session.kv_dump(layer)[name], array, err_msg=name)
    np.testing.assert_array_equal(go_on(session, tokens[150:220]), go_on(fresh, tokens[150:220]))


def test_caches_of_all_kinds_go_in_one_batch(livekv, model, tokens):
    check_one_batch(livekv, model, tokens, [*SPECS, "livekv:chunk-size=64", "f16"])


def test_measured_noise_is_that_of_the_arrays(livekv, model, tokens):
    options = livekv.KVOptions(policy="kvstream", chunk_size=64, sink_tokens=0, measure_error=True)
    session, raw = model.session(64, kv=options), model.session(64, kv=livekv.KVOptions.parse(RAW + ":sink-tokens=0"))
    for one in (session, raw):
        one.prefill(tokens[:64])
    dump, exact, stats = session.kv_dump(0), raw.kv_dump(0), session.kv_stats()
    for side, snr in (("k", stats.snr_k[0]), ("v", stats.snr_v[0])):
        x = exact[f"{side}_stored"].astype(float)
        noise = ((x - dump[f"{side}_stored"]) ** 2).sum()
        assert 10 * np.log10((x**2).sum() / noise) == pytest.approx(snr, abs=0.01)


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (("--key-bits-sink-outlier", "3"), "--key-bits-sink-outlier: 3 is less than key-bits-normal, 4"),
        (("--value-bits-normal", "16"), "--value-bits-sink-outlier: 8 is less than value-bits-normal, 16"),
        (("--key-bits-normal", "1"), "'1' is not one of 2, 3, 4, 5, 8, 16"),
        (("--outlier-threshold-relative", "10"), "can never flag a channel with ema-decay 0.9: it must be below 10"),
        (("--ema-decay", "1"), "--ema-decay"),
        (("--outlier-threshold-relative", "1"), "--outlier-threshold-relative"),
        (("--kv-bits", "4"), "--kv-bits is an option of --kv livekv, kivi, fastkv, kvquant, not of kvstream"),
        (("--preset", "small"), "--preset: 'small' is none of the cache kvstream"),
    ],
)
def test_wrong_options_are_refused_in_one_line(tools, story, flags, why):
    done = tools.run("livekv-cli", "-m", story, "-p", "x", "--kv", "kvstream", *flags, check=False)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1 and why in done.stderr, done.stderr


def test_options_of_one_policy_are_refused_by_the_others(livekv, tools, story):
    done = tools.run("livekv-cli", "-m", story, "-p", "x", "--ema-decay", "0.8", check=False)
    assert done.returncode == 2 and done.stderr == "livekv-cli: --ema-decay is an option of --kv kvstream, not of livekv\n"
    with pytest.raises(livekv.Error, match="the cache livekv does not read it, kvstream does"):
        livekv.KVOptions(ema_decay=0.8)
    with pytest.raises(livekv.Error, match="rotate: the cache kvstream does not read it, livekv does"):
        livekv.KVOptions(policy="kvstream", rotate="none")
    done = tools.run("livekv-cli", "-m", story, "-p", "x", "--kv", "kvstream", "--value-quant-groups", "7", check=False)
    assert done.returncode in (1, 2) and "7 does not divide the model's head_dim, 64" in done.stderr
    assert done.stderr.count("\n") == 1 and done.stdout == ""


def test_the_reference_preset_is_the_published_range(livekv, tools, story, tmp_path):
    assert livekv.KVOptions.preset("reference", policy="kvstream") == livekv.KVOptions(policy="kvstream", stream_range="ema")
    assert livekv.KVOptions.preset("reference").stream_range == "cover"
    for order in (("--kv", "kvstream", "--preset", "reference"), ("--preset", "reference", "--kv", "kvstream")):
        tools.run("livekv-cli", "-m", story, "-p", "Once", "-n", "2", "--kv-save", tmp_path / "s.kv", *order)
        saved = (tmp_path / "s.kv").read_bytes()
        name = b"livekv.option.stream-range"
        assert saved[saved.index(name) + len(name) + 12 :].startswith(b"ema")  # behind the value's type and length


@pytest.mark.parametrize("n", [1, 3, 64, 65])
def test_short_prompts_work(livekv, model, tokens, n):
    for spec in SPECS:
        session = model.session(400, kv=livekv.KVOptions.parse(spec))
        session.prefill(tokens[:n])
        assert np.isfinite(go_on(session, tokens[n : n + 70])).all()


def test_streams_refuse_what_they_cannot_seal(livekv):
    options = livekv.KVOptions(policy="kvstream", value_quant_groups=3)
    with pytest.raises(livekv.Error, match="value_quant_groups: 3 does not divide the chunk's 8 channels"):
        livekv.kv.ValueStream(options).seal(np.ones((1, 4, 8), np.float32))
    keys = livekv.kv.KeyStream(options)
    keys.seal(np.ones((1, 4, 8), np.float32))
    with pytest.raises(livekv.Error, match="this stream has 1 heads of 8 channels, the chunk 2 of 8"):
        keys.seal(np.ones((2, 4, 8), np.float32))
    with pytest.raises(livekv.Error):
        keys.seal(np.full((1, 4, 8), np.nan, np.float32))
    with pytest.raises(livekv.Error, match="no chunks"):
        livekv.kv.stream_statistics([], [])
    zeros = keys.seal(np.zeros((1, 4, 8), np.float32))
    close(zeros.reconstruction, np.zeros((1, 4, 8)))


def test_the_prefix_cache_shares_chunks_with_the_same_result(livekv, story, tokens, kv):
    model = livekv.Model(str(story), prefix_cache_bytes=1 << 26)
    first, second = (model.session(n_ctx=400, kv=kv) for _ in range(2))
    first.prefill(tokens[:200])
    known = second.reuse(tokens[:200])
    assert known >= 128 and known % kv.chunk_size == 0
    second.prefill(tokens[known:200])
    np.testing.assert_array_equal(first.last_logits, second.last_logits)
    np.testing.assert_array_equal(go_on(first, tokens[200:240]), go_on(second, tokens[200:240]))


def test_detection_saves_a_channel_that_bursts(livekv):
    """One chunk's channel grows sixfold: flagged, it has the chunk's own range and 8 bits; else it is cut at mu."""
    rng = np.random.default_rng(4)
    chunks = [rng.normal(size=(1, 64, 32)).astype(np.float32) for _ in range(6)]
    chunks[4][:, :, 9] *= 6
    lost = {}
    for detection in (True, False):
        kv = livekv.KVOptions(policy="kvstream", outlier_detection=detection)
        stream = livekv.kv.KeyStream(kv)
        sealed = [stream.seal(chunk) for chunk in chunks]
        assert [list(np.flatnonzero(chunk.outlier)) for chunk in sealed] == [[]] * 4 + [[9] if detection else []] + [[]]
        lost[detection] = float(((sealed[4].reconstruction - chunks[4])[..., 9] ** 2).sum())
    assert lost[True] < lost[False] / 100
