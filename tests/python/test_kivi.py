"""--kv kivi in the engine: what its cache holds, and that sequences are saved, forked, trimmed, shared and batched alike."""

from __future__ import annotations

import numpy as np
import pytest

from sequences import check_one_batch, go_on, kl, same_dumps
from test_golden import close

SPECS = ["kivi:residual=32", "kivi:residual=64:kv-bits=2", "kivi:residual=32:kv-bits=2,4", "kivi"]
RAW = "kvstream:pre-rope=off:key-bits-normal=16:value-bits-normal=16:key-bits-sink-outlier=16:value-bits-sink-outlier=16"


@pytest.fixture(params=SPECS)
def kv(livekv, request):
    return livekv.KVOptions.parse(request.param)


def streams(livekv, options):
    return ("k", livekv.kv.KeyStream(options)), ("v", livekv.kv.ValueStream(options))


@pytest.mark.parametrize("n", [31, 64, 65, 127, 128, 129, 250, 300])
def test_layer_0_holds_what_the_reference_says(livekv, model, tokens, n):
    """Layer 0's keys and values are the same whatever the cache: the raw ones go through the streams. Keys are quantized
    as far as the publication has them, values of as many tokens less."""
    raw = model.session(400, kv=livekv.KVOptions.parse(RAW))
    raw.prefill(tokens[:n])
    exact = raw.kv_dump(0)
    for spec in SPECS:
        options = livekv.KVOptions.parse(spec)
        size = options.residual
        session = model.session(400, kv=options)
        session.prefill(tokens[:n])
        dump = session.kv_dump(0)
        chunked = n // size * size
        for side, stream in streams(livekv, options):
            end = chunked if side == "k" else max(0, chunked - size)
            expected = stream.seal(np.ascontiguousarray(exact[f"{side}_stored"][:, :n]))
            kind = dump[f"{side}_kind"]
            assert (kind[:end] == livekv.kv.SEALED).all() and (kind[end:chunked] == livekv.kv.EXACT).all(), spec
            assert (kind[chunked:] == livekv.kv.TAIL).all(), spec
            np.testing.assert_array_equal(dump[f"{side}_codes"][:, :end], expected.codes[:, :end])
            np.testing.assert_array_equal(dump[f"{side}_stored"][:, end:], exact[f"{side}_stored"][:, end:])
            stored = dump[f"{side}_stored"][:, :end]
            size_of_x = np.abs(exact[f"{side}_stored"]).max()  # scales and minima are rounded to f16
            np.testing.assert_allclose(stored, expected.reconstruction[:, :end], rtol=0, atol=2e-3 * size_of_x)
            n_grids = end if side == "v" else end // 32
            if end > 0:
                for name, array in (("scale", expected.scale), ("minimum", expected.low)):
                    np.testing.assert_allclose(dump[f"{side}_{name}"], array[:, :n_grids], rtol=1e-3, atol=1e-7)
                assert (dump[f"{side}_width"] == dump[f"{side}_bits"]).all()


def test_it_costs_little_and_saves_memory(livekv, model, tokens):
    exact = model.session(400, kv=livekv.KVOptions(policy="f16"))
    exact.prefill(tokens[:200])
    reference = go_on(exact, tokens[200:300])
    lost, bits = [], []
    for width in (4, 2):
        session = model.session(400, kv=livekv.KVOptions(policy="kivi", kv_bits=width, residual=32))
        session.prefill(tokens[:200])
        lost.append(kl(go_on(session, tokens[200:300]), reference))
        session.reset()
        session.prefill(tokens[:288])
        bits.append(session.kv_stats().bits_per_value)
    assert 0 < lost[0] < lost[1] / 5 and lost[0] < 0.01, lost
    # Keys of all chunks have fewer bits, values of all but the newest. Beside codes: scales, minima, order, padding.
    assert bits[0] - bits[1] == pytest.approx((2 + 2 * 8 / 9) / 2, abs=0.01) and bits[0] < 6.5, bits


def test_an_open_chunk_is_raw_rows_and_nothing_else(livekv, model, tokens):
    session, other = (model.session(400, kv=livekv.KVOptions.parse(spec)) for spec in ("kivi", "livekv:key-alloc=off"))
    for one in (session, other):
        one.prefill(tokens[:32])
    assert session.kv_stats().bytes.tail == other.kv_stats().bytes.tail == session.kv_stats().bytes.total


def test_no_decompressed_copy_is_kept(livekv, model, tokens):
    session = model.session(400, kv=livekv.KVOptions(policy="kivi", residual=32))
    session.prefill(tokens[:96])
    before = session.kv_stats().workspace_bytes
    session.prefill(tokens[96:288])
    a_copy = 192 * model.n_layer * model.n_head_kv * model.head_dim * 2 * 4
    assert session.kv_stats().workspace_bytes - before < a_copy / 4


def test_a_saved_session_goes_on_bit_for_bit(livekv, model, tokens, kv, tmp_path):
    session = model.session(n_ctx=400, kv=kv)
    session.prefill(tokens[:135])
    go_on(session, tokens[135:140])
    session.save(tmp_path / "s.kv")
    loaded = model.session(n_ctx=400)
    loaded.load(tmp_path / "s.kv")
    assert loaded.kv == kv
    fork = session.fork()
    expected = go_on(session, tokens[140:290])
    np.testing.assert_array_equal(go_on(loaded, tokens[140:290]), expected)
    np.testing.assert_array_equal(go_on(fork, tokens[140:290]), expected)
    for one in (loaded, fork):
        same_dumps(model, session, one)


@pytest.mark.parametrize("to", [1, 60, 128, 150, 229])
def test_a_trimmed_session_goes_on_as_a_new_one(model, tokens, kv, to):
    session, fresh = (model.session(n_ctx=400, kv=kv) for _ in range(2))
    session.prefill(tokens[:230])
    session.trim(to)
    fresh.prefill(tokens[:to])
    same_dumps(model, fresh, session)
    np.testing.assert_array_equal(go_on(session, tokens[to : to + 70]), go_on(fresh, tokens[to : to + 70]))


def test_a_repeated_run_gives_the_same_bits(model, tokens, kv):
    session, other = (model.session(n_ctx=400, kv=kv) for _ in range(2))
    first = [session.prefill(tokens[:200]).copy(), go_on(session, tokens[200:240])]
    session.reset()
    for one in (session, other):
        for before, again in zip(first, [one.prefill(tokens[:200]), go_on(one, tokens[200:240])], strict=True):
            np.testing.assert_array_equal(again, before)


def test_caches_of_all_kinds_go_in_one_batch(livekv, model, tokens):
    check_one_batch(livekv, model, tokens, [*SPECS, "kvstream:chunk-size=64", "livekv:chunk-size=64", "f16"])


def test_the_prefix_cache_shares_chunks_with_the_same_result(livekv, story, tokens, kv):
    """What a sequence takes over ends with exact values, whatever became of them where they were read."""
    model = livekv.Model(str(story), prefix_cache_bytes=1 << 26)
    first, second, third = (model.session(n_ctx=400, kv=kv) for _ in range(3))
    first.prefill(tokens[:290])
    for session, n in ((second, 290), (third, 200)):
        known = session.reuse(tokens[:n])
        assert known == (n - 1) // kv.residual * kv.residual
        session.prefill(tokens[known:n])
        fresh = livekv.Model(str(story)).session(n_ctx=400, kv=kv)
        fresh.prefill(tokens[:n])
        same_dumps(model, fresh, session)
        np.testing.assert_array_equal(fresh.last_logits, session.last_logits)
        np.testing.assert_array_equal(go_on(fresh, tokens[n : n + 40]), go_on(session, tokens[n : n + 40]))


def test_measured_noise_is_that_of_the_arrays(livekv, model, tokens):
    options = livekv.KVOptions(policy="kivi", residual=32, kv_bits=2, measure_error=True)
    session, raw = model.session(128, kv=options), model.session(128, kv=livekv.KVOptions.parse(RAW))
    for one in (session, raw):
        one.prefill(tokens[:128])
    dump, exact, stats = session.kv_dump(0), raw.kv_dump(0), session.kv_stats()
    for side, snr in (("k", stats.snr_k[0]), ("v", stats.snr_v[0])):
        sealed = dump[f"{side}_kind"] == livekv.kv.SEALED
        x = exact[f"{side}_stored"][:, sealed].astype(float)
        noise = ((x - dump[f"{side}_stored"][:, sealed]) ** 2).sum()
        assert 10 * np.log10((x**2).sum() / noise) == pytest.approx(snr, abs=0.01)


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (("--kv-bits", "3"), "--kv-bits: 3 is neither 2 nor 4, which the cache kivi has"),
        (("--kv-bits", "4,8"), "--kv-bits: 8 is neither 2 nor 4, which the cache kivi has"),
        (("--residual", "33"), "'33' is not a multiple of 32"),
        (("--residual", "0"), "'0' is not a whole number in 32..4096"),
        (("--chunk-size", "64"), "--chunk-size is an option of --kv livekv, kvstream, guided, fastkv, finch, kvquant, f16, q8_0, q4_0, q8_0_rot, q4_0_rot, "
                                 "not of kivi"),
        (("--sink-tokens", "4"), "--sink-tokens is an option of --kv livekv, kvstream, guided, not of kivi"),
        (("--rotate", "v"), "--rotate is an option of --kv livekv, not of kivi"),
        (("--ema-decay", "0.8"), "--ema-decay is an option of --kv kvstream, not of kivi"),
        (("--preset", "small"), "--preset is an option of --kv livekv, kvstream, guided, not of kivi"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused_in_one_line(tools, story, flags, why):
    done = tools.run("livekv-cli", "-m", story, "-p", "x", "--kv", "kivi", *flags, check=False)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1 and why in done.stderr, done.stderr


def test_options_of_kivi_are_refused_by_the_others(livekv, tools, story):
    done = tools.run("livekv-cli", "-m", story, "-p", "x", "--residual", "64", check=False)
    assert done.returncode == 2 and done.stderr == "livekv-cli: --residual is an option of --kv kivi, not of livekv\n"
    with pytest.raises(livekv.Error, match="residual: the cache kvstream does not read it, kivi does"):
        livekv.KVOptions(policy="kvstream", residual=64)
    with pytest.raises(livekv.Error, match="preset: the cache kivi does not read it"):
        livekv.KVOptions.preset("default", policy="kivi")
    with pytest.raises(livekv.Error, match="kv_bits: 5 is neither 2 nor 4"):
        livekv.KVOptions(policy="kivi", kv_bits=5)


@pytest.mark.parametrize("n", [1, 3, 64, 65])
def test_short_prompts_work(livekv, model, tokens, n):
    for spec in SPECS:
        session = model.session(400, kv=livekv.KVOptions.parse(spec))
        session.prefill(tokens[:n])
        assert np.isfinite(go_on(session, tokens[n : n + 70])).all()


def test_streams_refuse_what_they_cannot_seal(livekv):
    keys = livekv.kv.KeyStream(livekv.KVOptions(policy="kivi", residual=32))
    assert keys.seal(np.ones((1, 4, 8), np.float32)).codes.shape == (1, 0, 8)
    with pytest.raises(livekv.Error, match="this stream has 1 heads of 8 channels, the chunk 2 of 8"):
        keys.seal(np.ones((2, 4, 8), np.float32))
    with pytest.raises(livekv.Error, match="not a finite number"):
        keys.seal(np.full((1, 4, 8), np.nan, np.float32))
    with pytest.raises(livekv.Error, match="query_squares is for keys"):
        keys.seal(np.ones((1, 4, 8), np.float32), np.ones((1, 8), np.float32))
    zeros = keys.seal(np.zeros((1, 28, 8), np.float32))
    assert zeros.scale.shape == (1, 1, 8)
    close(zeros.reconstruction[:, 4:], np.zeros((1, 28, 8)))
    close(zeros.reconstruction[:, :4], np.ones((1, 4, 8)))
