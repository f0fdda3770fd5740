"""Session.generate: what is yielded, when it ends, and what the session holds then."""

from __future__ import annotations

import inspect
import json
import os
import re
import signal
import threading

import convert_hf
import numpy as np
import pytest
import tiny_models
from tiny_models import SHAPES


@pytest.fixture(scope="module")
def bytewise(livekv, tmp_path_factory):
    """A random model that is most likely to say bytes which are no characters."""
    folder = tiny_models.make(tmp_path_factory.mktemp("generate") / "tiny", SHAPES["gqa_hd64"])
    convert_hf.convert(folder, folder.with_suffix(".gguf"), "f16")
    return livekv.Model(folder.with_suffix(".gguf"), n_threads=1)


PROMPT = "Once upon a time there was a king"


@pytest.fixture(scope="module")
def plain(model):
    """Greedy text and tokens with nothing to stop them."""
    generation = model.session(256).generate(PROMPT, 60, temperature=0)
    pieces = list(generation)
    assert len(pieces) > 20 and all(pieces)
    return "".join(pieces), generation.tokens


def test_text_and_tokens_agree_and_the_last_token_is_not_in_the_session(model, plain):
    text, tokens = plain
    session = model.session(256)
    generation = session.generate(PROMPT, 60, temperature=0)
    assert iter(generation) is generation and "".join(generation) == text == generation.text
    assert generation.tokens == tokens and len(tokens) == 60
    assert session.tokens == model.tokenize(PROMPT) + tokens[:-1]
    assert model.detokenize(model.tokenize(PROMPT) + tokens) == PROMPT + text
    assert list(generation) == []  # ended


def test_a_stop_string_ends_the_text_wherever_it_lies_in_the_tokens(model, plain):
    text, _ = plain
    for start in range(0, len(text) - 8, 7):
        for length in (1, 4, 8):
            stop = text[start : start + length]
            session = model.session(256)
            generation = session.generate(PROMPT, 60, temperature=0, stop=[stop, "never said"])
            pieces = list(generation)
            assert "".join(pieces) == text[: text.index(stop)], stop
            assert generation.usage.finish_reason == "stop"
            assert all(pieces)


def test_the_first_of_several_stop_strings_counts(model, plain):
    text, _ = plain
    late, early = text[50:54], text[20:25]
    both = "".join(model.session(256).generate(PROMPT, 60, temperature=0, stop=[late, early]))
    assert both == text[: min(text.index(late), text.index(early))]
    one = "".join(model.session(256).generate(PROMPT, 60, temperature=0, stop=early))
    assert one == text[: text.index(early)]


def test_what_only_began_as_a_stop_string_is_said_in_the_end(model, plain):
    text, _ = plain
    generation = model.session(256).generate(PROMPT, 60, temperature=0, stop=[text[-5:] + "!?"])
    assert "".join(generation) == text and generation.usage.finish_reason == "length"
    first = text[:3] + "#"
    assert "".join(model.session(256).generate(PROMPT, 60, temperature=0, stop=[first])) == text


def test_no_piece_is_a_broken_character_or_part_of_a_stop_string(bytewise):
    session = bytewise.session(300)
    generation = session.generate("żółw 乌龟", 200, temperature=1.5, top_k=0, top_p=1.0, min_p=0.0, seed=5, ignore_eos=True)
    pieces = list(generation)
    text = "".join(pieces)
    assert len(text) > 50 and all(piece.encode() for piece in pieces)  # strict UTF-8, no lone surrogate
    characters = sorted({c for c in text if len(c.encode()) > 1 and c != "\ufffd"})
    for stop in [text[30:33], text[10:11], *characters[:3]]:
        session.reset()
        stopped = session.generate("żółw 乌龟", 200, temperature=1.5, top_k=0, top_p=1.0, min_p=0.0, seed=5,
                                   ignore_eos=True, stop=[stop])  # fmt: skip
        assert "".join(stopped) == text[: text.index(stop)]


def test_it_ends_at_max_tokens_at_the_context_and_at_the_models_end(model, bytewise, plain):
    text, _ = plain
    full = model.session(n_ctx=30)
    generation = full.generate(PROMPT, None, temperature=0, ignore_eos=True)
    assert text.startswith("".join(generation)) and generation.usage.finish_reason == "context"
    assert full.n_tokens == 30 and generation.usage.generated_tokens == 30 - len(model.tokenize(PROMPT)) + 1
    none = model.session(64).generate(PROMPT, 0)
    assert list(none) == [] and none.usage.finish_reason == "length" and none.usage.generated_tokens == 0
    ended = 0
    for seed in range(60):  # a random model's end of text comes by chance
        generation = bytewise.session(64).generate("a", 40, temperature=5.0, top_k=0, top_p=1.0, min_p=0.0, seed=seed)
        "".join(generation)
        if generation.usage.finish_reason == "eos":
            ended += 1
            assert len(generation.tokens) == generation.usage.generated_tokens - 1
            assert not any(bytewise.is_end_of_generation(t) for t in generation.tokens)
    assert ended > 0


def test_prompts_are_text_tokens_or_what_is_there(model, plain):
    text, tokens = plain
    ids = model.tokenize(PROMPT)
    for prompt in (ids, np.array(ids)):
        assert "".join(model.session(256).generate(prompt, 60, temperature=0)) == text
    session = model.session(256)
    session.prefill(ids)
    fork = session.fork()
    assert "".join(session.generate(None, 60, temperature=0)) == text
    assert "".join(fork.generate(None, 60, temperature=0)) == text
    more = session.generate(" and", 5, temperature=0)
    "".join(more)
    joined = ids + tokens[:-1] + model.tokenize(" and", add_special=False)
    assert session.tokens[: len(joined)] == joined and more.usage.prompt_tokens == len(joined) - len(ids) - 59


def test_seeds_repeat_and_are_told(model):
    def say(seed: int | None) -> tuple[str, int]:
        generation = model.session(128).generate(PROMPT, 30, temperature=1.0, seed=seed)
        return "".join(generation), generation.usage.seed

    first, seed = say(None)
    assert say(seed)[0] == first
    assert say(seed + 1)[0] != first


def test_usage_is_known_when_the_text_has_ended(livekv, model):
    session = model.session(128)
    generation = session.generate(PROMPT, 10, temperature=0)
    with pytest.raises(livekv.Error, match="the text has not ended"):
        _ = generation.usage
    next(generation)
    with pytest.raises(livekv.Error, match="the text has not ended"):
        _ = generation.usage
    "".join(generation)
    usage = generation.usage
    assert usage.prompt_tokens == len(model.tokenize(PROMPT)) and usage.generated_tokens == 10
    assert 0 < usage.prefill_s <= usage.ttft_s and usage.decode_s > 0 and 0 <= usage.seal_s < usage.prefill_s
    assert usage.prefill_tokens_per_s == pytest.approx(usage.prompt_tokens / usage.prefill_s)
    assert usage.decode_tokens_per_s == pytest.approx(9 / usage.decode_s)
    assert usage.seal_s < 0.01 * usage.prefill_s  # no chunk is full
    sealing = model.session(256, kv=livekv.KVOptions(chunk_size=32)).generate(PROMPT * 12, 2, temperature=0)
    "".join(sealing)
    assert 0 < sealing.usage.seal_s < sealing.usage.prefill_s


def test_a_session_changed_meanwhile_ends_the_text(livekv, model):
    for change in (lambda s: s.reset(), lambda s: s.prefill([5]), lambda s: s.trim(3), lambda s: s.generate("b", 2)):
        session = model.session(128)
        generation = session.generate(PROMPT, 20, temperature=0)
        next(generation)
        change(session)
        with pytest.raises(livekv.Error, match="the session was changed while this text was being generated"):
            "".join(generation)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_tokens": -2}, "max_tokens is -2"),
        ({"temperature": float("nan")}, "temperature nan is not a number in 0..100"),
        ({"temperature": -0.1}, "temperature -0.1 is not"),
        ({"top_k": -1}, "top_k -1 is not a number of 0 or more"),
        ({"top_k": 2**31}, "top_k 2147483648 is not a number in 0..2147483647"),
        ({"top_k": 2**70}, "top_k 1180591620717411303424 is not a whole number"),
        ({"top_k": 1.5}, "top_k 1.5 is not a whole number"),
        ({"temperature": "hot"}, "temperature 'hot' is not a number"),
        ({"min_p": None}, "min_p None is not a number"),
        ({"top_p": 1.5}, "top_p 1.5 is not a number in 0..1"),
        ({"min_p": float("inf")}, "min_p inf is not"),
        ({"repeat_penalty": 0.0}, "repeat_penalty 0 is not"),
        ({"stop": [""]}, "a stop string is empty"),
        ({"stop": ""}, "a stop string is empty"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
    ],
)
def test_parameters_out_of_range_are_errors(livekv, model, arguments, message):
    with pytest.raises(livekv.Error) as raised:
        model.session(64).generate("a", **arguments)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_prompts_that_do_not_work_are_errors(livekv, model):
    with pytest.raises(livekv.Error, match="no tokens"):
        "".join(model.session(64).generate(None, 5))
    with pytest.raises(livekv.Error, match="no tokens"):
        "".join(model.session(64).generate("", 5, add_special=False))
    with pytest.raises(livekv.Error, match="the context holds 8 tokens"):
        "".join(model.session(8).generate(PROMPT, 5))
    with pytest.raises(livekv.Error, match="not a whole number"):
        model.session(64).generate([0.5], 5)


@pytest.mark.parametrize("where", ["prefill", "decode"])
def test_ctrl_c_is_the_reason_why_a_text_ended(livekv, model, where):
    session = model.session(60000, kv=livekv.KVOptions(chunk_size=32))
    prompt = model.tokenize(PROMPT) * (400 if where == "prefill" else 1)
    generation = session.generate(prompt, max_tokens=None, ignore_eos=True, temperature=0)
    if where == "decode":
        next(generation)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT))
    try:
        with pytest.raises(KeyboardInterrupt):
            timer.start()
            for _ in generation:
                pass
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)
    assert next(generation, None) is None  # the text has ended
    usage = generation.usage
    assert usage.finish_reason == "interrupted"
    assert usage.prompt_tokens <= len(prompt) and session.n_tokens >= usage.prompt_tokens
    if where == "decode":
        assert usage.generated_tokens == len(generation.tokens) and usage.generated_tokens > 1
        assert model.detokenize(generation.tokens) == generation.text  # nothing that was said is lost


def test_sampling_options_are_the_command_lines(livekv, tools, story, tmp_path):
    """One table: names and defaults of generate are those of --stats, and of --help."""
    stats = tmp_path / "stats.json"
    tools.run("livekv-cli", "-m", story, "-p", "Once", "-n", 0, "-t", 1, "--stats", stats)
    told = json.loads(stats.read_text())["options"]
    defaults = {name: p.default for name, p in inspect.signature(livekv.Session.generate).parameters.items()}
    table = livekv._livekv.sampling_defaults()
    assert table == {name: told[name] for name in table} == {name: defaults[name] for name in table}
    assert list(told)[list(told).index("ignore_eos") + 1 :] == [*table, "seed"]
    shown = tools.run("livekv-cli", "--help").stdout
    sampling = shown[shown.index("\nSampling:") : shown.index("\nReport:")]
    flags = re.findall(r"^  (?:-s, )?--([\w-]+) .*default ([-\d.]+)\)$", sampling, re.M)
    names = {"temp": "temperature"}
    assert [names.get(f, f.replace("-", "_")) for f, _ in flags] == [*table, "seed"]
    assert [float(value) for _, value in flags] == [*table.values(), -1]
