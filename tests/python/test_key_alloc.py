"""key_alloc: sequences whose key channels have widths of their own are saved, forked, trimmed and shared bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from sequences import go_on

SPEC = "livekv:chunk-size=32:warmup-chunks={}:key-alloc=block:outlier-ratio=0:kv-bits=3:key-quarters=1:key-group=32"


@pytest.fixture(params=[(0, ""), (2, ""), (2, ":key-feedback=off")], ids=lambda p: f"warm-up {p[0]}{p[1]}")
def kv(livekv, request):
    warmup, more = request.param
    return livekv.KVOptions.parse(SPEC.format(warmup) + more)


def test_a_saved_session_goes_on_bit_for_bit(livekv, model, tokens, kv, tmp_path):
    session = model.session(n_ctx=400, kv=kv)
    session.prefill(tokens[:75])
    go_on(session, tokens[75:80])
    session.save(tmp_path / "s.kv")
    loaded = model.session(n_ctx=400, kv=kv)
    loaded.load(tmp_path / "s.kv")
    fork = session.fork()
    expected = go_on(session, tokens[80:170])
    np.testing.assert_array_equal(go_on(loaded, tokens[80:170]), expected)
    np.testing.assert_array_equal(go_on(fork, tokens[80:170]), expected)
    for one in (loaded, fork):
        for name, array in session.kv_dump(0).items():
            np.testing.assert_array_equal(one.kv_dump(0)[name], array, err_msg=name)


def test_what_was_trimmed_off_the_tail_leaves_no_trace(model, tokens, kv):
    session, other = (model.session(n_ctx=400, kv=kv) for _ in range(2))
    for one, more in ((session, tokens[200:210]), (other, [])):
        one.prefill(tokens[:70])
        go_on(one, tokens[70:75])
        if len(more):
            go_on(one, more)
            one.trim(75)
    np.testing.assert_array_equal(go_on(session, tokens[75:140]), go_on(other, tokens[75:140]))


def test_widths_differ_meet_their_mean_and_arrays_fit_together(model, tokens, kv):
    session = model.session(n_ctx=400, kv=kv)
    session.prefill(tokens[:200])
    seen = set()
    for layer in range(model.n_layer):
        dump = session.kv_dump(layer)
        width, group = dump["k_width"], dump["k_group"]
        n_quads = width.shape[2] // 4
        np.testing.assert_array_equal(width.sum(2) // 4, (n_quads * 13 + 2) // 4)
        seen |= set(np.unique(width).tolist())
        sealed = group >= 0
        assert sealed.sum() > 150
        at = group[sealed]
        levels = dump["k_minimum"][:, at] + (dump["k_codes"][:, sealed] - dump["k_zero"][:, at]) * dump["k_scale"][:, at]
        np.testing.assert_allclose(dump["k_stored"][:, sealed], levels, rtol=1e-6, atol=1e-7)
        assert (dump["k_codes"][:, sealed] < 2 ** width[:, at].astype(int)).all()
    assert len(seen) >= 4 and seen <= {0, 2, 3, 4, 5, 6}


def test_the_state_after_a_chunk_takes_what_a_token_takes_in_sixteen_bits(model, tokens, kv):
    session = model.session(n_ctx=400, kv=kv)
    session.prefill(tokens[:170])
    row = model.n_head_kv * model.head_dim
    assert session.kv_stats().bytes.statistics == 5 * model.n_layer * 2 * row * 2  # 5 chunks


def test_how_a_prompt_is_fed_does_not_matter_to_whole_chunks(model, tokens, kv):
    whole, split = (model.session(n_ctx=400, kv=kv) for _ in range(2))
    whole.prefill(tokens[:160])
    for i in range(0, 160, 32):
        split.eval(tokens[i : i + 32])
    np.testing.assert_array_equal(whole.last_logits, split.last_logits)


def test_feedback_rounds_otherwise_within_the_same_levels(livekv, model, tokens):
    one, other = (
        model.session(n_ctx=400, kv=livekv.KVOptions.parse(SPEC.format(0) + f":key-feedback={on}"))
        for on in ("off", "on")
    )
    for session in (one, other):
        session.prefill(tokens[:32])
    plain, fed = one.kv_dump(0), other.kv_dump(0)
    for name in ("k_width", "k_scale", "k_minimum", "v_codes"):
        np.testing.assert_array_equal(plain[name], fed[name], err_msg=name)
    moved = np.abs(fed["k_codes"] - plain["k_codes"])[:, plain["k_group"] >= 0]
    assert 0.005 < (moved > 0).mean() < 0.5
    assert moved.max() <= 6


def test_the_prefix_cache_shares_chunks_with_the_same_result(livekv, story, tokens, kv):
    model = livekv.Model(str(story), prefix_cache_bytes=1 << 26)
    first, second = (model.session(n_ctx=400, kv=kv) for _ in range(2))
    first.prefill(tokens[:200])
    known = second.reuse(tokens[:200])
    assert known >= 128 and known % kv.chunk_size == 0
    second.prefill(tokens[known:200])
    np.testing.assert_array_equal(first.last_logits, second.last_logits)
    np.testing.assert_array_equal(go_on(first, tokens[200:240]), go_on(second, tokens[200:240]))


def test_a_stream_is_told_what_queries_make_of_channels(livekv, kv):
    rng = np.random.default_rng(5)
    offsets = np.array([0.0, 1000.0] * 8, np.float32)
    chunk = (rng.standard_normal((2, 64, 16)) + offsets).astype(np.float32)
    squares = np.ones((2, 16), np.float32)
    squares[0, 3], squares[1, 6] = 1e4, 0.0
    sealed = livekv.kv.KeyStream(kv.replace(warmup_chunks=0, sink_tokens=0)).seal(chunk, squares)
    assert sealed.width.shape == (2, 16) and sealed.width.sum() == 2 * 16 * 3.25  # on the average
    assert sealed.width[0, 3] == 6 and sealed.width[1, 6] == sealed.width[1].min()
    assert [sorted(order) for order in sealed.order.tolist()] == [list(range(16))] * 2
    at = np.take_along_axis(sealed.width, sealed.order.astype(np.int64), 1).astype(int)
    assert (np.diff(at) <= 0).all() and (at.reshape(2, 4, 4) == at.reshape(2, 4, 4)[..., :1]).all()
    group = np.repeat(np.arange(sealed.scale.shape[1]), 64 // sealed.scale.shape[1])
    levels = sealed.minimum[:, group] + sealed.codes * sealed.scale[:, group]
    np.testing.assert_allclose(sealed.reconstruction, levels, rtol=1e-6)
    error = np.abs(chunk - sealed.reconstruction).max(axis=1)
    coarse = (chunk.max(axis=1) - chunk.min(axis=1)) / (2.0**sealed.width - 1)
    assert (error <= 0.51 * coarse + 0.51).all()  # an f16 minimum near 1000 is half a step of 1 off at most


def test_a_stream_refuses_squares_that_are_none(livekv, kv):
    chunk = np.zeros((2, 32, 16), np.float32)
    stream = livekv.kv.KeyStream(kv.replace(warmup_chunks=0))
    for squares, why in (
        (None, "query_squares is None"),
        (np.ones((2, 8)), r"no array of numbers \[2, 16\]"),
        ("x", "no array of numbers"),
        (np.full((2, 16), -1.0), "negative or not finite"),
        (np.full((2, 16), np.nan), "negative or not finite"),
    ):
        with pytest.raises(livekv.Error, match=why):
            stream.seal(chunk, squares)
    for other in (livekv.kv.ValueStream(kv), livekv.kv.KeyStream(kv.replace(key_alloc="off", key_quarters=0, key_feedback="auto"))):
        with pytest.raises(livekv.Error, match="query_squares is for keys"):
            other.seal(chunk, np.ones((2, 16)))
