"""livekv as a model of lm-evaluation-harness: the three requests against logits, and whole runs of its command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from recorded import make_recorded

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: requirements/eval.txt")

from python_eval.errors import EvalError  # noqa: E402
from python_eval.lm_eval.__main__ import main  # noqa: E402
from python_eval.lm_eval.engine import PIECE, Engine, Generate, Score, _groups, log_likelihood  # noqa: E402
from python_eval.lm_eval.prefixes import STEP, common_length, sessions, split_runs  # noqa: E402

# As test_logits: the f16 cache rounds keys, values and queries. A token's ln p moves by at most twice that.
LOGITS_TOLERANCE = 1e-3  # of the range of the reference's logits


livekv: Any = None  # the package, once there is a test that needs it


@pytest.fixture(scope="module", autouse=True)
def _package(livekv):
    globals()["livekv"] = livekv


@pytest.fixture(scope="module")
def model(livekv, story):
    return livekv.Model(story)


@pytest.fixture(scope="module")
def ids(model, root):
    return model.tokenize((root / "tests" / "data" / "war-and-peace-opening.txt").read_text())


def engine(path, kv="f16", n_ctx=2048, batch=1):
    return Engine(path, kv, n_ctx, 1, 0, batch)


def greedy(context, n, stop=()):
    return Generate(list(context), n, tuple(stop), 0.0, 0, 1.0, 0.0, 1.0, 0)


def test_kept_answers_are_of_one_model_and_cache(livekv, story, tmp_path):
    from lm_eval.api.model import CachingLM

    from python_eval.lm_eval.model import LiveKV

    file = tmp_path / "answers.db"

    def opened(**options):
        CachingLM(LiveKV(**{"path": str(story), "kv": "f16", "n_ctx": 64} | options), str(file)).dbdict.close()

    for _ in range(2):
        opened(batch=2)
    other = tmp_path / story.name
    other.write_bytes(story.read_bytes() + b"0")
    for options, field in (({"kv": "q8_0"}, "cache"), ({"n_ctx": 65}, "n_ctx"), ({"path": str(other)}, "model.bytes")):
        with pytest.raises(EvalError, match=f"answers.db: was run with {field} = "):
            opened(**options)
    opened()
    file.unlink()
    with CachingLM(LiveKV(path=str(story)), str(file)).dbdict as answers:
        del answers["livekv config"]
        answers["a request's hash"] = 1
    with pytest.raises(EvalError, match="answers.db: does not say which model gave its answers"):
        opened()


# --- the engine ---


def test_log_likelihood_is_that_of_the_softmax():
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]], np.float32)) + 30.0
    assert log_likelihood(logits, [0, 1]) == (pytest.approx(np.log(0.5 * 0.2), abs=1e-6), False)
    assert log_likelihood(logits, [0, 2]) == (pytest.approx(np.log(0.5 * 0.7), abs=1e-6), True)


@pytest.mark.parametrize("name", ["gqa_hd64", "tied"])
def test_likelihoods_are_those_of_transformers(name, tmp_path):
    case = make_recorded(name, tmp_path)
    tokens, logits = case.tokens, case.logits
    at = len(tokens) // 2
    requests = [Score(tokens[:at], [tokens[at:], tokens[at : at + 1]]), Score(tokens[:1], [tokens[1:]])]
    answers = engine(case.model)(requests)
    tolerance = 2 * LOGITS_TOLERANCE * float(logits.max() - logits.min())
    for answer, request in zip(answers, requests, strict=True):
        begin = len(request.context) - 1
        for (value, best), tail in zip(answer.value, request.continuations, strict=True):
            expected, expected_best = log_likelihood(logits[begin : begin + len(tail)], tail)
            assert value == pytest.approx(expected, abs=tolerance * len(tail)) and best == expected_best


@pytest.mark.parametrize("kv", ["f16", "livekv:chunk-size=64", "q8_0"])
def test_shared_beginnings_change_no_bit(kv, story, model, ids):
    requests = [
        *(Score(ids[:500] + ids[i : i + 90], [ids[900:910], ids[1100:1120], [5]]) for i in (500, 600, 800)),
        Score(ids[:400], [ids[400:460]]),
        Score(ids[:400], [ids[401:461]]),
        Score(ids[:1], [ids[1:40]]),
        Score(ids[:3], [ids[3 : PIECE + STEP + 40]]),  # in two pieces
    ]
    together = engine(story, kv)(requests)
    assert sum(answer.n_reused for answer in together) > 3 * 400
    for answer, request in zip(together, requests, strict=True):
        for value, tail in zip(answer.value, request.continuations, strict=True):
            # A session of its own that reads everything at once.
            session = model.session(n_ctx=2048, kv=livekv.KVOptions.parse(kv), n_threads=1)
            rows = session.eval(request.context + tail[:-1], all_logits=True)[-len(tail) :]
            assert value == (pytest.approx(log_likelihood(rows, tail)[0], rel=1e-12), log_likelihood(rows, tail)[1])
        if kv.startswith("livekv"):  # the others are allocated for the session's whole context
            assert answer.kv_bytes == session.kv_bytes


def test_the_harness_sees_what_a_cache_changes(story, model, ids):
    request = [Score(ids[:1000], [ids[1000:1100]])]
    exact, packed = (engine(story, kv)(request)[0] for kv in ("f16", "livekv:kv-bits=3:chunk-size=64"))
    difference = abs(exact.value[0][0] - packed.value[0][0])
    assert 1e-3 < difference < 20
    session = model.session(n_ctx=1100, kv=livekv.KVOptions.parse("livekv:kv-bits=3:chunk-size=64"), n_threads=1)
    rows = session.eval(ids[:1099], all_logits=True)[-100:]
    assert packed.value[0][0] == pytest.approx(log_likelihood(rows, ids[1000:1100])[0], rel=1e-12)
    assert packed.kv_bytes < 0.5 * packed.kv_f16_bytes and exact.kv_bytes >= exact.kv_f16_bytes


def test_greedy_texts_are_the_sessions(story, model, ids):
    texts = [answer.value for answer in engine(story)([greedy(ids[:300], 40), greedy(ids[:320], 40, ["the"])])]
    for n, text, stop in ((300, texts[0], []), (320, texts[1], ["the"])):
        session = model.session(n_ctx=1024, kv=livekv.KVOptions.parse("f16"), n_threads=1)
        expected = session.generate(ids[:n], max_tokens=40, temperature=0.0, stop=stop)
        assert text == "".join(expected) and "the" not in (text if stop else "")
    assert 0 < len(texts[1]) < len(texts[0])


def test_a_request_that_does_not_fit_is_refused(story, ids):
    with pytest.raises(EvalError, match="a request needs 540 tokens; the context has 512"):
        engine(story, n_ctx=512)([greedy(ids[:500], 40)])


def test_runs_hold_neighbours_that_share_a_beginning():
    a, b, c = list(range(100)), [*range(70), 7, 8], [5] * 90
    assert common_length(a, b) == 70 and common_length(a, a[:10]) == 10
    assert split_runs([c, a, b], 16) == [[2, 1], [0]]
    assert split_runs([a, a, a], 2) == [[0, 1], [2]]
    assert split_runs([c, a, b, [6]], 16, at_least=3) == [[2, 1, 0], [3]]
    assert split_runs([a, a, a, c], 2, at_least=2) == [[0, 1], [2, 3]]


def test_continuations_advance_in_groups_of_a_piece():
    assert _groups([100] * 7, 4) == [[0, 1, 2, 3], [4, 5, 6]]
    assert _groups([PIECE + 1, 10, PIECE - 10, 1], 4) == [[0], [1, 2], [3]]
    assert _groups([1, 2], 1) == [[0], [1]] and _groups([], 4) == []


# Logits of a batch differ from those of a sequence alone by the order in which products are summed, and by what that tips
# when a cache rounds: nats a scored token.
BATCH_TOLERANCE = 1e-3


@pytest.mark.parametrize("kv", ["f16", "livekv:chunk-size=64", "q8_0"])
def test_a_batch_answers_as_one_by_one(kv, root, livekv):
    tiny = root / "tests" / "models" / "tiny.gguf"
    text = (root / "tests" / "data" / "war-and-peace-opening.txt").read_text()
    ids = livekv.Model(tiny).tokenize(text)
    requests = [
        *(greedy(ids[at : at + 50 + 30 * at // 40], 30, ["the"] if at % 80 else []) for at in range(0, 240, 40)),
        Score(ids[:300], [ids[300:310], ids[700:730], [5], ids[400:402], ids[310:320]]),
        Score(ids[:20], [ids[20:30], ids[300 : 300 + PIECE]]),
        greedy(ids[:300], 10),
        greedy(ids[:330], 10),
    ]
    one, four = (engine(tiny, kv, batch=batch)(requests) for batch in (1, 4))
    assert len({answer.value for answer in one if isinstance(answer.value, str)}) > 5
    # The cache of a request without relatives is as long as it needs, whoever is asked beside it.
    assert engine(tiny, kv)([requests[1]])[0].kv_bytes == four[1].kv_bytes
    for alone, together, request in zip(one, four, requests, strict=True):
        assert (alone.n_tokens, alone.n_reused, alone.kv_bytes, alone.kv_f16_bytes) == (
            together.n_tokens, together.n_reused, together.kv_bytes, together.kv_f16_bytes)  # fmt: skip
        if isinstance(request, Generate):
            assert alone.value == together.value
            continue
        for (a, best), (b, also), tail in zip(alone.value, together.value, request.continuations, strict=True):
            assert a == pytest.approx(b, abs=BATCH_TOLERANCE * len(tail)) and best == also


class Reading:
    """A session that holds tokens, and counts what all of them read."""

    n_read = 0

    def __init__(self, tokens=()):
        self.tokens = list(tokens)

    @property
    def n_tokens(self):
        return len(self.tokens)

    def fork(self):
        return Reading(self.tokens)

    def prefill(self, tokens):
        self.tokens += tokens
        Reading.n_read += len(tokens)


def test_each_beginning_is_read_once(monkeypatch):
    monkeypatch.setattr(Reading, "n_read", 0)
    base = list(range(STEP * 3))
    contexts = [
        [*base, 900, 901],
        [*base[: STEP * 2], 902],
        [*base, 903],
        [*base[: STEP + 5], 904],
        [905] * 5,
        base[: STEP * 2],
        [],
        base,
    ]
    seen = {}
    for index, session, n_read in sessions(Reading, contexts):
        assert session.tokens == contexts[index]
        session.prefill([7])  # the caller's own
        seen[index] = n_read
    assert set(seen) == set(range(len(contexts))) and sum(seen.values()) + len(contexts) == Reading.n_read
    # The base once, then what is each context's own: 2, 1, 1, and of the fourth what is beyond the last whole step.
    assert sum(seen.values()) == STEP * 3 + 2 + 1 + 1 + 6 + 5


# --- the harness ---


@pytest.fixture(scope="module")
def harness(story):
    from lm_eval.api.instance import Instance

    from python_eval.lm_eval.model import LiveKV

    lm = LiveKV(path=str(story), kv="f16", n_ctx=256, threads=1)

    def ask(kind, *arguments):
        requests = [Instance(kind, {}, one, i) for i, one in enumerate(arguments)]
        return getattr(lm, kind)(requests, disable_tqdm=True)

    return lm, ask


def test_a_text_alone_is_scored_after_bos(harness, model):
    lm, ask = harness
    text = "The Prince went to the window and looked at the street."
    tokens = model.tokenize(text, add_special=False)
    rows = model.session(n_ctx=256, kv=livekv.KVOptions.parse("f16"), n_threads=1).eval(
        [model.bos_token, *tokens[:-1]], all_logits=True
    )
    expected = log_likelihood(rows, tokens)
    assert ask("loglikelihood", ("", text)) == [(pytest.approx(expected[0], rel=1e-9), expected[1])]
    assert ask("loglikelihood_rolling", (text,)) == [pytest.approx(expected[0], rel=1e-9)]
    assert lm.tok_encode(text) == [model.bos_token, *tokens] and lm.prefix_token_id == model.bos_token


def test_rolling_windows_score_each_token_once(harness, model, root):
    text = (root / "tests" / "data" / "war-and-peace-opening.txt").read_text()[:2300]
    tokens = model.tokenize(text, add_special=False)
    assert 2 * 256 < len(tokens) < 3 * 256
    expected, at = 0.0, 0
    for end in (256, 512, len(tokens)):  # windows of 256 inputs; the last one reaches back for a whole context
        window = [model.bos_token, *tokens[:255]] if at == 0 else tokens[end - 257 : end - 1]
        rows = model.session(n_ctx=256, kv=livekv.KVOptions.parse("f16"), n_threads=1).eval(window, all_logits=True)
        expected += log_likelihood(rows[-(end - at) :], tokens[at:end])[0]
        at = end
    assert harness[1]("loglikelihood_rolling", (text,)) == [pytest.approx(expected, rel=1e-9)]


def test_long_contexts_lose_their_beginning(harness, model, root):
    text = (root / "tests" / "data" / "war-and-peace-opening.txt").read_text()[:3000]
    tokens, tail = model.tokenize(text), model.tokenize(" he said", add_special=False)
    kept = [*tokens, *tail][-257:]
    rows = model.session(n_ctx=256, kv=livekv.KVOptions.parse("f16"), n_threads=1).eval(kept[:-1], all_logits=True)
    expected = log_likelihood(rows[-len(tail) :], tail)[0]
    assert harness[1]("loglikelihood", (text, " he said"))[0][0] == pytest.approx(expected, rel=1e-9)


def test_generation_arguments(harness):
    lm, ask = harness
    context = "The Emperor went to the window and"
    long, short, again, sampled, other = ask(
        "generate_until",
        (context, {"max_gen_toks": 30, "temperature": 0.7}),
        (context, {"max_gen_toks": 30, "until": [" the"], "do_sample": False, "temperature": 1}),
        (context, {"max_gen_toks": 30, "do_sample": False}),
        (context, {"max_gen_toks": 30, "do_sample": True, "temperature": 1.5}),
        (context + " then", {"max_gen_toks": 30, "do_sample": True, "temperature": 1.5}),
    )
    assert again.startswith(short) and " the" not in short and short != again
    # A temperature alone samples, as the harness has it; a seed makes it repeatable.
    assert len({long, again, sampled, other}) == 4
    assert ask("generate_until", (context, {"max_gen_toks": 30, "do_sample": True, "temperature": 1.5})) == [sampled]
    assert lm.totals["tokens_reused"] == 0 or lm.get_model_info()["livekv"]["kv_bits_per_value"] >= 16
    for arguments, message in [
        ({"max_gen_toks": 256}, "max_gen_toks 256 leaves no room"),
        ({"typical_p": 0.5}, "no generation argument 'typical_p'"),
        ({"num_beams": 4}, "no generation argument 'num_beams'"),
    ]:
        with pytest.raises(EvalError, match=message):
            ask("generate_until", (context, arguments))


CHOICE = """task: toy_choice
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
target_delimiter: ""
doc_to_target: label
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
TEXT = """task: toy_text
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[label]}}"
generation_kwargs: {until: ["."], max_gen_toks: 12}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
ROWS = [
    {
        "question": "He said that the Prince was a very good man, and",
        "choices": [" he was", " table chairs"],
        "label": 0,
    },
    {"question": "The Emperor went to the window and looked", "choices": [" xylophone", " at the street"], "label": 1},
]


@pytest.fixture
def run(tmp_path, root):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for name, text in (("choice", CHOICE), ("text", TEXT)):
        (tmp_path / f"{name}.yaml").write_text(text.replace("DATA", str(tmp_path / "rows.jsonl")))
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))

    def run(*arguments):
        command = [sys.executable, "-m", "python_eval.lm_eval", *map(str, arguments)]
        return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)

    return run


@pytest.mark.slow
def test_a_local_task_runs_end_to_end_offline(run, tmp_path, story, model):
    kv = 'kv="livekv:kv-bits=4,3:chunk-size=32"'
    done = run(
        "--model_args", f"path={story},{kv},workers=2", "--tasks", "toy_choice,toy_text", "--include_path", tmp_path,
        "--output_path", tmp_path / "out", "--log_samples", "--batch", 3,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "toy_choice" in done.stdout and "toy_text" in done.stdout
    assert "the scores of these tasks mean nothing" in done.stdout + done.stderr
    results = json.loads(next((tmp_path / "out").rglob("results_*.json")).read_text())
    info = results["config"]["livekv"]
    assert results["config"]["model_args"]["batch"] == 3
    assert info["kv"] == "livekv:chunk-size=32:kv-bits=4,3" and info["kv_bits_per_value"] > 3
    # The harness's numbers are the engine's.
    lines = next((tmp_path / "out").rglob("samples_toy_choice_*.jsonl")).read_text().splitlines()
    hits = []
    for line in map(json.loads, lines):
        row = line["doc"]
        context = model.tokenize(row["question"])
        whole = [model.tokenize(row["question"] + choice) for choice in row["choices"]]
        request = Score(context, [one[len(context) :] for one in whole])
        values = [value for value, _ in engine(story, info["kv"])([request])[0].value]
        assert [float(one[0]) for one in line["filtered_resps"]] == pytest.approx(values, rel=1e-9)
        hits.append(int(np.argmax(values)) == row["label"])
    assert results["results"]["toy_choice"]["acc,none"] == np.mean(hits)


def test_workers_answer_as_one_process_does(harness, story, monkeypatch):
    from lm_eval.api.instance import Instance

    from python_eval.lm_eval.model import LiveKV

    asked = [("The Prince went to", " the window"), ("He said that", " it was"), ("In the evening", " they came")]
    alone = harness[1]("loglikelihood", *asked)
    monkeypatch.setattr(Engine, "__call__", None)  # of this process; the workers import their own
    helped = LiveKV(path=str(story), kv="f16", n_ctx=256, threads=1, workers=2)
    requests = [Instance("loglikelihood", {}, one, i) for i, one in enumerate(asked)]
    assert helped.loglikelihood(requests, disable_tqdm=True) == alone


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kv": "q5"}, "'q5' is neither a policy nor a preset"),
        ({"colour": "red"}, "unknown model argument 'colour'"),
        ({"path": "nowhere.gguf"}, "nowhere.gguf: no such file"),
        ({"path": ""}, "which model"),
        ({"batch": 0}, "batch is 0; it must be 1 or more"),
    ],
)
def test_bad_model_arguments_are_named(arguments, message, story, livekv):
    from python_eval.lm_eval.model import LiveKV

    with pytest.raises((EvalError, livekv.Error), match=message):
        LiveKV(**{"path": str(story)} | arguments)


@pytest.mark.slow
def test_a_failure_is_one_line(run, tmp_path, story, monkeypatch, capsys):
    given = ["--model_args", f"path={story},kv=q5", "--tasks", "toy_text", "--include_path", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["lm_eval", "run", *given])
    assert main() == 1
    assert "lm_eval: cache 'q5'" in capsys.readouterr().err.splitlines()[-1]
