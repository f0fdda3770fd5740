"""LongBench's tasks and prompts are the official ones, and long prompts lose their middle."""

from __future__ import annotations

import hashlib
import json
from importlib import resources

import pytest

from python_eval.longbench import data, metrics, tasks
from python_eval.longbench.tasks import LongBenchError


def test_the_task_table_is_the_official_one():
    assert len(tasks.TASKS) == 21 and len(tasks.E_TASKS) == 13
    bare = {name for name, task in tasks.TASKS.items() if not task.chat_template}
    assert bare == {"trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p"}
    assert {name for name, task in tasks.TASKS.items() if task.first_line} == {"trec", "triviaqa", "samsum", "lsht"}
    assert [name for name, task in tasks.TASKS.items() if task.stop_at_newline] == ["samsum"]
    assert {task.metric for task in tasks.TASKS.values()} == set(metrics.METRICS)
    by_max_gen = {n: {name for name, task in tasks.TASKS.items() if task.max_gen == n} for n in (64, 128, 512)}
    assert by_max_gen == {
        64: {"multifieldqa_en", "multifieldqa_zh", "trec", "lsht", "lcc", "repobench-p"},
        128: {"narrativeqa", "qasper", "dureader", "samsum"},
        512: {"gov_report", "qmsum", "multi_news", "vcsum"},
    }
    assert sum(task.max_gen == 32 for task in tasks.TASKS.values()) == 7


def test_the_prompts_are_the_published_text():
    v1 = json.loads(resources.files("python_eval.longbench").joinpath("prompts.json").read_text(encoding="utf-8"))["v1"]
    # Written as the official file is, this is its length, 4978 characters.
    text = json.dumps(v1, ensure_ascii=False, indent=4) + "\n"
    assert len(text) == 4978 and list(v1) == list(tasks.TASKS)
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert digest == "5c1231ee6c3f198b0021e9c1ab9b66cbbfb52c432e0ed821a5afe89eefa17fd8"


def test_a_prompt_leaves_braces_of_the_context_alone():
    prompt = tasks.task("repobench-p").prompt({"context": "{x} {input}\n", "input": "f({y})\n"})
    assert prompt == "Please complete the code given below. \n{x} {input}\nf({y})\nNext line of code:\n"


def test_every_sample_of_the_small_data_set_makes_a_prompt(shared):
    n = 0
    for task in tasks.select("all"):
        for sample in data.read_samples(shared / "longbench" / "mini", task):
            assert sample.context in task.prompt({"context": sample.context, "input": sample.input})
            assert all(answer in sample.classes for answer in sample.answers) or not sample.classes
            n += 1
    assert n == 237


def test_select_names_groups_and_lists():
    assert [task.name for task in tasks.select("zh")] == [
        "multifieldqa_zh", "dureader", "vcsum", "lsht", "passage_retrieval_zh",
    ]  # fmt: skip
    assert len(tasks.select("en")) == 16 and len(tasks.select("e")) == 13
    assert [task.name for task in tasks.select("lcc, qasper,lcc")] == ["lcc", "qasper"]
    with pytest.raises(LongBenchError, match=r"unknown LongBench task 'lc'; known: narrativeqa, .*repobench-p"):
        tasks.select("qasper,lc")


def test_v2_prompt_and_answer():
    sample = dict.fromkeys(tasks.V2_FIELDS, "?") | {"context": " a long text\n", "choice_D": "none "}
    prompt = tasks.v2_prompt(sample)
    assert "<text>\na long text\n</text>" in prompt and "(D) none\n" in prompt and "$" not in prompt
    assert prompt.endswith('"The correct answer is (insert answer here)".')
    assert tasks.v2_answer("The correct answer is **(B)**, as A says") == "B"
    assert tasks.v2_answer("The correct answer is A. No: The correct answer is (C)") == "C"  # brackets first
    assert tasks.v2_answer("The correct answer is D") == "D"
    assert tasks.v2_answer("the correct answer is (B)") is None and tasks.v2_answer("B") is None


# --- truncation ---


class Letters:
    """A token a letter, and a BOS that is never decoded."""

    def encode(self, text):
        return [0, *map(ord, text)]

    def decode(self, ids):
        return "".join(chr(i) for i in ids if i)


@pytest.mark.parametrize(
    ("max_tokens", "v1", "v2"),
    [
        (7, "abcdef", "abcdef"),  # fits, the BOS counted
        (6, "abdef", "abdef"),
        (5, "aef", "adef"),  # odd: v1 drops one more
        (2, "f", "f"),
    ],
)
def test_the_middle_is_cut(max_tokens, v1, v2):
    assert data.truncate_middle("abcdef", Letters(), max_tokens) == v1
    assert data.truncate_middle_v2("abcdef", Letters(), max_tokens) == v2


def test_v1_decodes_the_halves_apart_and_v2_together():
    class Counted(Letters):
        def decode(self, ids):
            return f"<{super().decode(ids)}>"

    assert data.truncate_middle("abcdef", Counted(), 4) == "<a><ef>"
    assert data.truncate_middle_v2("abcdef", Counted(), 4) == "<aef>"


def test_a_prompt_is_not_cut_to_nothing():
    for truncate in (data.truncate_middle, data.truncate_middle_v2):
        with pytest.raises(LongBenchError, match="to 1 tokens"):
            truncate("abcdef", Letters(), 1)
