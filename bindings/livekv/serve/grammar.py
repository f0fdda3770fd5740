"""Texts that keep to a grammar, by llguidance: what token may come next."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from livekv._livekv import Error
from livekv.model import Model
from livekv.serve.request import U32, Refused

# As models are used to write JSON; free white space would let a small one go on with it for ever.
_JSON = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
MOST_SCHEMA = 1 << 18
"""Characters of a schema as JSON."""
MOST_PATTERNS = 8
"""Of a schema with allOf: what a text must match all of takes twice the time for each more."""
MOST_OPTIONAL = 498
"""Properties of one object that need not be there, which llguidance takes 10 s to find too many of."""
MAKING_S = 10.0
"""A grammar that takes longer to make is refused."""
_KEPT = 64
_TRIED = 64
"""Tokens of a text, to see that the grammar bears it."""


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
            problem = _line(self._matcher.get_error())
            nothing = problem.startswith("NoExtension")
            raise Error(f"the grammar: {'no text keeps to it' if nothing else problem}")


class _Vocabulary:
    """A model's tokens, as llguidance asks for them."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.eos_token_id = next(i for i in range(model.n_vocab) if model.is_end_of_generation(i))
        self.bos_token_id = model.bos_token if model.bos_token >= 0 else None
        pieces = [model.token_piece(i) for i in range(model.n_vocab)]
        self.special_token_ids = [i for i, piece in enumerate(pieces) if not piece]
        self.tokens = [piece or f"<[{i}]>".encode() for i, piece in enumerate(pieces)]

    def ranks(self) -> list[npt.NDArray[np.intp]]:
        """Two orders to choose tokens in, each a place for every token: what ends strings and is short first, and what
        is long. Ends of text come last."""
        special = set(self.special_token_ids)

        def places(key: Callable[[bytes], tuple[Any, ...]]) -> npt.NDArray[np.intp]:
            order = sorted(range(len(self.tokens)), key=lambda i: (i in special, *key(self.tokens[i])))
            ranks = np.empty(len(order), np.intp)
            ranks[order] = np.arange(len(order))
            return ranks

        return [
            places(lambda piece: (b'"' not in piece, len(piece), piece)),
            places(lambda piece: (-len(piece), piece)),
        ]

    def __call__(self, text: bytes) -> list[int]:
        return self._model.tokenize(text.decode("utf-8", "replace"), add_special=False)


@dataclass(frozen=True)
class Wanted:
    """A grammar that is not made yet."""

    text: str
    """As llguidance has it."""
    what: str
    """It is of, in messages."""


class Grammars:
    """Of one model."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._tokenizer: LLTokenizer | None = None  # takes a second to make for a large vocabulary
        self._makers = ThreadPoolExecutor(2, "livekv-grammar")
        self._made: OrderedDict[str, LLMatcher] = OrderedDict()  # by grammar, the one used last is the last

    async def constraint(self, wanted: Wanted) -> Callable[[], Grammar]:
        """What makes a text's constraint. Raises Error for no such grammar, and Refused where those of others are made
        for so long that this one was not begun. One loop's."""
        matcher = self._made.get(wanted.text)
        if matcher is None:
            loop, begun = asyncio.get_running_loop(), asyncio.Event()

            def make() -> LLMatcher:
                loop.call_soon_threadsafe(begun.set)
                return self._make(wanted.text, wanted.what)

            making = self._makers.submit(make)
            try:
                await asyncio.wait_for(begun.wait(), MAKING_S)
                matcher = await asyncio.wait_for(asyncio.wrap_future(making), MAKING_S)
            except asyncio.TimeoutError:  # noqa: UP041 (Python 3.10's is another than TimeoutError)
                if not begun.is_set():
                    raise Refused(503, "other grammars are being made; try again later", int(MAKING_S)) from None
                raise Error(f"{wanted.what}: it takes more than {MAKING_S:g} s to make a grammar of it") from None
            finally:
                making.cancel()  # of who has gone, or is answered that it was not begun
        self._made[wanted.text] = matcher
        self._made.move_to_end(wanted.text)
        while len(self._made) > _KEPT:
            self._made.popitem(last=False)
        return lambda: Grammar(matcher.deep_copy())

    def _make(self, grammar: str, what: str) -> LLMatcher:
        """Some faults show as a text is written alone: two are begun, so that they do not show in an answer."""
        matcher = LLMatcher(self._tokens(), grammar, log_level=0)
        if matcher.is_error():
            raise Error(f"{what}: {_line(matcher.get_error())}")
        for ranks in self._ranks:
            text = Grammar(matcher.deep_copy())
            try:
                for _ in range(_TRIED):
                    allowed = np.flatnonzero(np.unpackbits(text.allowed().view(np.uint8), bitorder="little"))
                    if text.complete() or not len(allowed):
                        break
                    text.take(int(allowed[ranks[allowed].argmin()]))
            except Error as problem:
                raise Error(str(problem).replace("the grammar", what, 1)) from None
        return matcher

    def _tokens(self) -> LLTokenizer:
        with self._lock:
            if self._tokenizer is None:
                ends = [i for i in range(self._model.n_vocab) if self._model.is_end_of_generation(i)]
                if not ends:
                    raise Error("the model has no token that ends a text, which a grammar needs")
                vocabulary = _Vocabulary(self._model)
                wrapper = TokenizerWrapper(vocabulary)
                self._ranks = vocabulary.ranks()
                self._tokenizer = LLTokenizer(wrapper, n_vocab=self._model.n_vocab, eos_token=ends)
            return self._tokenizer


def of_json(schema: Mapping[str, Any]) -> Wanted:
    """JSON that a schema describes. Raises Error, as schema_text."""
    return Wanted(LLMatcher.grammar_from_json_schema(schema_text(schema), defaults=_JSON), "the JSON schema")  # type: ignore[arg-type]


def of_lark(text: str, what: str) -> Wanted:
    """Text of a grammar in llguidance's form of Lark. what: it is of, in messages."""
    return Wanted(LLMatcher.grammar_from_lark(text), what)


def embedded(schema: Mapping[str, Any]) -> str:
    """A schema as a part of a Lark grammar."""
    return "%json " + schema_text(schema, {"x-guidance": _JSON})


def schema_text(schema: Mapping[str, Any], ours: Mapping[str, Any] | None = None) -> str:
    """As JSON, with fields of ours. Raises Error for what is none, and for what would take too long to make a grammar
    of."""
    try:
        text = json.dumps({**(ours or {}), **schema}, allow_nan=False)
    except (ValueError, RecursionError) as problem:
        raise Error(f"the JSON schema: {_line(str(problem))}") from None
    if len(text) > MOST_SCHEMA:
        raise Error(f"the JSON schema has {len(text)} characters; at most {MOST_SCHEMA} are possible")
    parts = list(_objects(schema))
    for part in parts:
        properties, required = part.get("properties"), part.get("required")
        needed = [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
        if isinstance(properties, Mapping) and len(properties.keys() - needed) > MOST_OPTIONAL:
            raise Error(
                f"the JSON schema has an object with {len(properties)} properties, of which more than {MOST_OPTIONAL} "
                "are not required"
            )
    if any("x-guidance" in part for part in parts):
        raise Error("the JSON schema: x-guidance is not supported")
    names = [name for part in parts for name in part]
    n_patterns = sum(map(names.count, ("pattern", "patternProperties", "format", "not")))
    if n_patterns > MOST_PATTERNS and "allOf" in names:
        raise Error(
            f"the JSON schema has {n_patterns} patterns and formats; beside allOf, {MOST_PATTERNS} are possible"
        )
    return text


def _objects(schema: Any) -> Iterator[Mapping[str, Any]]:
    """All of its parts that have fields."""
    parts = [schema]
    while parts:
        part = parts.pop()
        if isinstance(part, Mapping):
            yield part
            parts += part.values()
        elif isinstance(part, list):
            parts += part


def _line(text: str) -> str:
    """The first, with the last where that says alone what is wrong."""
    lines = text.strip().splitlines() or ["no reason given"]
    return (f"{lines[0]} {lines[-1].strip()}" if lines[0].endswith(":") and len(lines) > 1 else lines[0])[:300]
