"""--kv finch from Python and the command line. What it computes is held to a double-precision reference in
tests/unit/test_finch_model.cpp."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sequences import go_on, kl

SPEC = "finch:chunk-size=64:target-tokens=70"


@pytest.fixture
def session(livekv, model):
    return model.session(500, kv=livekv.KVOptions.parse(SPEC))


def test_what_is_kept_is_in_the_statistics(session, tokens):
    assert session.kv_stats().finch is None
    session.prefill(tokens[:230], question=tokens[280:290])
    stats = session.kv_stats()
    peak = stats.finch.pop("peak_bytes")
    kept = 3 * (64 // 4) + 38 // 4  # of four tokens one: 230 / (70 - 10)
    assert stats.finch == {"context_tokens": 230, "tokens_kept": kept, "question_tokens": 10, "factor": 4}
    assert session.n_tokens == 240
    a_token = stats.f16_bytes // 240
    assert stats.bytes.total == (kept + 64) * a_token  # and the room for what follows, the question first
    assert peak == (kept + 48) * a_token
    list(session.generate(None, max_tokens=70, temperature=0, ignore_eos=True))
    assert session.kv_stats().finch["tokens_kept"] == kept


def test_it_follows_the_whole_context_more_closely_the_more_it_keeps(livekv, model, tokens):
    f16 = model.session(500, kv=livekv.KVOptions.parse("f16:chunk-size=64"))
    f16.prefill(tokens[:240])
    reference = go_on(f16, tokens[240:280])
    lost = []
    for target in (30, 120, 240):
        one = model.session(500, kv=livekv.KVOptions.parse(f"finch:chunk-size=64:target-tokens={target}"))
        one.prefill(tokens[:230], question=tokens[230:240])
        lost.append(kl(go_on(one, tokens[240:280]), reference))
    assert lost[0] > lost[1] > lost[2] and lost[2] < 1e-3  # f16: values summed in 16 bits


def test_what_is_kept_is_what_the_question_looks_at(livekv, model, tokens):
    made = []
    for question in (tokens[280:290], tokens[260:270]):
        one = model.session(500, kv=livekv.KVOptions.parse(SPEC))
        one.prefill(tokens[:230], question=question)
        one.trim(230)
        made.append(go_on(one, tokens[240:260]))
    assert kl(made[0], made[1]) > 1e-4


def test_weights_are_normalized_unless_they_are_not_to_be(livekv, model, tokens):
    made = []
    for normalize in ("on", "off"):
        one = model.session(500, kv=livekv.KVOptions.parse(f"{SPEC}:normalize={normalize}"))
        made.append(one.prefill(tokens[:230], question=tokens[270:300]))
    assert np.abs(made[0] - made[1]).max() > 0


def test_steps_of_several_go_on_behind_a_question(livekv, model, session, tokens):
    alone = model.session(500, kv=livekv.KVOptions.parse(SPEC))
    other = model.session(500, kv=livekv.KVOptions.parse("livekv:chunk-size=64"))
    for one in (alone, session):
        one.prefill(tokens[:150], question=tokens[280:290])
    other.prefill(tokens[:150])
    engine = livekv.Engine(model)
    for token in tokens[290:300]:
        together, _ = engine.step([(session, [token]), (other, [token])], generated=True)
        expected = alone.eval([token])[0]
        assert kl(together[None], expected[None]) < 1e-6


@pytest.mark.parametrize(("spec", "said"), [
    ("finch:target-tokens=1", "target-tokens: '1' is not a whole number in 2..10000000"),
    ("finch:normalize=maybe", "normalize: 'maybe' is not one of on, off"),
    ("finch:kv-bits=4", "kv_bits: the cache finch does not read it, livekv, kivi, fastkv, kvquant do"),
    ("livekv:target-tokens=512", "target_tokens: the cache livekv does not read it, finch does"),
])  # fmt: skip
def test_options_that_are_none_are_refused(livekv, spec, said):
    with pytest.raises(livekv.Error) as refused:
        livekv.KVOptions.parse(spec)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_what_it_has_not_is_refused_in_a_line(livekv, model, session, tokens, tmp_path):
    lacking = "policy finch reads a context for a question, and there is none"
    f16 = model.session(100, kv=livekv.KVOptions(policy="f16"))
    for what, said in [
        (lambda: session.prefill(tokens[:40]), lacking),
        (lambda: session.eval(tokens[:40]), lacking),
        (lambda: livekv.Engine(model).step([(session, tokens[:40])]), lacking),
        (lambda: list(session.generate("Once", max_tokens=2)), lacking),
        (lambda: session.prefill([], question=[1]), "there are no tokens of the context"),
        (lambda: session.prefill([1], question=[]), "there are no tokens of the question"),
        (lambda: session.prefill([1], question=[-1]), "-1"),
        (lambda: session.prefill(tokens[:40], question=tokens[:70]),
         "target_tokens: 70 leave no room for a context beside the question, which has 70 tokens"),
        (lambda: f16.prefill(tokens[:20], question=tokens[:5]), "a question is for a cache of policy finch, not f16"),
    ]:  # fmt: skip
        with pytest.raises(livekv.Error) as refused:
            what()
        assert said in str(refused.value) and "\n" not in str(refused.value)
    assert session.n_tokens == 0
    session.prefill(tokens[:40], question=tokens[40:44])
    for what, said in [
        (lambda: session.prefill(tokens[:40], question=tokens[40:44]), "comes first, not behind 44 tokens"),
        (lambda: session.trim(20), "a trim forgets all 40 tokens or none; 20 is within it"),
        (lambda: session.save(tmp_path / "x.kv"), "only livekv, kvstream, guided and kivi caches can be saved"),
        (lambda: session.kv_dump(0), "what a cache of policy finch holds is of other tokens in each layer"),
        (lambda: session.forget(4, 8), "the oldest tokens cannot leave a cache of policy finch"),
        (lambda: livekv.kv.KeyStream(livekv.KVOptions(policy="finch")), "livekv.kv.FinchLayer has it"),
    ]:  # fmt: skip
        with pytest.raises(livekv.Error) as refused:
            what()
        assert said in str(refused.value) and "\n" not in str(refused.value)
    assert session.n_tokens == 44 and not list(tmp_path.iterdir())


def cli(tools, story, *more, **kwargs):
    return tools.run("livekv-cli", "-m", story, "--kv", "finch", "--temp", "0", *more, **kwargs)


def test_the_command_line_reads_a_context_for_a_question(tools, story, opening, livekv, model, tmp_path):
    path = tmp_path / "stats.json"
    done = cli(tools, story, "-f", opening, "--question", " And then", "-n", "12", "--stats", path, "--chunk-size",
               "64", "--target-tokens", "100")  # fmt: skip
    stats = json.loads(path.read_text())
    made = stats["kv"]["finch"]
    context = model.tokenize_prompt(opening.read_text())
    question = model.tokenize(" And then", add_special=False, behind=context[-1])
    assert made["context_tokens"] == len(context) and made["question_tokens"] == len(question)
    assert stats["n_prompt"] == len(context) + len(question)
    assert made["tokens_kept"] + len(question) <= 100 < made["context_tokens"]
    session = model.session(2000, kv=livekv.KVOptions.parse("finch:chunk-size=64:target-tokens=100"))
    session.prefill(context, question=question)
    text = "".join(session.generate(None, max_tokens=12, temperature=0))
    assert done.stdout.rstrip("\n") == text.rstrip("\n")


@pytest.mark.parametrize(("args", "code", "said"), [
    (["-p", "x"], 2, "--kv finch reads the prompt for a question, which is missing; --question TEXT gives it"),
    (["-p", "x", "--question", ""], 2, "--question is empty"),
    (["-p", "x", "--question", "y", "--kv", "livekv"], 2, "--question is what --kv finch reads a prompt for, not livekv"),
    (["-p", "x", "--question", "y", "--tokenize"], 2, "--tokenize prints the prompt's tokens; it goes without --question"),
    (["--question", "y", "-cnv"], 2, "it goes with neither -cnv nor --kv-load"),
    (["-p", "x", "--question", "y", "--kv-load", "/tmp/none.kv"], 2, "it goes with neither -cnv nor --kv-load"),
    (["-p", "x", "--question", "y", "--kv-save", "/tmp/none.kv"], 2, "--kv-save writes livekv, kvstream, guided and kivi"),
    (["-p", "x", "--question", "y", "--kv-store", "/tmp/none"], 2, "keeps livekv, kvstream and kivi caches only, not"),
    (["-p", "x", "--question", "y", "--target-tokens", "1"], 2, "--target-tokens"),
    (["-p", "x", "--question", "Who was it?", "--target-tokens", "2"], 2,
     "--target-tokens: 2 leave no room for a context beside the question, which has "),
    (["-p", "x", "--question", "y", "--retain-rate", "0.5"], 2, "--retain-rate is an option of --kv fastkv, not of finch"),
    (["-p", "x", "--question", "y", "--keep", "4", "-c", "64", "-n", "200"], 1,
     "the oldest tokens cannot leave a cache of policy finch"),
])  # fmt: skip
def test_wrong_calls_end_with_a_line(tools, story, args, code, said):
    done = cli(tools, story, *args, check=False)
    assert done.returncode == code and said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("tool", ["livekv-perplexity", "livekv-bench"])
def test_tools_that_ask_nothing_refuse_it(tools, story, root, tool):
    more = ["-f", root / "tests" / "data" / "island-guide.txt", "-c", "256"] if tool == "livekv-perplexity" else []
    done = tools.run(tool, "-m", story, "--kv", "finch", *more, check=False)
    assert done.returncode == 2
    assert done.stderr.strip() == f"{tool}: --kv finch reads a prompt for a question, which this tool has not"
