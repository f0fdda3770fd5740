"""A loaded model: its facts and its tokenizer."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

from livekv import _livekv
from livekv.arguments import checked_threads, core_of, text_of, truth
from livekv.messages import plain_messages, plain_variables
from livekv.options import KVOptions
from livekv.paths import path_bytes
from livekv.session import Session
from livekv.store import ChunkStore

Tokens = Sequence[int] | npt.NDArray[np.integer[Any]]


class Model:
    """A model from a GGUF file (docs/models.md). Immutable; sessions and threads may share it, and it lives as long as
    one of them does. Sessions with as many threads share one engine, and take turns at it: see livekv.Engine.

    path: the file, or any part of a model in several. n_gpu_layers: layers computed on the GPU; warns where build or
    machine have none. n_threads: CPU threads of its sessions; None: livekv.default_threads(). prefix_cache_bytes: of
    sealed chunks kept, beyond those in use, so that a session whose prompt begins as another's did starts behind what
    is known; 0: none. store: where such chunks are kept beyond this process (livekv.ChunkStore). repack: False leaves
    the products with quantized weights to ggml (docs/speed.md). dequantize: compute with the numbers in F32 that
    quantized weights stand for, four to eight times the memory: their products round nothing, so that what two caches
    differ by is theirs (docs/fidelity.md).

    rope_scaling, rope_scale, rope_base, yarn_orig_ctx: rotary positions otherwise than the file says, as on the command
    line: how positions beyond the training are reached, how many times as far, the base of the frequencies, and the
    context of the training that YaRN starts from. None: the file's. Raises Error when the file cannot be read or is no
    such model, and for a change that does not fit to it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        n_gpu_layers: int = 0,
        n_threads: int | None = None,
        prefix_cache_bytes: int = 0,
        repack: bool = True,
        *,
        store: ChunkStore | None = None,
        dequantize: bool = False,
        rope_scaling: Literal["none", "linear", "yarn"] | None = None,
        rope_scale: float | None = None,
        rope_base: float | None = None,
        yarn_orig_ctx: int | None = None,
    ) -> None:
        name = path_bytes(path)
        self.path = os.fsdecode(name)
        self.prefix_cache_bytes = prefix_cache_bytes
        kept = None if store is None else core_of("store", store, _livekv.ChunkStore)
        self.store = store
        self.n_threads = _livekv.default_threads() if n_threads is None else checked_threads(n_threads)
        rope = {
            "rope_scaling": rope_scaling,
            "rope_scale": rope_scale,
            "rope_base": rope_base,
            "yarn_orig_ctx": yarn_orig_ctx,
        }
        self._core = _livekv.Model(name, n_gpu_layers, prefix_cache_bytes, kept, rope, repack, dequantize)
        self._facts = self._core.facts()
        if n_gpu_layers > 0 and not _livekv.has_gpu():
            warnings.warn("no GPU in this build or machine, n_gpu_layers is ignored", stacklevel=2)

    def __repr__(self) -> str:
        return f"livekv.Model({self.path!r}: {self.description})"

    @property
    def description(self) -> str:
        """In one line: name, parameters, shape."""
        f = self._facts
        name = f["name"] or "unnamed"
        return (
            f"{name}, {f['n_params'] / 1e6:.1f} M parameters, {f['n_layer']} layers, {f['n_head']} heads, "
            f"{f['n_head_kv']} key/value heads of {f['head_dim']}, vocabulary {f['n_vocab']}"
        )

    @property
    def name(self) -> str:
        return str(self._facts["name"])

    @property
    def n_params(self) -> int:
        return int(self._facts["n_params"])

    @property
    def weight_bytes(self) -> int:
        return int(self._facts["weight_bytes"])

    @property
    def n_layer(self) -> int:
        return int(self._facts["n_layer"])

    @property
    def n_embd(self) -> int:
        return int(self._facts["n_embd"])

    @property
    def n_ff(self) -> int:
        return int(self._facts["n_ff"])

    @property
    def n_head(self) -> int:
        return int(self._facts["n_head"])

    @property
    def n_head_kv(self) -> int:
        return int(self._facts["n_head_kv"])

    @property
    def head_dim(self) -> int:
        return int(self._facts["head_dim"])

    @property
    def n_vocab(self) -> int:
        return int(self._facts["n_vocab"])

    @property
    def n_ctx_train(self) -> int:
        """Tokens the model was trained on at once."""
        return int(self._facts["n_ctx_train"])

    @property
    def architecture(self) -> str:
        """general.architecture of the file."""
        return str(self._facts["architecture"])

    def rope(self, layer: int = 0) -> tuple[npt.NDArray[np.float64], float, bool]:
        """A layer's rotary positions, scaling included.

        The angle of each pair of channels for one token on, in radians, [n_rot / 2]; what cos and sin are multiplied
        with; and whether pairs are neighbouring channels, 2i and 2i + 1, rather than i and i + n_rot / 2. Raises Error
        for a layer the model does not have.
        """
        return self._core.rope(layer)

    @property
    def n_gpu_layers(self) -> int:
        """Layers that really are on a GPU."""
        return int(self._facts["n_gpu_layers"])

    @property
    def bos_token(self) -> int:
        """-1 when the model has none."""
        return int(self._facts["bos_token"])

    @property
    def eos_token(self) -> int:
        """-1 when the model has none."""
        return int(self._facts["eos_token"])

    @property
    def adds_bos(self) -> bool:
        """Whether tokenize puts the bos token in front."""
        return bool(self._facts["adds_bos"])

    @property
    def has_chat_template(self) -> bool:
        return bool(self._facts["has_chat_template"])

    @property
    def chat_family(self) -> str:
        """What the template is recognized as by its marks: a name that --chat-template of livekv-cli knows, or none."""
        return str(self._facts["chat_family"])

    def tokenize(
        self, text: str, add_special: bool = True, parse_special: bool = False, behind: int | None = None
    ) -> list[int]:
        """Token ids. add_special: with bos and eos as the model asks. parse_special: control tokens written in the text
        become those tokens. behind: the token that the text goes on behind; it gets no bos then, and SentencePiece's
        space in front only where the model puts one behind that token. Raises Error when that is none."""
        return self._encode(text, add_special, add_special, parse_special, -1 if behind is None else behind)

    def tokenize_prompt(self, text: str, parse_special: bool = True) -> list[int]:
        """Token ids of a text that is to be continued: with bos as the model asks, and never with eos."""
        return self._encode(text, True, False, parse_special)

    def _encode(self, text: str, add_bos: bool, add_eos: bool, parse_special: bool, behind: int = -1) -> list[int]:
        text_of("the text", text)
        return self._core.tokenize(text, add_bos=add_bos, add_eos=add_eos, parse_special=parse_special, behind=behind)

    def detokenize(self, tokens: Tokens, skip_special: bool = True) -> str:
        """The text of tokens; bytes that are no character become U+FFFD. Raises Error for an id outside the
        vocabulary."""
        return self._core.detokenize(tokens, skip_special)

    def token_piece(self, token: int) -> bytes:
        """The bytes of one token, which need not be whole characters; of a control token none."""
        return self._core.token_piece(token)

    def is_end_of_generation(self, token: int) -> bool:
        """Whether a text ends with this token: eos, and control tokens that end a turn."""
        return self._core.is_end_of_generation(token)

    @overload
    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        tokenize: Literal[False] = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str: ...

    @overload
    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        *,
        tokenize: Literal[True],
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> list[int]: ...

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        tokenize: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str | list[int]:
        """A conversation as the model's own template writes it (Jinja, as transformers runs it), or that of the family
        it is recognized as where the file has none.

        messages: {"role": ..., "content": ...} each; content is text, None, or a list of {"type": "text", "text": ...}
        parts; other keys are the template's to read (tool_calls, name, ...). None reaches the template as none; as an
        empty text where it writes that out or cannot go on with it. Parts reach it as a list where it looks into that
        (a loop, an index, a filter of items, is string); as the joined text otherwise. add_generation_prompt:
        with the beginning of the assistant's answer. tools: JSON schemas of functions the model may call, as the
        template writes them. variables: what else it may read, such as enable_thinking=False or documents=[...];
        TypeError for what transformers' function takes and this one does not (continue_final_message, max_length, ...).
        tokenize: the token ids, with the model's bos, for Session.generate: control tokens are the template's alone,
        those that a message or a tool spells out are text. Without it the text, less the bos that tokenize adds; to be
        tokenized with parse_special, which makes control tokens of what messages spell out, too. Raises Error when the
        model has no template, the template refuses the conversation or would make a control token of what it is given,
        a message is none, or a variable is no JSON. Warns where the file has a template that is not run, and where
        tools, tool_calls or a variable are given that the template does not so much as name.
        """
        if isinstance(messages, Iterator):
            messages = list(messages)
        turns, given = plain_messages(messages), plain_variables(tools, variables)
        passed_over = self._facts["passed_over_for_tools" if tools is not None else "passed_over"]
        if passed_over and self.chat_family != "none":
            warnings.warn(f"{passed_over}; that of the family {self.chat_family} is run instead", stacklevel=2)
        for_tools = tools is not None
        said: str | list[int]
        if truth("tokenize", tokenize):
            said = self._core.chat_as_tokens(turns, add_generation_prompt, given, for_tools)
        else:
            said = self._core.chat_as_text(turns, add_generation_prompt, given, for_tools)
        names = [name for name, value in {"tools": tools, **variables}.items() if value is not None and value != []]
        names += ["tool_calls"] * any(message.get("tool_calls") for message in messages)
        if ignored := self._core.chat_ignores(names, for_tools):
            warnings.warn(f"the model's chat template does not read {', '.join(ignored)}", stacklevel=2)
        return said

    def session(
        self, n_ctx: int | None = None, kv: KVOptions | str | None = None, n_threads: int | None = None
    ) -> Session:
        """A new sequence of at most n_ctx tokens; None: 4096, or what the model was trained on where that is less.
        kv: how its cache is stored, or a spec that says so (KVOptions.parse); None: the defaults. n_threads: None: the
        model's. Warns of more tokens than the model was trained on, which may be those of its window (docs/models.md).
        Raises Error when the cache cannot store this model or does not fit into memory."""
        made = Session(self, min(4096, self.n_ctx_train) if n_ctx is None else n_ctx, kv, n_threads)
        if made.n_ctx > self.n_ctx_train:
            warnings.warn(
                f"a context of {made.n_ctx} tokens is longer than the {self.n_ctx_train} the model was trained on",
                stacklevel=2,
            )
        return made
