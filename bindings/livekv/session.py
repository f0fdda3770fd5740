"""One sequence of tokens and its cache."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from livekv import _livekv
from livekv._livekv import Error
from livekv.arguments import checked_threads, core_of, whole
from livekv.generation import Generation
from livekv.kinds import SINK, TAIL
from livekv.options import KVOptions, kv_options_of
from livekv.paths import path_bytes
from livekv.sampling import DEFAULTS as _SAMPLING
from livekv.sampling import drawn_seed, stop_strings
from livekv.stats import KVStats, kv_stats_from

if TYPE_CHECKING:
    from livekv.model import Model, Tokens

F32 = npt.NDArray[np.float32]


class Session:
    """One sequence on one model: tokens go in at its end, logits come out, keys and values stay compressed.

    One call at a time: a second one, from another thread, raises Error. A call ended by Ctrl-C leaves the tokens of the
    chunks done so far in the session. Made by Model.session; a `with` block closes it.
    """

    def __init__(self, model: Model, n_ctx: int, kv: KVOptions | str | None, n_threads: int | None) -> None:
        core = core_of("model", model, _livekv.Model)
        self.model = model
        self._kv = kv_options_of(kv)
        threads = model.n_threads if n_threads is None else checked_threads(n_threads)
        self._core = _livekv.Session(core, n_ctx, threads, self._kv._core())

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        try:
            state = "closed" if self._core.closed() else f"{self.n_tokens} of {self.n_ctx} tokens"
        except Error:
            state = "in use"
        return f"livekv.Session({self._kv.spec}, {state})"

    def close(self) -> None:
        """Frees the cache; every later call raises Error. Twice is fine."""
        self._core.close()

    @property
    def n_tokens(self) -> int:
        return self._core.n_tokens()

    @property
    def n_ctx(self) -> int:
        """The most tokens the sequence may have."""
        return self._core.n_ctx()

    @property
    def n_threads(self) -> int:
        return self._core.n_threads()

    @property
    def tokens(self) -> list[int]:
        """The sequence, n_tokens ids."""
        return self._core.tokens()

    @property
    def kv(self) -> KVOptions:
        """The cache's options; after load, the file's."""
        return self._kv

    @property
    def kv_bytes(self) -> int:
        """Bytes the cache holds now, from its allocations."""
        return self._core.kv_bytes()

    @property
    def kv_bits_per_value(self) -> float | None:
        """8 * kv_bytes / values stored; None when empty."""
        return self._core.kv_bits_per_value()

    @property
    def last_logits(self) -> F32 | None:
        """float32 [n_vocab], of the sequence's last token; None when they are not known: after trim and reset."""
        return self._core.last_logits()

    def prefill(self, tokens: Tokens, *, question: Tokens | None = None) -> F32:
        """Appends tokens, chunk by chunk: the last one's logits, float32 [n_vocab]. Raises Error, before the first is
        processed, when they do not fit into the context, an id is not in the vocabulary, or there are none.

        question: of an empty session whose policy is finch, which needs one; of other sessions None. Of the tokens,
        which are read in chunks with the question behind each, it keeps what the question looks at, and then it reads
        the question, whose last token's logits these are. Raises Error too when nothing would be kept so."""
        return self._core.prefill(tokens, question)

    def eval(self, tokens: Tokens, all_logits: bool = False) -> F32:
        """The same: logits of every token, float32 [len(tokens), n_vocab], or of the last one, [1, n_vocab]."""
        return self._core.eval(tokens, all_logits)

    def generate(
        self,
        prompt: str | Tokens | None,
        max_tokens: int | None = 128,
        temperature: float = _SAMPLING["temperature"],
        top_k: int = _SAMPLING["top_k"],
        top_p: float = _SAMPLING["top_p"],
        min_p: float = _SAMPLING["min_p"],
        repeat_penalty: float = _SAMPLING["repeat_penalty"],
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        add_special: bool = True,
        parse_special: bool = True,
        ignore_eos: bool = False,
        lookup: int = 0,
        keep: int = 0,
    ) -> Generation:
        """Continues the sequence with a prompt and then by itself; iterate over the result for the text.

        prompt: text, token ids, or None to go on from the last logits; text behind other tokens may go on in the middle
        of a word. max_tokens: None: until the text or the context ends. temperature 0: greedy; top_k 0, top_p 1,
        min_p 0, repeat_penalty 1: off (repeat_penalty: over the last 64 tokens; Keskar et al. 2019, section 4.1). seed:
        None: a new one, which usage tells. stop: the text ends before the first of these. add_special: a prompt that
        begins a sequence gets the model's bos; an eos it would add is left out, as the text is to be continued.
        parse_special: control tokens written in the prompt become those tokens. ignore_eos: the model's ends of text
        are never chosen. lookup: up to so many tokens are drafted from what the text said before, and verified in one
        pass (prompt lookup decoding), which changes the time it takes, not the text (of caches other than the
        compressed ones, of weights that are not quantized and on a GPU, up to last digits). keep: where the context is
        full, its oldest chunks but those of the first so many tokens leave and the text goes on (a context shift;
        docs/command-line.md); 0: it ends there. Warns of a prompt that
        begins with a second bos. Raises Error for values out of range; while iterating, as prefill does, and when the
        session was changed meanwhile.
        """
        lookup = whole("lookup", lookup, 0, 64)
        keep = whole("keep", keep, 0, 2**31 - 1)
        seed = drawn_seed(seed)
        core = _livekv.Generation(
            self._core,
            self._prompt_tokens(prompt, add_special, parse_special),
            max_tokens=-1 if max_tokens is None else max_tokens,
            ignore_eos=ignore_eos,
            sampling={
                "temperature": temperature,
                "top_k": top_k,
                "top_p": top_p,
                "min_p": min_p,
                "repeat_penalty": repeat_penalty,
            },
            seed=seed,
            stop=stop_strings(stop),
            n_lookup=lookup,
            n_keep=keep,
        )
        return Generation(core, seed)

    def _prompt_tokens(self, prompt: str | Tokens | None, add_special: bool, parse_special: bool) -> Tokens:
        if prompt is None:
            return []
        if not isinstance(prompt, str):
            return prompt
        behind = self.tokens[-1] if self.n_tokens else -1
        tokens = self.model._encode(prompt, add_special, False, parse_special, behind)
        if self.model._core.begins_with_two_bos(tokens):
            warnings.warn(
                "the prompt begins with the model's bos, which is put in front of every text: now there are two",
                stacklevel=3,
            )
        return tokens

    def reuse(self, tokens: Tokens) -> int:
        """Starts this empty session as another one began with these tokens (Model's prefix_cache_bytes), all but the
        last of them at most: how many it then holds, 0 for none. Raises Error as prefill does."""
        return self._core.reuse(tokens)

    def pass_size(self, n: int) -> int:
        """Of n tokens that are left to be read, those that the next pass takes: up to the end of a chunk."""
        return self._core.pass_size(n)

    def fork(self) -> Session:
        """Another session that starts with this one's tokens; what is sealed is shared, not copied."""
        copy = object.__new__(Session)
        copy.model = self.model
        copy._kv = self._kv
        copy._core = self._core.fork()
        return copy

    def trim(self, n_tokens: int) -> None:
        """Forgets all but the first n_tokens tokens. Raises Error when there are not as many."""
        self._core.trim(n_tokens)

    def exact_trim(self, n_tokens: int) -> int:
        """The most tokens, n_tokens at most, to which trim forgets without computing again. Raises Error as trim."""
        return self._core.exact_trim(n_tokens)

    @property
    def room_for_draft(self) -> int:
        """Tokens that verify takes at most now."""
        return self._core.room_for_draft()

    def verify(self, tokens: Tokens, choose: Callable[[F32], int | None]) -> int:
        """Appends a generated token and a draft of those behind it in one pass, and forgets those that are wrong.

        choose: called behind the first token, and on behind each that is right, with float32 [n_vocab], the logits that
        eval would give: the token that comes there, or None where the text ends. Returns how many tokens stay. Raises
        Error as eval does, and for more tokens than room_for_draft; then, and when choose raises, the wrong ones are
        forgotten too."""
        return self._core.verify(tokens, choose)

    def forget(self, keep: int, n_tokens: int) -> int:
        """A context shift: forgets the oldest tokens behind the first `keep`, at least 1, n_tokens of them or as many
        more as make whole chunks, and moves what is behind them to their positions (docs/command-line.md). What is left
        has seen what is forgotten. How many left; 0 when there are not as many. Raises Error for a cache whose keys
        cannot be moved, and when there is too little memory; then nothing has changed."""
        return self._core.forget(keep, n_tokens)

    def reset(self) -> None:
        """Forgets all tokens."""
        self._core.trim(0)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the sequence and its cache to a file that load restores, bit for bit; path is complete or untouched.
        Raises Error when the policy is not livekv, kvstream, guided or kivi, nothing is in the cache, its prompt is
        not complete (guided with guide last), or the file cannot be written."""
        self._core.save(path_bytes(path))

    def load(self, path: str | os.PathLike[str]) -> None:
        """Makes this empty session the saved one. The file's cache options replace this session's. Raises Error when
        the file is none, damaged, of another model, or longer than the context; then nothing has changed."""
        self._core.load(path_bytes(path))
        self._kv = KVOptions._of(self._core.kv())

    def kv_stats(self) -> KVStats:
        """Where the cache's bytes are and what sealing did."""
        return kv_stats_from(self._core.stats())

    def kv_dump(self, layer: int) -> dict[str, npt.NDArray[Any]]:
        """One layer's keys and values as they are kept, copied: for plots and research.

        Each name comes twice, for keys with `k_` and for values with `v_` in front. H: n_head_kv, T: n_tokens, D:
        head_dim.

        reconstruction  float32 [H, T, D]: what the model's keys (after RoPE) or values have become
        stored          float32 [H, T, D]: the same in the basis they are stored in, and attention reads them in
        rotation        int32 []: channels that were rotated together (Walsh-Hadamard) before they were stored; 0: none
        kind            uint8 [T]: how a token is kept: livekv.kv.SEALED, SINK, EXACT (16 bits in a chunk), TAIL,
                        DENSE, DROPPED (by policy guided; its numbers are 0)

        and of the policies that seal chunks:

        bits            int32 []: of a code; 0: this layer seals nothing
        group           int32 [T]: the token's place in scale and zero; -1 where not sealed
        codes           int16 [H, T, D]: 0 where not sealed
        scale           float32, keys [H, G, D], values [H, G]; of kivi's values [H, G, D / 32], of guided's, and of
                        its keys with key_axis token, [H, G, 1]. Sealed entries stand for minimum + (code - zero)
                        * scale
        zero            int16, shaped as scale; 0 when codes are symmetric
        minimum         float32, shaped as scale, of keys, and of values of guided and kivi; of livekv's keys 0 unless
                        channels have widths of their own (key_alloc)
        width           uint8, shaped so: bits of a code
        levels          float32 [2 ** bits], of kvquant, once something is sealed: entries stand for minimum +
                        levels[code] * scale
        outlier_index   int32 [n, 3]: head, token, channel of the entries stored apart
        outlier_value   float32 [n]: what they stand for
        sinks           float32 [H, n_sinks, D]: of stored, the first tokens, kept exact
        tail            float32 [H, n_tail, D]: of stored, the newest tokens, not yet sealed

        Raises Error when there is no such layer.
        """
        arrays: dict[str, npt.NDArray[Any]] = {}
        for side, raw in zip("kv", self._core.dump(layer), strict=True):
            arrays |= {f"{side}_{name}": np.asarray(value) for name, value in raw.items()}
            arrays[f"{side}_rotation"] = np.asarray(raw["rotation"], np.int32)
            if "bits" in raw:
                arrays[f"{side}_bits"] = np.asarray(raw["bits"], np.int32)
                arrays[f"{side}_sinks"] = raw["stored"][:, raw["kind"] == SINK]
                arrays[f"{side}_tail"] = raw["stored"][:, raw["kind"] == TAIL]
        return arrays
