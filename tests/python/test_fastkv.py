"""--kv fastkv from Python and the command line. What it computes is held to a double-precision reference in
tests/unit/test_fastkv_model.cpp."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sequences import go_on, kl

SPEC = "fastkv:chunk-size=64:retain-rate=0.2:tsp-rate=0.4"


@pytest.fixture
def session(livekv, model):
    return model.session(500, kv=livekv.KVOptions.parse(SPEC))


def test_what_is_kept_is_in_the_statistics(livekv, model, session, tokens):
    assert session.kv_stats().fastkv is None
    session.prefill(tokens[:230])
    stats = session.kv_stats()
    peak = stats.fastkv.pop("peak_bytes")
    assert stats.fastkv == {"prompt_tokens": 230, "tokens_going_on": 92, "tokens_kept": 46, "tokens_kept_later": 46}
    assert stats.bits_per_value == pytest.approx(16 * 46 / 230)
    n_early = model.n_layer // 2
    rows = 230 * n_early * stats.f16_bytes / model.n_layer / 230
    assert peak > rows + stats.bytes.total  # and what waits for the later layers
    held = stats.bytes.total
    list(session.generate(None, max_tokens=70, temperature=0, ignore_eos=True))
    assert session.kv_stats().bytes.total > held
    assert session.kv_stats().fastkv["prompt_tokens"] == 230


def test_it_follows_the_whole_prompt_more_closely_the_more_it_keeps(livekv, model, tokens):
    f16 = model.session(500, kv=livekv.KVOptions.parse("f16:chunk-size=64"))
    f16.prefill(tokens[:240])
    reference = go_on(f16, tokens[240:280])
    lost = []
    for rates in ("0.1:tsp-rate=0.2", "0.4:tsp-rate=0.6", "1:tsp-rate=1"):
        one = model.session(500, kv=livekv.KVOptions.parse(f"fastkv:chunk-size=64:retain-rate={rates}"))
        one.prefill(tokens[:240])
        lost.append(kl(go_on(one, tokens[240:280]), reference))
    assert lost[0] > lost[1] > lost[2] and lost[2] < 1e-3  # f16: values summed in 16 bits


def test_sealed_entries_take_less_and_lose_little(livekv, model, tokens):
    rows = {}
    for more in ("", ":store=livekv:kv-bits=8", ":store=livekv"):
        one = model.session(500, kv=livekv.KVOptions.parse(SPEC + more))
        one.prefill(tokens[:240])
        rows[more] = (go_on(one, tokens[240:280]), one.kv_stats().bits_per_value)
    (exact, most), (eight, some), (four, least) = rows.values()
    assert most > some > least
    assert kl(eight, exact) < kl(four, exact) < 0.1


def test_a_prompt_in_steps_is_one_prompt(livekv, model, session, tokens):
    whole = model.session(500, kv=livekv.KVOptions.parse(SPEC))
    expected = whole.prefill(tokens[:150])
    engine = livekv.Engine(model)
    other = model.session(500, kv=livekv.KVOptions.parse("livekv:chunk-size=64"))
    for first in range(0, 150, 50):
        logits, _ = engine.step([(session, tokens[first : first + 50]), (other, tokens[first : first + 50])],
                                to_come=[100 - first, 0])  # fmt: skip
        assert np.isnan(logits).all() == (first < 100)
    assert kl(logits[None], expected[None]) < 1e-6
    assert session.kv_stats().fastkv["prompt_tokens"] == 150


def test_a_text_whose_logits_are_all_wanted_stays_whole(livekv, model, session, tokens):
    f16 = model.session(500, kv=livekv.KVOptions.parse("f16:chunk-size=64"))
    assert kl(session.eval(tokens[:100], all_logits=True), f16.eval(tokens[:100], all_logits=True)) < 1e-4
    assert session.kv_stats().fastkv["prompt_tokens"] == 0


def test_a_text_whose_last_logits_are_wanted_is_a_prompt(livekv, model, session, tokens):
    other = model.session(500, kv=livekv.KVOptions.parse(SPEC))
    np.testing.assert_array_equal(np.ravel(session.eval(tokens[:100])), other.prefill(tokens[:100]))
    assert session.kv_stats().fastkv["prompt_tokens"] == 100


@pytest.mark.parametrize(("spec", "said"), [
    ("fastkv:retain-rate=0", "retain-rate: '0' is not a number in 1e-06..1"),
    ("fastkv:tsp-rate=1.5", "tsp-rate: '1.5' is not a number in 1e-06..1"),
    ("fastkv:pooling=median", "'median' is not one of max, avg"),
    ("fastkv:store=q8_0", "'q8_0' is not one of f16, livekv"),
    ("fastkv:kv-bits=3", "kv_bits: it is for what is sealed (store livekv)"),
    ("fastkv:sink-tokens=2", "sink_tokens: the cache fastkv does not read it, livekv, kvstream, guided do"),
    ("guided:retain-rate=0.5", "retain_rate: the cache guided does not read it, fastkv does"),
])  # fmt: skip
def test_options_that_are_none_are_refused(livekv, spec, said):
    with pytest.raises(livekv.Error) as refused:
        livekv.KVOptions.parse(spec)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_what_it_has_not_is_refused_in_a_line(livekv, model, session, tokens, tmp_path):
    session.prefill(tokens[:40])
    for what, said in [
        (lambda: session.save(tmp_path / "x.kv"), "only livekv, kvstream, guided and kivi caches can be saved"),
        (lambda: session.kv_dump(0), "what a cache of policy fastkv holds is of other tokens in each head"),
        (lambda: livekv.kv.KeyStream(livekv.KVOptions(policy="fastkv")), "livekv.kv.fastkv_choose has it"),
        (lambda: model.session(100, kv=livekv.KVOptions.parse(f"fastkv:tsp-layer={model.n_layer - 1}")),
         f"tsp_layer: behind layer {model.n_layer - 1} there must be others; the model has {model.n_layer}"),
    ]:  # fmt: skip
        with pytest.raises(livekv.Error) as refused:
            what()
        assert said in str(refused.value) and "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def cli(tools, story, *more, **kwargs):
    return tools.run("livekv-cli", "-m", story, "--kv", "fastkv", "--temp", "0", *more, **kwargs)


def test_the_command_line_reads_a_prompt_and_says_what_it_kept(tools, story, opening, tmp_path):
    path = tmp_path / "stats.json"
    cli(tools, story, "-f", opening, "-n", "12", "--stats", path, "--chunk-size", "64", "--retain-rate", "0.25",
        "--tsp-layer", "0", "--pooling", "avg")  # fmt: skip
    stats = json.loads(path.read_text())
    n = stats["n_prompt"]
    kept = stats["kv"]["fastkv"]
    assert kept["prompt_tokens"] == n and kept["tokens_kept"] == n // 4 and kept["tokens_going_on"] == n // 5
    assert kept["tokens_kept_later"] == n // 5  # 0.25 / 0.2 of them would be more
    assert stats["kv"]["bytes"]["total"] < kept["peak_bytes"]


@pytest.mark.parametrize(("args", "code", "said"), [
    (["-p", "x", "--retain-rate", "2"], 2, "--retain-rate"),
    (["-p", "x", "--tsp-layer", "99"], 2, "behind layer 99 there must be others"),
    (["-p", "x", "--kv-bits", "3"], 2, "it is for what is sealed (store livekv)"),
    (["-p", "x", "--residual", "64"], 2, "--residual is an option of --kv kivi, not of fastkv"),
    (["-p", "x", "--kv-save", "/tmp/none.kv"], 2, "--kv-save writes livekv, kvstream, guided and kivi caches only"),
    (["-p", "x", "--kv-store", "/tmp/none"], 2, "keeps livekv, kvstream and kivi caches only, not --kv fastkv"),
    (["-p", "x", "--keep", "4", "-c", "64", "-n", "200"], 1, "the oldest tokens cannot leave a cache of policy fastkv"),
])  # fmt: skip
def test_wrong_calls_end_with_a_line(tools, story, args, code, said):
    done = cli(tools, story, *args, check=False)
    assert done.returncode == code and said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_perplexity_scores_what_follows_a_windows_first_half(tools, story, root):
    """By default a window's second half sees a tenth of the first: it diverges from f16, at fewer bits."""
    text = root / "tests" / "data" / "island-guide.txt"
    lost = {}
    for rate in (0.1, 1):
        done = tools.run("livekv-perplexity", "-m", story, "-f", text, "-c", "256", "--windows", "1", "--kv", "fastkv",
                         "--kl-base", "f16", "--retain-rate", rate, "--tsp-rate", rate, "-o", "json")  # fmt: skip
        measured = json.loads(done.stdout)
        lost[rate] = (measured["kl_mean"], measured["bits_per_value"])
    assert lost[0.1][0] > 1e-3 > 1e-4 > lost[1][0]
    assert lost[0.1][1] < lost[1][1]
