"""Texts that keep to a grammar, by llguidance: what token may come next."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from livekv._livekv import Error
from livekv.model import Model
from livekv.serve.request import U32

# As models are used to write JSON; free white space would let a small one go on with it for ever.
_JSON = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Grammar:
    """A livekv.serve.request.Constraint: one text's place in a grammar."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def allowed(self) -> U32:
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint32)
        self._check()
        return bits

    def take(self, token: int) -> None:
        self._matcher.consume_token(token)
        self._check()

    def complete(self) -> bool:
        return self._matcher.is_stopped()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise Error(f"the grammar: {_line(self._matcher.get_error())}")


class _Vocabulary:
    """A model's tokens, as llguidance asks for them."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.eos_token_id = next(i for i in range(model.n_vocab) if model.is_end_of_generation(i))
        self.bos_token_id = model.bos_token if model.bos_token >= 0 else None
        pieces = [model.token_piece(i) for i in range(model.n_vocab)]
        self.special_token_ids = [i for i, piece in enumerate(pieces) if not piece]
        self.tokens = [piece or f"<[{i}]>".encode() for i, piece in enumerate(pieces)]

    def __call__(self, text: bytes) -> list[int]:
        return self._model.tokenize(text.decode("utf-8", "replace"), add_special=False)


class Grammars:
    """Of one model. Every function returns what makes a text's constraint, and raises Error for no such grammar."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._tokenizer: LLTokenizer | None = None  # takes a second to make for a large vocabulary

    def of_json(self, schema: Mapping[str, Any]) -> Callable[[], Grammar]:
        """JSON that a schema describes."""
        try:
            grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema, allow_nan=False), defaults=_JSON)  # type: ignore[arg-type]
        except (ValueError, RecursionError) as problem:
            raise Error(f"the JSON schema: {_line(str(problem))}") from None
        return self._of(grammar, "the JSON schema")

    def of_lark(self, text: str, what: str) -> Callable[[], Grammar]:
        """Text of a grammar in llguidance's form of Lark. what: it is of, in messages."""
        return self._of(LLMatcher.grammar_from_lark(text), what)

    def _of(self, grammar: str, what: str) -> Callable[[], Grammar]:
        matcher = LLMatcher(self._tokens(), grammar, log_level=0)
        if matcher.is_error():
            raise Error(f"{what}: {_line(matcher.get_error())}")
        return lambda: Grammar(matcher.deep_copy())

    def _tokens(self) -> LLTokenizer:
        with self._lock:
            if self._tokenizer is None:
                ends = [i for i in range(self._model.n_vocab) if self._model.is_end_of_generation(i)]
                if not ends:
                    raise Error("the model has no token that ends a text, which a grammar needs")
                wrapper = TokenizerWrapper(_Vocabulary(self._model))
                self._tokenizer = LLTokenizer(wrapper, n_vocab=self._model.n_vocab, eos_token=ends)
            return self._tokenizer


def embedded(schema: Mapping[str, Any]) -> str:
    """A schema as a part of a Lark grammar."""
    try:
        return "%json " + json.dumps({"x-guidance": _JSON, **schema}, allow_nan=False)
    except (ValueError, RecursionError) as problem:
        raise Error(f"the JSON schema: {_line(str(problem))}") from None


def _line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[0][:300]
