"""Training batches: natural text, copies, and generated tasks, each token with the weight of its loss.

Nothing is retrieved by a model that never saw anything twice, so a share of the sequences are segments said again and
again (loss on the repeats); they are what makes a small model learn to look back. What nobody could predict (random
segments, the values of facts) carries no loss; answers carry more than text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from . import corpus, haystack
from .layout import Laid, layout
from .task import Maker
from .tasks import FORMS

Drawn = tuple[np.ndarray, np.ndarray]  # token ids, and the weight of predicting each

WEIGHT_ANSWER = 5.0
WEIGHT_FACT = 0.1
WEIGHT_QUESTION = 0.1
WEIGHT_COPY = 1.0


@dataclass(frozen=True)
class Shares:
    """How the sequences are divided; what is left are tasks."""

    text: float
    copies: float
    chat: float = 0.15  # of the tasks


class Mixer:
    """Draws sequences; everything random comes from the generator that is passed in."""

    def __init__(self, tokenizer: Tokenizer, stream: np.ndarray) -> None:
        """stream: token ids of the training text, documents closed by <|end_of_text|>."""
        self.tokenizer = tokenizer
        self.stream = stream
        self.bos, self.eos = (corpus.special_id(tokenizer, name) for name in (corpus.BOS, corpus.EOS))
        self.first_plain = 1 + max(corpus.special_id(tokenizer, name) for name in corpus.SPECIAL_TOKENS)
        self._cache: dict[str, list[int]] = {}
        newline = "\u010a"  # how byte-level BPE writes it
        vocab = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
        ends = haystack.sentence_ends([text.replace(newline, "\n").encode() for text, _ in vocab])
        self.text_haystack = haystack.from_tokens(stream, ends)
        self.plain_haystack = haystack.made_up(self.encode)
        self.grass_haystack = haystack.grass(self.encode)

    def encode(self, text: str) -> list[int]:
        """Token ids without <|begin_of_text|>; not for text from outside, which may hold special tokens' names."""
        known = self._cache.get(text)
        if known is None:
            known = self.tokenizer.encode(text, add_special_tokens=False).ids
            if len(self._cache) < 200_000:
                self._cache[text] = known
        return known

    def batch(self, shares: Shares, seq_len: int, n_seq: int, rng: np.random.Generator) -> Drawn:
        """Token ids int64 [n_seq, seq_len] and weights float32 [n_seq, seq_len] of predicting each token."""
        ids = np.empty((n_seq, seq_len), np.int64)
        weights = np.empty((n_seq, seq_len), np.float32)
        for row in range(n_seq):
            dice = rng.random()
            if dice < shares.text:
                tokens, weight = self.draw_text(seq_len, rng)
            elif dice < shares.text + shares.copies:
                tokens, weight = self.draw_copies(seq_len, rng)
            else:
                tokens, weight = self.draw_tasks(seq_len, shares.chat, rng)
            ids[row], weights[row] = tokens[:seq_len], weight[:seq_len]
        ids[:, 0], weights[:, 0] = self.bos, 0.0
        return ids, weights

    def draw_text(self, n: int, rng: np.random.Generator) -> Drawn:
        start = int(rng.integers(len(self.stream) - n))
        return self.stream[start : start + n].astype(np.int64), np.ones(n, np.float32)

    def draw_copies(self, n: int, rng: np.random.Generator) -> Drawn:
        """A few segments, random tokens or text, said in random order; loss on all but the start of each repeat."""
        n_segments = int(rng.integers(1, 5))
        longest = max(8, min(96, n // (2 * n_segments)))
        segments: list[np.ndarray] = []
        for _ in range(n_segments):
            length = int(rng.integers(6, longest + 1))
            kind = rng.random()
            if kind < 0.4:
                segments.append(rng.integers(self.first_plain, self.tokenizer.get_vocab_size(), length))
            else:
                start = int(rng.integers(len(self.stream) - length))
                piece = self.stream[start : start + length].astype(np.int64)
                segments.append(rng.permutation(piece) if kind < 0.6 else piece)
        order = list(range(n_segments))
        tokens: list[np.ndarray] = [np.array([self.bos])]
        weights: list[np.ndarray] = [np.zeros(1)]
        said: set[int] = set()
        used = 1
        while used < n:
            which = order.pop(0) if order else int(rng.integers(n_segments))
            segment = segments[which]
            loss = np.full(len(segment), WEIGHT_COPY if which in said else 0.0)
            loss[: 2 if n_segments > 1 else 0] = 0.0
            said.add(which)
            tokens.append(segment)
            weights.append(loss)
            used += len(segment)
        return np.concatenate(tokens)[:n], np.concatenate(weights)[:n].astype(np.float32)

    def draw_tasks(self, n: int, chat_share: float, rng: np.random.Generator) -> Drawn:
        """Tasks one after the other until the sequence is full; often a single one with several questions."""
        tokens, weights = [self.bos], [0.0]
        while n - len(tokens) >= 96:
            left = n - len(tokens)
            size = left if rng.random() < 0.6 else int(rng.integers(96, left + 1))
            laid = self.draw_task(size, rng)
            if laid.n_tokens > left:
                continue
            self._write(laid, rng.random() < chat_share, tokens, weights)
        tail, tail_weights = self.draw_text(max(1, n - len(tokens)), rng)
        return np.array(tokens + tail.tolist(), np.int64), np.array(weights + tail_weights.tolist(), np.float32)

    def draw_task(self, size: int, rng: np.random.Generator) -> Laid:
        """A task of about `size` tokens of a random form, its answers anywhere."""
        names, odds = zip(*FORM_ODDS.items(), strict=True)
        form = str(rng.choice(names, p=np.array(odds) / sum(odds)))
        maker = Maker(self.encode, size - 16, n_questions=int(np.clip(size // 48, 1, 24)))
        dice = rng.random()
        hay = self.text_haystack if dice < 0.75 else self.plain_haystack
        if form == "passkey" and dice > 0.5:
            hay = self.grass_haystack
        return layout(FORMS[form](maker, rng), maker, hay, rng)

    def _write(self, laid: Laid, chat: bool, tokens: list[int], weights: list[float]) -> None:
        text_weight = [WEIGHT_FACT if fact else 1.0 for fact in laid.is_fact]
        if laid.form in ("key_value", "count_word", "common_words", "few_shot"):
            text_weight = [0.0] * len(laid.context)

        def put(ids: list[int], weight: float) -> None:
            tokens.extend(ids)
            weights.extend([weight] * len(ids))

        if chat:
            put(self.encode(corpus.chat_head("user")), 0.0)
        tokens.extend(laid.context)
        weights.extend(text_weight)
        for at, (prompt, answer, question) in enumerate(laid.questions):
            if chat:
                asked, prefix = split_prompt(question.prompt)
                put(self.encode(("" if at == 0 else corpus.chat_head("user")) + asked), 0.0)
                put(self.encode(corpus.EOT + corpus.chat_head("assistant")), 0.0)
                put(self.encode((prefix + question.answer).strip()), WEIGHT_ANSWER / 2)
                put(self.encode(corpus.EOT), 1.0)
            else:
                put(prompt, WEIGHT_QUESTION)
                put(answer, WEIGHT_ANSWER)
        if not chat:
            put([self.eos], 0.2)


FORM_ODDS = {
    "single_key": 1.0, "multi_key": 2.5, "passkey": 0.5, "multi_value": 1.0, "variable_tracking": 1.0, "multi_hop": 1.0,
    "people": 1.5, "key_value": 1.5, "count_word": 0.5, "common_words": 0.5, "few_shot": 0.8, "copy_span": 1.2,
}  # fmt: skip


def split_prompt(prompt: str) -> tuple[str, str]:
    """A question's prompt -> what the user says and how the assistant's turn begins."""
    text = prompt.strip("\n ").removeprefix("Question: ")
    for mark in ("\nAnswer:", "? "):
        if mark in text:
            asked, prefix = text.split(mark, 1)
            return asked + mark.replace("\nAnswer:", ""), prefix.strip()
    return text, ""
