"""Prompt lookup: a text takes fewer passes where it repeats itself, and is the same text."""

from __future__ import annotations

import json

import pytest


@pytest.fixture(scope="module")
def tiny(livekv, root):
    return livekv.Model(root / "tests" / "models" / "tiny.gguf", n_threads=2)


@pytest.mark.parametrize(
    "spec", ["livekv", "small", "tiny", "kvstream", "guided:propagate=cache", "kivi", "livekv:seal-decode=off"]
)
def test_texts_are_the_same(livekv, tiny, opening, spec):
    text = opening.read_text()
    prompts = [text[:600], "\n\n".join([text[:300]] * 3) + text[:40]]
    options = livekv.KVOptions.parse(f"{spec}:{'residual' if spec == 'kivi' else 'chunk-size'}=64")
    accepted = 0
    for i, prompt in enumerate(prompts):
        for temperature in (0, 0.7):
            found = []
            for lookup in (0, 3, 20):
                with tiny.session(1500, kv=options) as session:
                    asked = session.generate(prompt, 150, temperature=temperature, seed=3 + i, lookup=lookup, ignore_eos=True)
                    pieces = list(asked)
                    usage = asked.usage
                    found.append(("".join(pieces), asked.tokens, session.tokens, session.last_logits.tobytes()))
                    assert asked.text == found[-1][0] and usage.generated_tokens == 150 == len(asked.tokens)
                    assert (usage.drafted_tokens > 0) == (lookup > 0) and usage.accepted_tokens <= usage.drafted_tokens
                    accepted += usage.accepted_tokens
            assert found[0] == found[1] == found[2]
    assert accepted > 100


def test_a_stop_string_inside_a_draft_ends_the_text_there(livekv, tiny, opening):
    prompt = "\n\n".join([opening.read_text()[:300]] * 3)
    with tiny.session(1500) as session:
        whole = "".join(session.generate(prompt, 120, temperature=0))
    for start in (20, 45, 70):
        ended = []
        for lookup in (0, 20):
            with tiny.session(1500) as session:
                asked = session.generate(prompt, 120, temperature=0, stop=whole[start : start + 4], lookup=lookup)
                ended.append(("".join(asked), asked.usage.finish_reason, asked.tokens, session.n_tokens))
        assert ended[0] == ended[1] and ended[0][1] == "stop"


def test_the_command_line_says_what_was_drafted(tools, root, opening, tmp_path):
    prompt = "\n\n".join([opening.read_text()[:300]] * 3)
    command = ["-m", root / "tests" / "models" / "tiny.gguf", "-p", prompt, "-n", 100, "--temp", 0, "--ignore-eos"]
    plain = tools.run("livekv-cli", *command)
    fast = tools.run("livekv-cli", *command, "--lookup", 8, "--stats", tmp_path / "stats.json")
    stats = json.loads((tmp_path / "stats.json").read_text())
    assert fast.stdout == plain.stdout and stats["options"]["n_lookup"] == 8
    assert 0 < stats["n_accepted"] <= stats["n_drafted"]
    assert f"{stats['n_accepted']} of {stats['n_drafted']} drafted" in fast.stderr and "drafted" not in plain.stderr


@pytest.mark.parametrize("wrong", [-1, 65, 1.5, "3", None])
def test_lookup_is_a_number_of_tokens(livekv, tiny, tools, root, wrong):
    with tiny.session(100) as session, pytest.raises(livekv.Error, match="lookup is .*; it must be .*in 0.."):
        session.generate("a", lookup=wrong)
    done = tools.run("livekv-cli", "-m", root / "tests" / "models" / "tiny.gguf", "-p", "a", "--lookup", "-1", check=False)
    assert done.returncode == 2 and "--lookup" in done.stderr
