"""A text longer than its context: the oldest chunks leave, and what stays goes on."""

from __future__ import annotations

import json

import pytest


@pytest.fixture(scope="module")
def tiny(livekv, root):
    return livekv.Model(root / "tests" / "models" / "tiny.gguf", n_threads=2)


@pytest.mark.parametrize("spec", ["f16", "livekv", "tiny", "kvstream"])
def test_a_text_goes_on_where_the_context_is_full(livekv, tiny, opening, spec):
    options = livekv.KVOptions.parse(f"{spec}:chunk-size=64" if spec != "f16" else spec)
    with tiny.session(400, kv=options) as session:
        asked = session.generate(opening.read_text()[:600], 600, temperature=0, ignore_eos=True, keep=30)
        first = list(session.tokens[:30]) or tiny.tokenize(opening.read_text()[:600])[:30]
        text = "".join(asked)
        usage = asked.usage
        assert usage.finish_reason == "length" and usage.generated_tokens == 600 and text == asked.text
        assert usage.forgotten_tokens > 300 and session.n_tokens <= 400
        assert session.n_tokens + usage.forgotten_tokens == usage.prompt_tokens + 599
        assert list(session.tokens[:30]) == first and list(session.tokens[-20:]) == asked.tokens[-21:-1]
        again = session.fork()
        assert again.eval([5, 6]).tobytes() == session.eval([5, 6]).tobytes()
    with tiny.session(400, kv=options) as session:
        asked = session.generate(opening.read_text()[:600], 600, temperature=0, ignore_eos=True)
        assert text.startswith("".join(asked)) and asked.usage.finish_reason == "context"


def test_forget_says_how_many_left(livekv, tiny, opening):
    tokens = tiny.tokenize(opening.read_text())[:300]
    with tiny.session(400, kv=livekv.KVOptions(chunk_size=64)) as session:
        session.prefill(tokens)
        assert session.forget(1, 65) == 128 and session.tokens == tokens[:64] + tokens[192:]
        assert session.forget(100, 64) == 0 and session.n_tokens == 172
        for keep, n in ((0, 64), (1, 0), (-3, 5)):
            with pytest.raises(livekv.Error, match="at least the first token stays"):
                session.forget(keep, n)
        assert session.n_tokens == 172
    after_rope = livekv.KVOptions(policy="kvstream", pre_rope=False, chunk_size=64)
    with tiny.session(400, kv=after_rope) as session:
        session.prefill(tokens)
        with pytest.raises(livekv.Error, match="sealed after RoPE"):
            session.forget(1, 64)
        with pytest.raises(livekv.Error, match="sealed after RoPE"):
            session.generate("a", keep=1)
        assert session.tokens == tokens


def test_the_command_line_says_what_left(tools, root, opening, tmp_path):
    command = ["-m", root / "tests" / "models" / "tiny.gguf", "-p", opening.read_text()[:300], "-c", 256]
    command += ["--chunk-size", 64, "-n", 400, "--temp", 0, "--ignore-eos"]
    ends = tools.run("livekv-cli", *command)
    goes_on = tools.run("livekv-cli", *command, "--keep", 10, "--stats", tmp_path / "stats.json")
    stats = json.loads((tmp_path / "stats.json").read_text())
    assert goes_on.stdout.startswith(ends.stdout.rstrip("\n")) and "context_full" in ends.stderr
    assert stats["options"]["n_keep"] == 10 and stats["n_forgotten"] > 100 and stats["stop_reason"] == "n_predict"
    assert f"{stats['n_forgotten']} of the oldest left the context" in goes_on.stderr and "oldest" not in ends.stderr


@pytest.mark.parametrize("wrong", [-1, 1.5, "3", None])
def test_keep_is_a_number_of_tokens(livekv, tiny, tools, root, wrong):
    with tiny.session(100) as session, pytest.raises(livekv.Error, match="keep is .*; it must be .*in 0.."):
        session.generate("a", keep=wrong)
    done = tools.run(
        "livekv-cli", "-m", root / "tests" / "models" / "tiny.gguf", "-p", "a", "--keep", "-1", check=False
    )
    assert done.returncode == 2 and "--keep" in done.stderr
