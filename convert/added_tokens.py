"""The tokens that are looked for in a text before it is cut, numbered as Hugging Face's tokenizers number them.

What tokenizer.json lists comes first, unless the tokenizer is built without it. Behind it come those that other files
list with ids, those with a name (pad_token, image_token), and extra_special_tokens. Where one content is named twice
with different flags, the last one counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from hf_vocab import AddedToken, Vocab
from special_names import SpecialNames, same, text_of


def add_tokens(vocab: Vocab, own: Iterable[AddedToken], names: SpecialNames, adds_twice: bool) -> None:
    """own: of tokenizer.json, where it is taken whole; adds_twice: of the class, where it builds the tokenizer."""
    added = _Added(vocab)
    for token in own:
        added.add(token)
    more: list[str | AddedToken] = [*names.listed]
    known = {*added.ids, *(token.content for token in names.listed)}
    for value in (*names.named.values(), *names.extra):
        if text_of(value) not in known and not any(same(value, other) for other in more):
            more.append(value)
    special = {text_of(value) for value in names.named.values()}
    for value in more:
        if isinstance(value, str):
            added.add(AddedToken(-1, value, special=True))
        else:
            added.add(replace(value, special=value.special or value.content in special))
    if adds_twice:
        for text in dict.fromkeys(text_of(value) for value in (*names.named.values(), *names.extra)):
            added.add(AddedToken(-1, text, special=True))
    for id_ in sorted(added.found):
        vocab.add(added.found[id_])


class _Added:
    """Tokens by id: that of the same text added before, or in the vocabulary, else the next one behind both."""

    def __init__(self, vocab: Vocab) -> None:
        self.ids: dict[str, int] = {}
        self.found: dict[int, AddedToken] = {}
        self._vocab = vocab
        self._next_id = len(vocab.ids)
        self._told: set[tuple[str, int]] = set()

    def add(self, token: AddedToken) -> None:
        if not token.content:
            return
        id_ = self.ids.get(token.content, self._vocab.ids.get(token.content, self._next_id))
        if token.id not in (-1, id_) and (token.content, token.id) not in self._told:
            self._told.add((token.content, token.id))
            self._vocab.notes.append(
                f"'{token.content}' is token {id_}, as tokenizers numbers it; the tokenizer's files say {token.id}"
            )
        self.ids[token.content] = id_
        self.found[id_] = replace(token, id=id_).settled()
        self._next_id = max(self._next_id, id_ + 1)
