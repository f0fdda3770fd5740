"""Generated tasks: answers that the context holds, at the depths and lengths asked for, the same for the same seed."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from python_eval.testbed import haystack
from python_eval.testbed.layout import layout
from python_eval.testbed.task import Maker
from python_eval.testbed.tasks import FORMS

PIECES: list[str] = []
IDS: dict[str, int] = {}


def encode(text: str) -> list[int]:
    """A tokenizer for tests: words, numbers by three digits, single marks; decodable."""
    ids = []
    for piece in re.findall(r"\s?[A-Za-z']+|\s?\d{1,3}|\s|[^\sA-Za-z\d]", text):
        if piece not in IDS:
            IDS[piece] = len(PIECES)
            PIECES.append(piece)
        ids.append(IDS[piece])
    return ids


def decode(ids) -> str:
    return "".join(PIECES[i] for i in ids)


def make(form: str, n_tokens: int, seed: int, depths=(), n_questions=3, full=False):
    rng = np.random.default_rng([seed, n_tokens])
    maker = Maker(encode, n_tokens, n_questions, depths, full)
    return layout(FORMS[form](maker, rng), maker, haystack.made_up(encode), rng)


def answer_from(form: str, context: str, prompt: str) -> str:
    """Solves a task from its text alone, by other means than those that made it."""
    if form in ("single_key", "multi_key"):
        who = re.search(r"(?:of|for) ([A-Z][a-z]+ [A-Z][a-z]+)", prompt).group(1)
        what = re.search(r"[Tt]he ([a-z]+ [a-z]+) (?:of|for)", prompt).group(1)
        return re.search(rf"{what} (?:of|for) {who} is ( ?\d+)", context).group(1)
    if form == "passkey":
        return re.search(r"The pass key is (\d+)\.", context).group(1)
    if form == "multi_value":
        who = re.search(r"s of ([A-Z]\w+ [A-Z]\w+)\?", prompt).group(1)
        return ", ".join(re.findall(rf"One of the \w+ \w+ of {who} is (\d+)\.", context)) + "."
    if form == "variable_tracking":
        held = {}
        for name, value in re.findall(r"VAR ([A-Z]+) = (?:VAR )?([A-Z]+|\d+)\.", context):
            held[name] = held.get(value, value)
        value = re.search(r"value (\d+)\?", prompt).group(1)
        return ", ".join(name for name, known in held.items() if known == value) + "."
    if form == "multi_hop":
        who = re.search(r"does (.+?) live\?", prompt).group(1)
        town = re.search(rf"{who} lives in the town of (\w+)\.", context).group(1)
        return re.search(rf"The town of {town} lies in the land of (\w+)\.", context).group(1)
    if form == "people":
        line = prompt.rsplit("\nAnswer: ", 1)[1]
        who = re.search(r"([A-Z][a-z]+ [A-Z][a-z]+) ", line + " ").group(1)
        if line.endswith("works as a"):
            return re.search(rf"{who} was born in the year \d+ and works as a (\w+)", context).group(1)
        return re.search(re.escape(line) + r" (\w+)", context).group(1)
    if form == "key_value":
        key = re.search(r"value of (\w+)\?", prompt).group(1)
        return re.search(rf'{key}"?\W+(\w+)', context).group(1)
    words = re.findall(r"(\w+),", context)
    if form == "count_word":
        n = words.count(re.search(r"the word (\w+) stand", prompt).group(1))
        return ["one time", *(f"{word} times" for word in ("two", "three", "four", "five", "six"))][n - 1]
    if form == "common_words":
        top = [word for word, _ in Counter(words).most_common(2)]
        return " and ".join(sorted(top, key=words.index))
    if form == "few_shot":
        from python_eval.testbed.words import KINDS

        shown = dict(re.findall(r"Word: (\w+)\nKind: (\w+)", context))
        asked = re.findall(r"Word: (\w+)\nKind:", prompt)[-1]
        labels = {label for word, label in shown.items() for kind in KINDS.values() if word in kind and asked in kind}
        assert len(labels) == 1
        return labels.pop()
    start = re.search(r"The song of \w+ goes:$", prompt).group(0)
    return re.search(re.escape(start) + r" ([a-z ]+\.)", context).group(1)


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("n_tokens", [256, 1024])
def test_the_context_holds_the_answers(form, n_tokens):
    asked = 0
    for seed in range(12):
        laid = make(form, n_tokens, seed)
        assert laid.questions
        context = decode(laid.context)
        for prompt, answer, _ in laid.questions:
            assert decode(answer).strip(' "\n') == answer_from(form, context, decode(prompt)).strip()
            asked += 1
    assert asked >= 12


@pytest.mark.parametrize("form", list(FORMS))
def test_the_same_seed_gives_the_same_task_and_another_one_another(form):
    first, again, other = (make(form, 512, seed) for seed in (1, 1, 2))
    assert (first.context, first.questions) == (again.context, again.questions)
    assert first.context != other.context


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("n_tokens", [256, 1024, 4096])
def test_tasks_fill_the_length_they_are_given(form, n_tokens):
    depths = () if form in ("count_word", "common_words", "few_shot") else (0.5,)
    if form in ("common_words", "count_word", "few_shot") and n_tokens == 4096:
        n_tokens = 2048
    sizes = [make(form, n_tokens, seed, depths, n_questions=1, full=True).n_tokens for seed in range(5)]
    assert max(sizes) <= n_tokens + (16 if form == "key_value" else 0)  # its question is not known when it is filled
    least = 0.35 if form == "count_word" else 0.6 if n_tokens == 256 else 0.85
    assert min(sizes) >= least * n_tokens


@pytest.mark.parametrize("form", sorted(set(FORMS) - {"count_word", "common_words", "few_shot"}))
@pytest.mark.parametrize("depth", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_the_answer_lies_at_the_depth_asked_for(form, depth):
    for seed in range(3):
        laid = make(form, 2048, seed, (depth,))
        longest = max(end - start for start, end in laid.spans) + 40  # a fact, and the sentence it stands before
        room = longest / len(laid.context)
        assert depth - room - 0.06 <= laid.depth(0) <= depth + 0.06
        needed = laid.questions[0][2].needs
        if len(needed) == 1:
            start, end = laid.spans[needed[0]]
            assert decode(laid.questions[0][1]).strip() in decode(laid.context[start:end])


@pytest.mark.parametrize("form", ["multi_key", "key_value", "people", "copy_span"])
def test_one_context_has_a_question_at_every_depth(form):
    depths = (0.0, 0.25, 0.5, 0.75, 1.0)
    laid = make(form, 2048, 3, depths)
    found = [laid.depth(i) for i in range(len(laid.questions))]
    assert len(found) == 5
    assert found == sorted(found)
    np.testing.assert_allclose(found, depths, atol=0.08)


def test_training_asks_at_every_depth():
    depths = [make("multi_key", 512, seed).depth(0) for seed in range(60)]
    counts = np.histogram(depths, bins=4, range=(0, 1))[0]
    assert counts.min() >= 4
