"""Long-context tasks with known answers, in the words of `words.py`: the shapes of RULER (arXiv 2404.06654) and more.

A form is a function `(maker, rng) -> Task`: facts to be scattered through a haystack, or (packed) to follow each other,
and questions whose answers only the facts hold. `layout.py` places the facts at given depths and gives token ids.
Trainer and benchmark use the same forms; they differ in seeds and in the haystack's text.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import words
from .task import Maker, Question, Rng, Task
from .words import distinct, invented, number, person, pick

_HAS = ("The {attr} of {who} is{v}.", "The {attr} for {who} is{v}.", "Remember that the {attr} of {who} is{v}.")
_ASK = (
    " What is the {attr} {of} {who}? The {attr} {of} {who} is",
    " Question: What is the {attr} {of} {who}?\nAnswer: The {attr} {of} {who} is",
    " Remember: The {attr} {of} {who} is",
)
_ASK_SHORT = " Question: What is the {attr} {of} {who}?\nAnswer:"


def _numbers(maker: Maker, rng: Rng, form: str, n: int, one_attribute: bool) -> Task:
    who = distinct(rng, person, n)
    attrs = [pick(rng, words.ATTRIBUTES)] * n if one_attribute else [pick(rng, words.ATTRIBUTES) for _ in range(n)]
    values = [" " + number(rng) for _ in range(n)]
    style = int(rng.integers(len(_HAS)))
    facts = [_HAS[style].format(attr=a, who=w, v=v) for a, w, v in zip(attrs, who, values, strict=True)]
    short = not maker.depths and rng.random() < 0.25
    ask = _ASK_SHORT if short else _ASK[int(rng.integers(len(_ASK)))]
    of = "for" if style == 1 else "of"
    questions = [Question(ask.format(attr=attrs[i], who=who[i], of=of), values[i], (i,)) for i in maker.targets(rng, n)]
    return Task(form, facts, questions)


def single_key(maker: Maker, rng: Rng) -> Task:
    """One number hidden in a text (RULER: niah_single)."""
    return _numbers(maker, rng, "single_key", 1, True)


def multi_key(maker: Maker, rng: Rng) -> Task:
    """One number of several hidden alike (RULER: niah_multikey)."""
    n = maker.n_facts(max(4, maker.n_needles(rng)))
    return _numbers(maker, rng, "multi_key", n, bool(rng.integers(2)))


def passkey(maker: Maker, rng: Rng) -> Task:
    """The pass key test of Landmark Attention (arXiv 2305.16300) and its successors."""
    key = str(int(rng.integers(10000, 100000)))
    head = (
        "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. I will quiz you "
        "about the important information there.\n"
    )
    fact = f"The pass key is {key}. Remember it. {key} is the pass key."
    return Task("passkey", [fact], [Question("\nWhat is the pass key? The pass key is", " " + key, (0,))], head=head)


def multi_value(maker: Maker, rng: Rng) -> Task:
    """All numbers that one key was given, in their order (RULER: niah_multivalue)."""
    who, attr = person(rng), pick(rng, words.ATTRIBUTES)
    values = distinct(rng, number, int(rng.integers(2, 5)))
    facts = [f"One of the {attr}s of {who} is {value}." for value in values]
    prompt = f" Question: What are all the {attr}s of {who}?\nAnswer: The {attr}s of {who} are"
    return Task("multi_value", facts, [Question(prompt, " " + ", ".join(values) + ".", tuple(range(len(values))))])


def variable_tracking(maker: Maker, rng: Rng) -> Task:
    """A chain of assignments among others (RULER: variable tracking): all names that hold the value."""
    n_chains = 1 if maker.n_tokens < 512 else 2
    n_hops = int(rng.integers(2, 5))
    names = distinct(rng, lambda r: invented(r, 2).upper(), n_chains * n_hops)
    values = distinct(rng, number, n_chains)
    facts: list[str] = []
    needs: list[int] = []  # the chain of each fact
    for chain in rng.permutation(np.repeat(np.arange(n_chains), n_hops)):
        done = sum(fact_chain == chain for fact_chain in needs)
        of = names[chain * n_hops : (chain + 1) * n_hops]
        facts.append(f"VAR {of[done]} = {values[chain] if done == 0 else 'VAR ' + of[done - 1]}.")
        needs.append(int(chain))
    questions = [
        Question(
            f" Question: Which variables have the value {values[chain]}?\nAnswer: The value {values[chain]} is held by",
            " " + ", ".join(names[chain * n_hops : (chain + 1) * n_hops]) + ".",
            tuple(i for i, c in enumerate(needs) if c == chain),
        )
        for chain in rng.permutation(n_chains)
    ]
    return Task("variable_tracking", facts, questions[: maker.n_questions])


def multi_hop(maker: Maker, rng: Rng) -> Task:
    """Two facts that must be joined: who lives where, and where that is."""
    n = 3 if maker.depths else int(np.clip(maker.n_tokens // 128, 2, 12))
    who = distinct(rng, person, n)
    place, land = distinct(rng, invented, 2 * n)[:n], distinct(rng, invented, n)
    facts = [f"{w} lives in the town of {p}." for w, p in zip(who, place, strict=True)]
    facts += [f"The town of {p} lies in the land of {x}." for p, x in zip(place, land, strict=True)]
    order = [int(i) for i in rng.permutation(2 * n)]
    at = {old: new for new, old in enumerate(order)}
    spelled = int(rng.integers(2))  # with the middle step in the question's answer prefix, or without
    questions = []
    for i in maker.targets(rng, n):
        middle = f" {who[i]} lives in the town of {place[i]}, which" if spelled else f" {who[i]}'s town"
        prompt = f" Question: In which land does {who[i]} live?\nAnswer:{middle} lies in the land of"
        questions.append(Question(prompt, " " + land[i], tuple(sorted((at[i], at[n + i])))))
    return Task("multi_hop", [facts[i] for i in order], questions)


def people(maker: Maker, rng: Rng) -> Task:
    """Questions about one of several invented people, described alike (RULER: question answering)."""
    lives: list[tuple[str, dict[str, str]]] = []

    def life() -> str:
        who = person(rng)
        facts = {"born": str(int(rng.integers(1700, 1990))), "work": pick(rng, words.JOBS), "town": invented(rng),
                 "food": pick(rng, words.KINDS["food"])}  # fmt: skip
        lives.append((who, facts))
        return (
            f"{who} was born in the year {facts['born']} and works as a {facts['work']}. "
            f"The home of {who} is the town of {facts['town']}. The favourite food of {who} is {facts['food']}."
        )

    facts = [life() for _ in range(maker.n_facts(int(np.clip(maker.n_tokens // 160, 1, 10))))]
    asks = {
        "born": "When was {0} born?\nAnswer: {0} was born in the year",
        "work": "What is the work of {0}?\nAnswer: {0} works as a",
        "town": "Where is the home of {0}?\nAnswer: The home of {0} is the town of",
        "food": "What is the favourite food of {0}?\nAnswer: The favourite food of {0} is",
    }
    questions = []
    for i in maker.targets(rng, len(facts)):
        who, known = lives[i]
        kind = pick(rng, list(asks))
        questions.append(Question(" Question: " + asks[kind].format(who), " " + known[kind], (i,)))
    return Task("people", facts, questions)


def key_value(maker: Maker, rng: Rng) -> Task:
    """A packed store of keys and values."""
    left, between, right = [("", " = ", "\n"), ("key ", ": ", "\n"), ('"', '": "', '",\n')][int(rng.integers(3))]
    numeric = bool(rng.integers(2))
    pairs: list[tuple[str, str]] = []
    seen: set[str] = set()

    def pair() -> str:
        key = invented(rng, 3)
        while key in seen:
            key = invented(rng, 3)
        seen.add(key)
        pairs.append((key, number(rng) if numeric else invented(rng)))
        return f"{left}{key}{between}{pairs[-1][1]}{right}"

    facts = maker.fill(rng, pair, share=maker.share(rng, 0.5))
    questions = []
    for i in maker.targets(rng, len(facts)):
        key, value = pairs[i]
        spaced, quote = (between.rstrip(' "'), '"' if between.endswith('"') else "")
        questions.append(
            Question(f"Question: What is the value of {key}?\nAnswer:\n{left}{key}{spaced}", f" {quote}{value}", (i,))
        )
    return Task("key_value", facts, questions, packed=True)


def count_word(maker: Maker, rng: Rng) -> Task:
    """How often a word stands in a list of words (1 to 6 times)."""
    pool = words.ALL_WORDS
    asked = [pick(rng, pool)]
    facts = [f" {w}," for w in maker.fill(rng, lambda: pick(rng, pool), share=0.45)]
    facts = [f for f in facts if f != f" {asked[0]},"]
    n = int(rng.integers(1, 7))
    for _ in range(n):
        facts.insert(int(rng.integers(len(facts) + 1)), f" {asked[0]},")
    prompt = f" end.\nQuestion: How many times does the word {asked[0]} stand in the list?\nAnswer:"
    needs = tuple(i for i, f in enumerate(facts) if f == f" {asked[0]},")
    count = ("one time", "two times", "three times", "four times", "five times", "six times")[n - 1]
    return Task("count_word", facts, [Question(prompt, " " + count, needs)], packed=True, head="List of words:")


def common_words(maker: Maker, rng: Rng) -> Task:
    """The two words of a list that come far more often than the others (RULER: common words)."""
    pool = words.ALL_WORDS
    top = [pool[int(i)] for i in rng.choice(len(pool), 2, replace=False)]
    rest = [w for w in pool if w not in top]
    odds = 0.4

    def word() -> str:
        return f" {pick(rng, top) if rng.random() < odds else pick(rng, rest)},"

    facts = maker.fill(rng, word, minimum=12)
    first = sorted(top, key=lambda w: facts.index(f" {w},") if f" {w}," in facts else len(facts))
    prompt = " end.\nQuestion: Which two words are the most common in the list?\nAnswer: The most common words are"
    needs = tuple(i for i, f in enumerate(facts) if f[1:-1] in top)
    return Task(
        "common_words",
        facts,
        [Question(prompt, f" {first[0]} and {first[1]}", needs)],
        packed=True,
        head="List of words:",
    )


def few_shot(maker: Maker, rng: Rng) -> Task:
    """Words sorted into kinds under labels invented for this context: the label of a new word."""
    kinds = [str(k) for k in rng.choice(list(words.KINDS), 3, replace=False)]
    labels = distinct(rng, lambda r: invented(r, 2).lower(), 3)
    shown: list[tuple[str, str]] = []

    def shot() -> str:
        which = int(rng.integers(3))
        shown.append((pick(rng, words.KINDS[kinds[which]]), labels[which]))
        return f"Word: {shown[-1][0]}\nKind: {shown[-1][1]}\n"

    facts = maker.fill(rng, shot, share=maker.share(rng, 0.3), minimum=6)
    questions = []
    for _ in range(maker.n_questions):
        which = labels.index(shown[int(rng.integers(len(facts)))][1])
        word = pick(rng, words.KINDS[kinds[which]])
        needs = tuple(i for i in range(len(facts)) if shown[i][1] == labels[which])
        questions.append(Question(f"Word: {word}\nKind:", f" {labels[which]}\n", needs))
    return Task("few_shot", facts, questions, packed=True)


def copy_span(maker: Maker, rng: Rng) -> Task:
    """A sentence of made-up words that must be said again from its first words."""
    pool = words.ALL_WORDS
    n = maker.n_facts(max(2, maker.n_needles(rng) // 2))
    starts = distinct(rng, invented, n)
    tails = [" ".join(pick(rng, pool) for _ in range(int(rng.integers(6, 11)))) for _ in range(n)]
    facts = [f"The song of {s} goes: {t}." for s, t in zip(starts, tails, strict=True)]
    questions = [
        Question(f" Say it again. The song of {starts[i]} goes:", f" {tails[i]}.", (i,)) for i in maker.targets(rng, n)
    ]
    return Task("copy_span", facts, questions)


FORMS: dict[str, Callable[[Maker, Rng], Task]] = {
    form.__name__: form
    for form in (single_key, multi_key, passkey, multi_value, variable_tracking, multi_hop, people, key_value,
                 count_word, common_words, few_shot, copy_span)
}  # fmt: skip
