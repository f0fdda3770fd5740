"""livekv.Session: logits, forks, files, threads, Ctrl-C, and inputs that make no sense."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import convert_hf
import numpy as np
import pytest
import tiny_models
from tiny_models import SHAPES

SMALL = "livekv:chunk-size=32:warmup-chunks=1"


@pytest.fixture
def session(livekv, model):
    return model.session(n_ctx=400, kv=livekv.KVOptions.parse(SMALL))


def test_prefill_and_eval_give_the_same_logits(livekv, model, tokens, session):
    last = session.prefill(tokens)
    assert last.dtype == np.float32 and last.shape == (model.n_vocab,) and np.isfinite(last).all()
    np.testing.assert_array_equal(session.last_logits, last)
    assert session.tokens == tokens and session.n_tokens == len(tokens) and session.n_ctx == 400
    session.reset()
    assert session.n_tokens == 0 and session.last_logits is None and session.kv_bits_per_value is None
    one = session.eval(np.array(tokens, np.uint16))
    assert one.shape == (1, model.n_vocab)
    np.testing.assert_array_equal(one[0], last)
    session.reset()
    every = session.eval(tokens, all_logits=True)
    assert every.shape == (len(tokens), model.n_vocab) and every.flags.c_contiguous
    np.testing.assert_array_equal(every[-1], last)
    session.reset()
    split = np.concatenate([session.eval(tokens[:32], True), session.eval(tokens[32:], True)])
    np.testing.assert_array_equal(split, every)  # 32: where a chunk ends


def test_logits_are_those_of_the_test_tool(tools, story, model, livekv, tokens, tmp_path):
    expected = tools.logits(story, tokens[:50], tmp_path / "logits", "-t", 1)
    session = model.session(64, kv=livekv.KVOptions(policy="f16"))
    np.testing.assert_array_equal(session.eval(tokens[:50], all_logits=True), expected)


def test_forks_do_not_touch_each_other(livekv, model, tokens, session):
    session.prefill(tokens[:100])
    fork = session.fork()
    assert fork.tokens == session.tokens and fork.model is model and fork.kv == session.kv
    np.testing.assert_array_equal(fork.last_logits, session.last_logits)
    ours = session.eval(tokens[100:200])
    theirs = fork.eval(tokens[200:300])
    fork.close()
    assert not np.array_equal(ours, theirs)
    assert session.tokens == tokens[:200]
    fresh = model.session(400, kv=session.kv)
    fresh.prefill(tokens[:100])
    np.testing.assert_array_equal(fresh.eval(tokens[100:200]), ours)
    fresh.reset()
    fresh.prefill(tokens[:100])
    np.testing.assert_array_equal(fresh.eval(tokens[200:300]), theirs)


def test_a_trimmed_session_goes_on_from_what_is_left(tokens, session):
    expected = session.eval(tokens[:96])
    session.eval(tokens[96:120])
    session.trim(96)
    assert session.tokens == tokens[:96] and session.last_logits is None
    session.trim(64)
    np.testing.assert_array_equal(session.eval(tokens[64:96]), expected)  # two whole chunks are left, as before


def test_a_name_with_a_zero_byte_is_no_other_file(livekv, model, session, tokens, tmp_path):
    session.prefill(tokens[:10])
    for call in (
        lambda: session.save(tmp_path / "a\0b"),
        lambda: model.session(100).load(tmp_path / "a\0b"),
        lambda: livekv.Model(model.path + "\0b"),
    ):
        with pytest.raises(livekv.Error, match="it has a zero byte"):
            call()
    assert not list(tmp_path.iterdir())


def test_a_saved_session_goes_on_bit_for_bit(livekv, model, tokens, session, tmp_path):
    session.prefill(tokens[:150])
    session.save(tmp_path / "a.kv")
    assert [p.name for p in tmp_path.iterdir()] == ["a.kv"]
    restored = model.session(400)
    restored.load(str(tmp_path / "a.kv"))
    assert restored.tokens == tokens[:150] and restored.kv == session.kv != livekv.KVOptions()
    assert restored.kv_stats().bytes.codes == session.kv_stats().bytes.codes > 0
    np.testing.assert_array_equal(restored.last_logits, session.last_logits)
    np.testing.assert_array_equal(restored.eval(tokens[150:]), session.eval(tokens[150:]))
    measuring = model.session(400, kv=livekv.KVOptions(measure_error=True))
    measuring.load(tmp_path / "a.kv")
    assert measuring.kv == session.kv.replace(measure_error=True)
    with pytest.raises(livekv.Error, match="needs an empty session"):
        restored.load(tmp_path / "a.kv")
    short = model.session(100)
    with pytest.raises(livekv.Error, match="150"):
        short.load(tmp_path / "a.kv")
    assert short.n_tokens == 0 and short.kv == livekv.KVOptions()
    damaged = bytearray((tmp_path / "a.kv").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "b.kv").write_bytes(damaged)
    for path, message in [("b.kv", "b.kv"), ("none.kv", "No such file")]:
        with pytest.raises(livekv.Error, match=message):
            model.session(400).load(tmp_path / path)
    with pytest.raises(livekv.Error, match="livekv"):
        model.session(64, kv=livekv.KVOptions(policy="f16")).save(tmp_path / "c.kv")
    with pytest.raises(livekv.Error, match="No such file"):
        session.save(tmp_path / "nowhere" / "c.kv")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "no tokens"),
        ([1, -1], "token 1 is -1"),
        ([4096], "token id 4096 is not in the model's vocabulary of 4096"),
        ([2**31], "token 0 is 2147483648"),
        ([2**70], "which is no token id"),
        ([1.0], "token 0 is 1.0, not a whole number"),
        (["a"], "token 0 is 'a', not a whole number"),
        ([None], "token 0 is None"),
        ("text", "not str"),
        (b"bytes", "not bytes"),
        (None, "not NoneType"),
        (5, "not int"),
        ({1, 2}, "not set"),
        (np.zeros(3), "not an array of float64"),
        (np.zeros((2, 2), int), "not an array of 2 dimensions"),
        (np.array(5), "not an array of 0 dimensions"),
        (np.zeros(0, int), "no tokens"),
        (np.array([True]), "not an array of bool"),
        ([1] * 401, "the context holds 400 tokens, 401 are needed"),
    ],
)
def test_tokens_that_are_none_are_errors_and_change_nothing(livekv, session, bad, message):
    for call in (session.prefill, session.eval, lambda t: session.eval(t, all_logits=True)):
        with pytest.raises(livekv.Error) as raised:
            call(bad)
        assert message in str(raised.value) and "\n" not in str(raised.value)
    assert session.n_tokens == 0
    assert session.prefill(np.array([1, 2, 3, 4])[::2]).shape == (4096,)  # a view is as good as an array
    assert session.tokens == [1, 3]


def test_errors_travel_between_processes(livekv):
    problem = pickle.loads(pickle.dumps(livekv.Error("one line")))
    assert type(problem) is livekv.Error and str(problem) == "one line" and isinstance(problem, Exception)


def test_paths_may_be_any_bytes(livekv, model, tokens, session, tmp_path):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.kv")
    session.prefill(tokens[:40])
    session.save(name)
    other = model.session(64)
    other.load(os.fsencode(name))
    assert other.tokens == tokens[:40]


def test_arguments_out_of_range_are_errors(livekv, model, session, tmp_path):
    for call, message in [
        (lambda: session.trim(1), "cannot trim to 1 tokens; the session holds 0"),
        (lambda: session.trim(-1), "cannot trim to -1"),
        (lambda: model.session(0), "n_ctx is 0"),
        (lambda: model.session(-5), "n_ctx is -5"),
        (lambda: model.session(2**40), "n_ctx is"),
        (lambda: model.session(64, n_threads=0), "n_threads is 0"),
        (lambda: model.session(64, n_threads=10_000), "n_threads is 10000"),
        (lambda: model.detokenize([99999]), "99999"),
        (lambda: model.token_piece(-1), "-1"),
        (lambda: session.kv_dump(4), "there is no layer 4; the model has 4"),
        (lambda: session.kv_dump(-1), "there is no layer -1"),
        (lambda: livekv.Model(tmp_path / "none.gguf"), "none.gguf': No such file"),
        (lambda: livekv.Model(tmp_path), "is not a file"),
        (lambda: livekv.Model(model.path, n_gpu_layers=-1), "n_gpu_layers is -1"),
        (lambda: livekv.Model(model.path, n_threads=0).session(), "n_threads is 0"),
        (lambda: model.apply_chat_template([{"role": "user", "content": "x"}]), "template"),
        (lambda: model.apply_chat_template(None), "messages is NoneType, not a list of messages"),
        (lambda: model.apply_chat_template("hi"), "messages is str, not a list of messages"),
        (lambda: model.apply_chat_template([{"role": "user"}]), "message 0 is not a mapping with role and content"),
    ]:
        with pytest.raises(livekv.Error) as raised:
            call()
        assert message in str(raised.value) and "\n" not in str(raised.value), str(raised.value)
    for call in (lambda: session.trim("1"), lambda: session.exact_trim(1.5), lambda: session.forget(0, None)):
        with pytest.raises(livekv.Error, match=r"^n_tokens is ('1'|1\.5|None); it must be a whole number$"):
            call()
    with pytest.raises(livekv.Error, match="^n_ctx is '64'; it must be a whole number$"):
        model.session(n_ctx="64")
    with pytest.raises(livekv.Error, match="^the text is 5; it must be text$"):
        model.tokenize(5)


def test_a_context_beyond_a_window_it_was_cut_to_is_warned_of(livekv, tmp_path):
    shape = SHAPES["hd8"]
    folder = tiny_models.make(tmp_path / "m", shape)
    kind = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 64}
    tiny_models.write_json(folder / "config.json", tiny_models.config(shape) | kind)
    convert_hf.convert(folder, tmp_path / "m.gguf", "f16")
    model = livekv.Model(tmp_path / "m.gguf", n_threads=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model.session().n_ctx == model.session(64).n_ctx == model.n_ctx_train == 64
    with pytest.warns(UserWarning, match="a context of 65 tokens is longer than the 64 the model was trained on") as said:
        assert model.session(65).n_ctx == 65
    assert [warning.filename for warning in said] == [__file__]


def test_a_closed_session_says_so_and_its_model_lives_on(livekv, model, tokens):
    with model.session(64) as session:
        text = session.generate("Once", 20, temperature=0)
        next(text)
        session.generate("again", 20)
    session.close()
    assert repr(session) == f"livekv.Session({session.kv.spec}, closed)"
    for call in (lambda: session.n_tokens, lambda: session.prefill(tokens), session.fork, session.kv_stats,
                 session.reset, lambda: session.save("x"), lambda: session.load("x"), lambda: session.kv_dump(0), lambda: next(text),
                 lambda: session.generate("a", 1), lambda: session.last_logits):  # fmt: skip
        with pytest.raises(livekv.Error, match="this session is closed"):
            call()
    own = livekv.Model(model.path, n_threads=1).session(64)  # nothing else holds this model
    assert own.prefill(tokens[:10]).shape == (4096,)


def test_each_thread_has_a_session_of_its_own(livekv, model, tokens):
    def run(i: int) -> np.ndarray:
        with model.session(400, kv=livekv.KVOptions.parse(SMALL)) as session:
            return session.eval(tokens[i:] + tokens[:i])

    alone = [run(i) for i in range(6)]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(run, range(6)))
    np.testing.assert_array_equal(together, alone)


def test_a_session_in_use_refuses_a_second_call(livekv, model, tokens):
    session = model.session(8000)
    long = tokens * 25
    worker = threading.Thread(target=session.prefill, args=[long])
    worker.start()
    refused = pytest.raises(livekv.Error, match="this session is in use by another call")
    while worker.is_alive():  # the interpreter runs on: the lock is released in there
        try:
            _ = session.n_tokens
        except livekv.Error:
            break
    for call in (lambda: session.n_tokens, lambda: session.tokens, lambda: session.eval([1]), session.close, session.reset,
                 session.fork, lambda: session.trim(0), lambda: session.kv_dump(0), session.kv_stats, lambda: session.save("x"),
                 lambda: session.load("x"), lambda: session.generate([1]), lambda: session.last_logits):  # fmt: skip
        with refused:
            call()
    assert worker.is_alive(), "the call was over before all others were refused"
    worker.join()
    assert session.tokens == long


def test_the_interpreters_lock_is_released_in_long_calls(livekv, model, tokens, tmp_path):
    long = tokens * 12
    engine = livekv.Engine(model)
    for call in (lambda: model.session(4000).prefill(long), lambda: model.session(4000).eval(long),
                 lambda: engine.step([(model.session(4000), long)]),
                 lambda: list(engine.generate_batch([model.session(4000).generate(long, 1)])),
                 lambda: livekv.fidelity(model, long, 1800), lambda: next(model.session(4000).generate(long, 1))):  # fmt: skip
        worker = threading.Thread(target=call)
        worker.start()
        n_steps = 0
        while worker.is_alive():
            n_steps += 1
            time.sleep(0.001)
        assert n_steps > 30  # were the lock held, this loop would stand still until the call is over


CTRL_C = """
import signal, sys, time, warnings
import livekv
warnings.simplefilter("ignore")  # of longer contexts than the model knows
model = livekv.Model(sys.argv[1], n_threads=1)
tokens = [1] + [300 + i % 500 for i in range(29_999)]
session, engine = model.session(40_000, kv=livekv.KVOptions(chunk_size=128)), livekv.Engine(model)
text = session.generate([1], None, temperature=0, ignore_eos=True)
call = {"prefill": lambda: session.prefill(tokens), "eval": lambda: session.eval(tokens),
        "fidelity": lambda: livekv.fidelity(model, tokens, n_ctx=15_000, kv=livekv.KVOptions(chunk_size=128),
                                            progress=lambda done, total: print("window", flush=True)),
        "step": lambda: engine.step([(session, tokens), (model.session(40_000), tokens)]),
        "generate": lambda: "".join(text), "batch": lambda: list(engine.generate_batch([text]))}[sys.argv[2]]
print("ready", flush=True)
try:
    call()
except KeyboardInterrupt:
    print("interrupted", session.n_tokens, flush=True)
    if sys.argv[2] not in ("generate", "batch"):
        session.reset()
        assert session.prefill([1, 2]).shape == (4096,)
    else:
        assert next(text, None) is None and text.text and text.usage.finish_reason == "interrupted"
"""


@pytest.mark.parametrize("what", ["prefill", "eval", "step", "fidelity", "generate", "batch"])
def test_ctrl_c_ends_a_long_call_within_a_chunk(livekv, build_dir, story, what):
    environment = os.environ | {"PYTHONPATH": str(build_dir / "python")}
    with subprocess.Popen([sys.executable, "-c", CTRL_C, story, what], env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          # A test run in the background ignores SIGINT, and so would its children.
                          preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) as run:  # fmt: skip
        assert run.stdout.readline() == "ready\n", run.stderr.read()
        time.sleep(0.5)
        assert run.poll() is None, "the call was over too soon to be interrupted"
        run.send_signal(signal.SIGINT)
        try:
            out, err = run.communicate(timeout=60)
        finally:
            run.kill()  # one that does not listen
    assert (run.returncode, out.split()[:1], err) == (0, ["interrupted"], "")  # before the first window was done
    n_tokens = int(out.split()[1])
    if what in ("generate", "batch"):
        assert 0 < n_tokens < 40_000
    if what in ("prefill", "eval", "step"):
        assert 0 < n_tokens < 30_000 and n_tokens % 128 == 0


def test_a_chat_is_written_as_the_models_template_has_it(livekv, tmp_path):
    folder = tiny_models.make(tmp_path / "chat", SHAPES["hd8"])
    settings = folder / "tokenizer_config.json"
    config = json.loads(settings.read_text())
    config["chat_template"] = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    settings.write_text(json.dumps(config))
    convert_hf.convert(folder, tmp_path / "chat.gguf", "f16")
    chat = livekv.Model(tmp_path / "chat.gguf")
    assert chat.has_chat_template and chat.chat_family == "chatml"
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    said = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
    assert chat.apply_chat_template(messages, add_generation_prompt=False) == said
    assert chat.apply_chat_template(messages) == said + "<|im_start|>assistant\n"
    wizard = [{"role": "wizard", "content": "x"}]
    assert chat.apply_chat_template(wizard, add_generation_prompt=False) == "<|im_start|>wizard\nx<|im_end|>\n"
    for bad in ([{"role": "wizard"}], []):
        with pytest.raises(livekv.Error):
            chat.apply_chat_template(bad)
