"""LongBench answers: prompts that leave room, templates, decoding."""

from __future__ import annotations


import numpy as np
import pytest
from longbench_runs import STORY, TEXT

from python_eval.longbench import answer, data, prepare, tasks


@pytest.fixture(scope="module")
def model(livekv):
    return livekv.Model(STORY)


class WithTemplate:
    """The model with a chat template put on it."""

    has_chat_template = True

    def __init__(self, model):
        self.tokenize, self.detokenize = model.tokenize, model.detokenize
        self.tokenize_prompt = model.tokenize_prompt

    def apply_chat_template(self, messages):
        return f"[INST] {messages[0]['content']} [/INST]"


def test_prompts_leave_room_for_the_answer(model):
    sample = data.Sample(("x",), (), 1, context=TEXT[:6000], input="Who is it?")
    for name in ("qasper", "trec"):
        task = tasks.task(name)
        full = task.prompt({"context": sample.context, "input": sample.input})
        cut = prepare.prepare(model, task, sample, 700)
        assert 700 - task.max_gen - 20 < len(cut.ids) <= 700 - task.max_gen and cut.cut
        whole = prepare.prepare(model, task, sample, 4096)
        assert whole.ids == model.tokenize(full) and not whole.cut
        text = model.detokenize(cut.ids)
        half = (len(cut.ids) - 8) * 3 // 8  # characters, fewer than a half's tokens have
        assert text[:half] == full[:half] and text[-half:] == full[-half:]
        limited = prepare.prepare(model, task, sample, 700, 100)
        assert 95 <= len(limited.ids) <= 105 and limited.cut


def test_chat_templates_are_for_the_tasks_that_have_one(model):
    sample = data.Sample(("x",), (), 1, context=TEXT[:6000], input="Who is it?")
    for name, wrapped in (("qasper", True), ("trec", False), ("lcc", False), ("samsum", False)):
        prompt = prepare.prepare(WithTemplate(model), tasks.task(name), sample, 700)
        text = model.detokenize(prompt.ids)
        assert (text.startswith("[INST] ") and text.endswith(" [/INST]")) == wrapped
        assert 700 - tasks.task(name).max_gen - 20 < len(prompt.ids) <= 700 - tasks.task(name).max_gen
    assert "[INST]" not in model.detokenize(prepare.prepare(model, tasks.task("qasper"), sample, 700, chat=False).ids)


def test_a_context_without_room_is_refused(model):
    sample = data.Sample(("x",), (), 1, context=TEXT, input="")
    with pytest.raises(tasks.LongBenchError, match="a context that leaves -12 tokens to a prompt is too short"):
        prepare.prepare(model, tasks.task("gov_report"), sample, 500)
    with pytest.raises(tasks.LongBenchError, match="--max-length is 1; what is left of a prompt is at least 2 tokens"):
        prepare.prepare(model, tasks.task("gov_report"), sample, 4000, 1)


def test_an_answer_is_the_command_lines(livekv, model, tools, tmp_path):
    ids = model.tokenize(TEXT)[:300]
    (tmp_path / "prompt.txt").write_text(model.detokenize(ids))
    assert model.tokenize((tmp_path / "prompt.txt").read_text()) == ids
    for kv in ("f16", "livekv"):
        (got,) = answer.answer_together(model, [(ids, answer.Decoding(40))], livekv.KVOptions.parse(kv), 1)
        said = tools.run(
            "livekv-cli", "-m", STORY, "-f", tmp_path / "prompt.txt", "-n", 40, "--temp", 0, "--kv", kv, "-t", 1
        ).stdout
        assert got["pred"].strip() == said.strip() != ""
        assert (got["prompt_tokens"], got["generated_tokens"], got["finish_reason"]) == (300, 40, "length")
        assert 0 < got["prefill_s"] <= got["ttft_s"] and got["decode_s"] > 0
        assert got["rss_before"] < got["rss_peak"] < got["rss_before"] + (64 << 20)


def row(order):
    """Logits of eight tokens, 6 the newline and 7 the end, that prefer those of `order`, the first most."""
    return np.array([float(8 - order.index(t)) if t in order else 0.0 for t in range(8)])


class Scripted:
    """Vocabulary and engine of sessions that are lists of the rows to come."""

    n_vocab = 8

    def tokenize(self, text, add_special=True):
        return [6]

    def is_end_of_generation(self, token):
        return token == 7

    def step(self, batch, generated):
        assert generated and all(len(tokens) == 1 for _, tokens in batch)
        return [session.pop(0) for session, _ in batch]


def test_samsum_ends_at_a_newline_but_does_not_begin_with_one():
    assert tasks.task("samsum").stop_at_newline and answer.decoding(tasks.task("samsum")).stop_at_newline
    cases = [
        ([[6, 7, 3], [4], [6]], [3, 4, 6], "stop", 3),  # neither newline nor end comes first
        ([[2], [7]], [2], "eos", 2),
        ([[2], [3], [4], [5]], [2, 3, 4, 5], "length", 4),
    ]
    how = answer.Decoding(4, stop_at_newline=True)
    for chosen in ([cases[0]], [cases[1]], [cases[2]], cases):
        asked = []
        for preferred, *_ in chosen:
            first, *later = map(row, preferred)
            asked.append(answer.Asked(later, how, first, 1, 0.5, 0.25))
        answer._until_newline(Scripted(), Scripted(), asked)
        for one, (_, tokens, reason, n_generated) in zip(asked, chosen, strict=True):
            assert one.tokens == tokens and one.session == []
            assert (one.measures["finish_reason"], one.measures["generated_tokens"]) == (reason, n_generated)
            assert one.measures["prefill_s"] == 0.5 <= one.measures["ttft_s"] and one.measures["seal_s"] == 0.25
    (short,) = [answer.Asked([], answer.Decoding(1, stop_at_newline=True), row([6, 3]), 1, 0.5, 0.25)]
    answer._until_newline(Scripted(), Scripted(), [short])
    assert short.tokens == [3] and short.measures["finish_reason"] == "length"
