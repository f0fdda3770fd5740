"""--kv guided in the engine: that it stores what scores call for, and that sequences are saved, forked, trimmed and batched
as those of other policies. What a chunk becomes is held to the scalar reference in tests/unit/test_guided_policy.cpp."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sequences import check_one_batch, go_on, kl, same_dumps

TAIL = 3  # livekv.kv.TAIL

SPECS = ["guided:chunk-size=64", "guided:chunk-size=32:propagate=cache:min-class=4:guide-norm=zscore",
         "guided:chunk-size=32:level-bits=16,5,0:theta-m=0.45:key-axis=token:sink-tokens=0",
         "guided:chunk-size=32:propagate=cache:budget=bits:protect=off:key-axis=token:min-class=0",
         "guided:chunk-size=32:propagate=layers:min-class=4",
         "guided:chunk-size=32:guide=last:propagate=cache:min-class=4"]  # fmt: skip


@pytest.fixture(params=SPECS)
def kv(livekv, request):
    return livekv.KVOptions.parse(request.param)


def test_levels_of_16_bits_are_the_f16_cache(livekv, model, tokens):
    logits = {}
    for spec in ("f16:chunk-size=64", "guided:chunk-size=64:level-bits=16,16,16"):
        session = model.session(400, kv=livekv.KVOptions.parse(spec))
        session.prefill(tokens[:200])
        logits[spec] = go_on(session, tokens[200:300])
    reference, guided = logits.values()
    assert kl(guided, reference) < 6e-4  # products of rows in 8 bits make 2e-4 of any rounding of keys


def test_fewer_bits_cost_more_and_save_more(livekv, model, tokens):
    exact = model.session(400, kv=livekv.KVOptions(policy="f16", chunk_size=64))
    exact.prefill(tokens[:200])
    reference = go_on(exact, tokens[200:300])
    lost, bits = [], []
    for levels in ("8,8,8", "5,4,3", "3,2,2"):
        session = model.session(400, kv=livekv.KVOptions.parse(f"guided:chunk-size=64:level-bits={levels}"))
        session.prefill(tokens[:256])
        bits.append(session.kv_stats().bits_per_value)
        session.reset()
        session.prefill(tokens[:200])
        lost.append(kl(go_on(session, tokens[200:300]), reference))
    assert lost[0] < 1e-3 and lost[0] < lost[1] < lost[2], lost
    assert bits[0] > bits[1] > bits[2] and bits[0] < 10, bits


def test_the_dump_and_the_statistics_say_what_is_kept(livekv, model, tokens, kv):
    session = model.session(400, kv=kv)
    assert session.kv_stats().guided["layers"][0]["tokens_in"] == 0 and "high_ratio" not in session.kv_stats().guided
    session.prefill(tokens[:256])
    raw = model.session(400, kv=livekv.KVOptions.parse("guided:chunk-size=64:level-bits=16,16,16"))
    raw.prefill(tokens[:256])
    stats = session.kv_stats().guided
    n_bits = n_kept = 0
    n_in = 256
    for layer in range(model.n_layer):
        dump, of_layer = session.kv_dump(layer), stats["layers"][layer]
        kind, group = dump["k_kind"], dump["k_group"]
        np.testing.assert_array_equal(kind, dump["v_kind"])
        kept = kind != livekv.kv.DROPPED
        assert (kind[:4] == livekv.kv.SINK).all() == (kv.protect and kv.sink_tokens > 0)
        sealed = kind == livekv.kv.SEALED
        width = dump["v_width"][0][dump["v_group"][sealed]]
        of_keys = dump["k_width"][0][group[sealed]]
        np.testing.assert_array_equal(width, of_keys[:, :1])
        layer_bits = width.astype(int).sum() + 16 * (kept & ~sealed).sum()
        assert of_layer["tokens_in"] == n_in and of_layer["tokens_kept"] == kept.sum()
        n_in = kept.sum() if kv.propagate == "layers" else 256
        assert of_layer["bits_per_kept"] * kept.sum() == pytest.approx(layer_bits, rel=1e-12)
        assert of_layer["score_min"] <= of_layer["score_mean"] <= of_layer["score_max"]
        n_kept, n_bits = n_kept + kept.sum(), n_bits + layer_bits
        if kv.propagate == "off":
            assert kept.all() or kv.level_bits[2] == 0
        assert not dump["k_stored"][:, ~kept].any() and not dump["v_codes"][:, ~kept].any()
        for side in "kv":
            codes = dump[f"{side}_codes"][:, sealed].astype(float)
            at = dump[f"{side}_group"][sealed]
            low, scale = (dump[f"{side}_{name}"][:, at] for name in ("minimum", "scale"))
            np.testing.assert_allclose(low + codes * scale, dump[f"{side}_stored"][:, sealed], rtol=1e-5, atol=1e-6)
    assert stats["compression_ratio"] == pytest.approx(n_bits / (16 * 256 * model.n_layer), rel=1e-12)
    assert stats["overall_memory_savings"] == 1 - stats["compression_ratio"]
    assert stats["dropped_ratio"] == pytest.approx(1 - n_kept / (256 * model.n_layer), abs=1e-12)
    assert sum(stats[f"{name}_ratio"] for name in ("high", "medium", "low", "dropped")) == pytest.approx(1)
    assert session.kv_stats().stream is None and raw.kv_stats().guided["compression_ratio"] == 1
    # Layer 0's keys and values do not depend on the cache: what is stored of them is near.
    exact, dump = raw.kv_dump(0), session.kv_dump(0)
    kept = dump["k_kind"] != livekv.kv.DROPPED
    for side in "kv":
        x, y = (one[f"{side}_stored"][:, kept].astype(float) for one in (exact, dump))
        assert ((x - y) ** 2).sum() < 0.25 * (x**2).sum()


def test_a_layers_share_is_what_it_keeps(livekv, model, tokens):
    kv = livekv.KVOptions.parse("guided:chunk-size=64:propagate=cache:guide-tokens=4:keep-last=0")
    session = model.session(400, kv=kv)
    session.prefill(tokens[:256])
    for layer, of_layer in enumerate(session.kv_stats().guided["layers"]):
        first = layer < 3 * model.n_layer // 10
        share = kv.early_ratio if first else kv.middle_ratio if layer < 7 * model.n_layer // 10 else kv.later_ratio
        assert of_layer["tokens_kept"] == 4 * int(share * 64 + 1e-9)
        assert of_layer["budget_use"] == pytest.approx(of_layer["tokens_kept"] / (share * 256))


def test_the_whole_prompts_length_is_told_before_its_first_chunk(livekv, model, tokens):
    """A prompt that comes in one call and one that comes in two differ, since the second call's length was not known."""
    kv = livekv.KVOptions.parse("guided:chunk-size=64:guide-tokens=16")
    whole, pieces, batched = (model.session(400, kv=kv) for _ in range(3))
    whole.prefill(tokens[:256])
    for first in (0, 64, 128, 192):
        pieces.prefill(tokens[first : first + 64])
    scores = [one.kv_stats().guided["layers"][0]["score_mean"] for one in (whole, pieces)]
    assert scores[0] != scores[1]
    engine = livekv.Engine(model)
    engine.step([(batched, tokens[:256])])
    same_dumps(model, batched, whole)
    told = model.session(400, kv=kv)
    for first in (0, 64, 128, 192):
        engine.step([(told, tokens[first : first + 64])], to_come=192 - first)
    same_dumps(model, told, whole)
    evaluated = model.session(400, kv=kv)
    evaluated.eval(tokens[:256])
    same_dumps(model, evaluated, whole)


def test_a_guide_at_the_end_is_the_end_of_all_that_was_told_to_come(livekv, model, tokens):
    kv = livekv.KVOptions(policy="guided", guide="last", chunk_size=64)
    assert livekv.KVOptions.parse("guided:guide=last:chunk-size=64") == kv
    whole, told, first = (model.session(400, kv=kv) for _ in range(3))
    logits = whole.prefill(tokens[:230])
    engine = livekv.Engine(model)
    for start in (0, 64, 128, 192):
        assert "peak_bytes" not in told.kv_stats().guided and told.kv_stats().guided["layers"][0]["tokens_in"] == 0
        (last,) = engine.step([(told, tokens[start : min(start + 64, 230)])], to_come=max(166 - start, 0))
    np.testing.assert_array_equal(last, logits)
    same_dumps(model, told, whole)
    assert told.kv_stats().guided == whole.kv_stats().guided
    assert whole.kv_stats().guided["peak_bytes"] > whole.kv_stats().bytes.total
    evaluated = model.session(400, kv=kv)
    evaluated.eval(tokens[:230])
    same_dumps(model, evaluated, whole)
    first.prefill(tokens[:64])  # a prompt, which ends here
    first.prefill(tokens[64:230])
    assert [one.kv_stats().guided["layers"][0]["tokens_in"] for one in (whole, first)] == [230, 64]
    same_scores = model.session(400, kv=livekv.KVOptions(policy="guided", chunk_size=64))
    same_scores.prefill(tokens[:230])
    assert same_scores.kv_stats().guided["layers"][0]["score_mean"] != whole.kv_stats().guided["layers"][0]["score_mean"]


def test_a_prompt_that_waits_for_its_guide_has_no_file_and_no_next_token(livekv, model, tokens, tmp_path):
    session = model.session(400, kv=livekv.KVOptions.parse("guided:guide=last:chunk-size=32"))
    livekv.Engine(model).step([(session, tokens[:70])], to_come=50)
    for what, said in [
        (lambda: session.save(tmp_path / "s.kv"), "its prompt is not complete, and the guide at its end is not known"),
        (lambda: list(session.generate(None, max_tokens=3)), "is not complete: it has 70 tokens, and generated text"),
    ]:
        with pytest.raises(livekv.Error, match=said):
            what()
    assert session.n_tokens == 70 and not list(tmp_path.iterdir())
    session.prefill(tokens[70:120])
    session.save(tmp_path / "s.kv")


def test_the_command_line_says_what_a_guide_at_the_end_took(tools, story, opening, tmp_path):
    path = tmp_path / "stats.json"
    tools.run("livekv-cli", "-m", story, "-f", opening, "-n", "4", "--temp", "0", "--kv", "guided", "--guide", "last",
              "--propagate", "cache", "--chunk-size", "64", "--stats", path)  # fmt: skip
    stats = json.loads(path.read_text())
    guided = stats["kv"]["guided"]
    assert guided["peak_bytes"] > stats["kv"]["bytes"]["total"] and guided["dropped_ratio"] > 0.2
    assert all(layer["tokens_in"] == stats["n_prompt"] for layer in guided["layers"])


def test_no_decompressed_copy_is_kept(livekv, model, tokens):
    session = model.session(400, kv=livekv.KVOptions(policy="guided", chunk_size=32))
    session.prefill(tokens[:96])
    before = session.kv_stats().workspace_bytes
    session.prefill(tokens[96:288])
    a_copy = 192 * model.n_layer * model.n_head_kv * model.head_dim * 2 * 4
    assert session.kv_stats().workspace_bytes - before < a_copy / 4


def test_a_saved_session_goes_on_bit_for_bit(model, tokens, kv, tmp_path):
    session = model.session(n_ctx=400, kv=kv)
    session.prefill(tokens[:75])
    list(session.generate(None, max_tokens=5, temperature=0, ignore_eos=True))
    session.save(tmp_path / "s.kv")
    loaded = model.session(n_ctx=400)
    loaded.load(tmp_path / "s.kv")
    fork = session.fork()
    for one in (session, loaded, fork):
        list(one.generate(None, max_tokens=60, temperature=0, ignore_eos=True))
    assert session.tokens == loaded.tokens == fork.tokens
    expected = go_on(session, tokens[80:170])
    for one in (loaded, fork):
        np.testing.assert_array_equal(go_on(one, tokens[80:170]), expected)
        same_dumps(model, one, session)
        said, expected_of = (x.kv_stats().guided for x in (one, session))
        peaks = [stats.pop("peak_bytes", None) for stats in (said, expected_of)]
        assert said == expected_of
        assert peaks[0] == (None if one is loaded else peaks[1])  # a file does not say what reading took


def test_a_trimmed_session_that_reads_the_rest_again_is_what_it_was(model, tokens, kv):
    session, whole = (model.session(n_ctx=400, kv=kv) for _ in range(2))
    for one in (session, whole):
        one.prefill(tokens[:230])
    for n in (192, 128, 0):
        session.trim(n)
        session.prefill(tokens[n:230])
        same_dumps(model, session, whole)
    np.testing.assert_array_equal(go_on(session, tokens[230:280]), go_on(whole, tokens[230:280]))


def test_a_session_trimmed_within_a_chunk_keeps_the_chunks_before(model, tokens, kv):
    """What is left of the chunk is read again, as raw rows; the last digits of a row may depend on its pass."""
    if kv.guide == "last":
        pytest.skip("what is kept of any chunk is the whole prompt's choice")
    session, whole = (model.session(n_ctx=400, kv=kv) for _ in range(2))
    for one in (session, whole):
        one.prefill(tokens[:230])
    session.trim(150)
    assert session.n_tokens == 150
    for layer in range(model.n_layer):
        dump, expected = session.kv_dump(layer), whole.kv_dump(layer)
        for side in "kv":
            np.testing.assert_array_equal(dump[f"{side}_stored"][:, :128], expected[f"{side}_stored"][:, :128])
            np.testing.assert_array_equal(dump[f"{side}_kind"][:128], expected[f"{side}_kind"][:128])
            has = dump[f"{side}_kind"][128:] == TAIL
            assert has.all() if kv.propagate != "layers" else 0 < has.sum() < has.size
    fork = session.fork()
    np.testing.assert_array_equal(go_on(session, tokens[150:200]), go_on(fork, tokens[150:200]))


def test_sequences_of_all_kinds_go_in_one_batch(livekv, model, tokens):
    check_one_batch(livekv, model, tokens, [*SPECS, "livekv:chunk-size=64", "kvstream:chunk-size=32", "f16"])


def test_nothing_is_shared_between_prompts(livekv, story, tokens, kv, tools, tmp_path):
    model = livekv.Model(str(story), prefix_cache_bytes=1 << 26)
    first, second = (model.session(n_ctx=400, kv=kv) for _ in range(2))
    first.prefill(tokens[:200])
    assert second.reuse(tokens[:200]) == 0
    done = tools.run("livekv-cli", "-m", story, "-p", "x", "--kv", "guided", "--kv-store", tmp_path / "s", check=False)
    assert done.returncode == 2 and "keeps livekv, kvstream and kivi caches only, not --kv guided" in done.stderr


@pytest.mark.parametrize("n", [1, 3, 64, 65])
def test_short_prompts_work(livekv, model, tokens, n):
    for spec in SPECS:
        session = model.session(400, kv=livekv.KVOptions.parse(spec))
        session.prefill(tokens[:n])
        assert len(list(session.generate(None, max_tokens=70, temperature=0, ignore_eos=True))) > 0
        assert np.isfinite(session.last_logits).all() and session.n_tokens >= n + 69


def test_drafts_change_nothing(livekv, model, tokens):
    texts = []
    for lookup in (0, 8):
        session = model.session(400, kv=livekv.KVOptions.parse(SPECS[1]))
        texts.append(
            "".join(session.generate(tokens[:60] * 2, max_tokens=90, temperature=0, ignore_eos=True, lookup=lookup))
        )
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (("--theta-m", "0.8"), "--theta-m: 0.8 is more than theta-h, 0.7"),
        (("--level-bits", "4,8,2"), "--level-bits: 8 is more than 4 of the level above"),
        (("--level-bits", "8,4"), "'8,4' is not three of 16, 8, 5, 4, 3, 2; the last may be 0"),
        (("--level-bits", "8,0,0"), "'8,0,0' is not three of"),
        (("--level-bits", "8,4,1"), "'8,4,1' is not three of"),
        (("--level-bits", "8,4,2,2"), "'8,4,2,2' is not three of"),
        (("--early-ratio", "1.5"), "--early-ratio"),
        (("--early-ratio", "0"), "--early-ratio"),
        (("--later-ratio", "0.7"), "--later-ratio: 0.7 is more than the 0.6 of earlier layers"),
        (("--budget", "bits"), "--budget: bits are counted with propagate cache only"),
        (("--propagate", "first"), "'first' is not one of off, cache, layers"),
        (("--propagate", "layers", "--budget", "bits"), "--budget: bits are counted with propagate cache only"),
        (("--alpha", "nan"), "--alpha"),
        (("--guide", "middle"), "'middle' is not one of first, last"),
        (("--guide", "last", "--propagate", "layers"), "--propagate: with guide last it is off or cache"),
        (("--ema-decay", "0.8"), "--ema-decay is an option of --kv kvstream, not of guided"),
        (("--kv-bits", "4"), "--kv-bits is an option of --kv livekv, kivi, fastkv, kvquant, not of guided"),
        (("--preset", "small"), "--preset: 'small' is none of the cache guided"),
        (("--early-ratio", "0.9"), "--early-ratio has no effect with --propagate off"),
        (("--later-ratio", "0.4"), "--later-ratio has no effect with --propagate off"),
        (("--protect", "off", "--keep-last", "3"), "--keep-last has no effect with --protect off"),
        (("--preset", "reference", "--sink-tokens", "2"), "--sink-tokens has no effect with --protect off"),
        (("--sink-tokens", "600"), "--sink-tokens: 600 is more than the chunk size, 512"),
    ],
)
def test_wrong_options_are_refused_in_one_line(tools, story, flags, why):
    done = tools.run("livekv-cli", "-m", story, "-p", "x", "--kv", "guided", *flags, check=False)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1 and why in done.stderr, (
        done.stderr
    )


def test_a_guide_longer_than_the_prompt_is_refused_and_changes_nothing(livekv, model, tools, story, tokens, tmp_path):
    kv = livekv.KVOptions(policy="guided", guide_tokens=100, chunk_size=32)
    session = model.session(400, kv=kv)
    with pytest.raises(livekv.Error, match=r"^guide-tokens: 100 are more than the prompt's 99$"):
        session.prefill(tokens[:99])
    assert session.n_tokens == 0
    session.prefill(tokens[:100])
    session.trim(60)  # of a prompt that was longer
    assert session.n_tokens == 60
    done = tools.run("livekv-cli", "-m", story, "-p", "x", "--kv", "guided", "--guide-tokens", "99", "--kv-save",
                     tmp_path / "s.kv", check=False)  # fmt: skip
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "guide-tokens: 99 are more" in done.stderr
    assert not list(tmp_path.iterdir())


def test_options_of_guided_are_refused_by_the_others(livekv):
    with pytest.raises(livekv.Error, match="the cache livekv does not read it, guided does"):
        livekv.KVOptions(alpha=0.5)
    with pytest.raises(livekv.Error, match="the cache kvstream does not read it, guided does"):
        livekv.KVOptions.parse("kvstream:level-bits=8,4,2")
    with pytest.raises(livekv.Error, match="guide: the cache fastkv does not read it, guided does"):
        livekv.KVOptions(policy="fastkv", guide="last")
    with pytest.raises(livekv.Error, match="rotate: the cache guided does not read it, livekv does"):
        livekv.KVOptions(policy="guided", rotate="none")
    for bad in ((8, 4), (8, 4, 2, 2), (8, 4, 1), "8", 8, (4, 8, 2)):
        with pytest.raises(livekv.Error, match="level_bits"):
            livekv.KVOptions(policy="guided", level_bits=bad)
    one = livekv.KVOptions(policy="guided", level_bits=[16, 4, 0], guide_tokens=7)
    assert one.level_bits == (16, 4, 0) and livekv.KVOptions.parse(one.spec) == one
    listed = livekv.parse_kv_list("f16,guided:level-bits=8,4,0,livekv")
    assert [label for label, _ in listed] == ["f16", "guided:level-bits=8,4,0", "livekv"]


def test_a_stream_of_keys_alone_is_refused_and_says_what_there_is(livekv):
    for stream in (livekv.kv.KeyStream, livekv.kv.ValueStream):
        with pytest.raises(livekv.Error, match=r"guided seals by attention too, .*; livekv.kv.GuidedLayer has it"):
            stream(livekv.KVOptions(policy="guided"))


def test_the_reference_preset_is_the_published_method(livekv):
    published = livekv.KVOptions(
        policy="guided", protect=False, budget="bits", propagate="cache", key_axis="token", min_class=0
    )
    assert livekv.KVOptions.preset("reference", policy="guided") == published
    assert livekv.KVOptions.preset("default", policy="guided") == livekv.KVOptions(policy="guided")
    for name in vars(livekv.kv.GuidedMethod()):  # the reference's defaults are the engine's, but for what later layers see
        mine, theirs = getattr(livekv.KVOptions(policy="guided"), name), getattr(livekv.kv.GuidedMethod(), name)
        assert mine == theirs or (name, mine, theirs) in {("propagate", "off", "layers"), ("guide_tokens", "auto", 0)}


def test_measured_noise_is_that_of_what_is_kept(livekv, model, tokens):
    options = livekv.KVOptions.parse("guided:chunk-size=64:sink-tokens=0:propagate=cache:kv-error")
    session = model.session(64, kv=options)
    raw = model.session(64, kv=livekv.KVOptions.parse("f16"))
    for one in (session, raw):
        one.prefill(tokens[:64])
    dump, exact, stats = session.kv_dump(0), raw.kv_dump(0), session.kv_stats()
    kept = dump["k_kind"] == livekv.kv.SEALED
    assert 0 < kept.sum() < 64
    for side, snr in (("k", stats.snr_k[0]), ("v", stats.snr_v[0])):
        x = exact[f"{side}_stored"][:, kept].astype(float)
        noise = ((x - dump[f"{side}_stored"][:, kept]) ** 2).sum()
        assert 10 * np.log10((x**2).sum() / noise) == pytest.approx(snr, abs=0.01)


def test_options_of_a_saved_cache_are_judged_by_its_policy(tools, story, tmp_path):
    file = tmp_path / "guided.kv"
    tools.run("livekv-cli", "-m", story, "-p", "once upon a time", "-n", "2", "--kv", "guided", "--kv-save", file)
    load = ("livekv-cli", "-m", story, "-n", "1", "--kv-load", file)
    overruled = tools.run(*load, "--propagate", "cache").stderr
    assert "warning: the saved cache has --propagate off; cache is ignored" in overruled
    other = tools.run(*load, "--residual", "64", check=False)
    assert (other.returncode, other.stderr) == (2, "livekv-cli: --residual is an option of --kv kivi, not of guided\n")
    idle = tools.run(*load, "--kv", "guided", "--keep-last", "3", "--protect", "off", check=False)
    assert idle.returncode == 2 and "--keep-last has no effect" in idle.stderr
