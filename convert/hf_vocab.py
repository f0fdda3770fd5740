"""The vocabulary as GGUF stores it, while it is being collected."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from gguf import GGUFWriter, TokenType

from convert_error import ConvertError

# Bits of livekv.tokenizer.added_token_flags.
LSTRIP, RSTRIP, SINGLE_WORD, NORMALIZED, IN_VOCABULARY = 1, 2, 4, 8, 16


@dataclass
class AddedToken:
    """A token that is looked for in a text before the text is cut into tokens."""

    id: int
    content: str
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool | None = False  # None: where it is not special

    def settled(self) -> AddedToken:
        """With all flags said."""
        return self if self.normalized is not None else replace(self, normalized=not self.special)

    def flags(self) -> int:
        return (
            LSTRIP * self.lstrip + RSTRIP * self.rstrip + SINGLE_WORD * self.single_word + NORMALIZED * self.normalized
        )


@dataclass
class Vocab:
    model: str  # llama (SentencePiece) or gpt2 (byte-level BPE)
    pre: str  # which regular expression splits a text before merging
    n_vocab: int
    tokens: list[str | None] = field(default_factory=list)  # [n_vocab]; None: no such token
    types: list[int] = field(default_factory=list)  # [n_vocab]
    scores: list[float] | None = None  # [n_vocab], llama only
    merges: list[str] | None = None  # "left right", best first
    ids: dict[str, int] = field(default_factory=dict)
    added: dict[int, int] = field(default_factory=dict)  # id -> the flags of an added token
    prepend_scheme: str | None = None  # llama only: never, first, each or always
    normalizes_nfc: bool = False
    normalizes_spaces: bool = False
    splits_at_spaces: bool = False
    fuse_unknown: bool = False
    ignore_merges: bool | None = None
    remove_extra_whitespaces: bool | None = None
    bos: int | None = None
    eos: int | None = None
    unk: int | None = None
    pad: int | None = None
    eot: int | None = None
    ends: list[int] = field(default_factory=list)  # every id that ends a text
    add_bos: bool = False
    add_eos: bool = False
    chat_template: str | list | None = None
    notes: list[str] = field(default_factory=list)
    left_out: set[str] = field(default_factory=set)  # added tokens without a row in the embedding

    def __post_init__(self) -> None:
        self.tokens = [None] * self.n_vocab
        self.types = [int(TokenType.UNUSED)] * self.n_vocab
        if self.model == "llama":
            self.scores = [0.0] * self.n_vocab

    def put(self, id_: int, text: str, type_: int, score: float = 0.0) -> None:
        if not 0 <= id_ < self.n_vocab:
            raise ConvertError(f"token {id_} ('{text}') lies outside the model's vocabulary of {self.n_vocab}")
        self.tokens[id_] = text
        self.types[id_] = int(type_)
        if self.scores is not None:
            self.scores[id_] = score
        self.ids.setdefault(text, id_)

    def add(self, token: AddedToken) -> None:
        """An entry of added_tokens, which may repeat one of the vocabulary proper."""
        if token.id >= self.n_vocab:
            self.notes.append(
                f"token {token.id} ('{token.content}') lies beyond the model's {self.n_vocab} rows and is left out; "
                "resize_token_embeddings gives it one"
            )
            self.left_out.add(token.content)
            return
        known = self.types[token.id] if token.id >= 0 else None
        is_known = known is not None and self.tokens[token.id] == token.content
        in_vocabulary = is_known and known == TokenType.NORMAL
        self.added[token.id] = token.flags() | (IN_VOCABULARY if in_vocabulary else 0)
        if is_known and known in (TokenType.UNKNOWN, TokenType.BYTE):
            return
        text = token.content
        if token.normalized and self.normalizes_spaces and not token.special:
            text = text.replace("\u2581", " ")  # others look for it in the text before its spaces are replaced
        self.put(token.id, text, TokenType.CONTROL if token.special else TokenType.USER_DEFINED)

    def finish(self) -> None:
        """Names the rows of the embedding that have no token, and checks that all text can be written."""
        for id_, text in enumerate(self.tokens):
            if text is None:
                self.tokens[id_] = f"[PAD{id_}]"
        templates = self.chat_template if isinstance(self.chat_template, list) else [{"": self.chat_template or ""}]
        for text in (*self.tokens, *(self.merges or []), *(text for entry in templates for text in entry.values())):
            try:
                text.encode()
            except UnicodeEncodeError as problem:
                raise ConvertError(f"{text[:40]!r} is no text: it has half of a surrogate pair") from problem

    def write(self, writer: GGUFWriter) -> None:
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.scores is not None:
            writer.add_token_scores(self.scores)
        if self.merges is not None:
            key = "tokenizer.ggml.merges" if self.model == "gpt2" else "livekv.tokenizer.merges"
            add_list(writer, key, self.merges)
        others = iter([id_ for id_ in self.ends if id_ not in (self.eos, self.eot)])
        for id_, add in (
            (self.bos, writer.add_bos_token_id),
            (self.eos, writer.add_eos_token_id),
            (self.unk, writer.add_unk_token_id),
            (self.pad, writer.add_pad_token_id),
            (self.eot if self.eot is not None else next(others, None), writer.add_eot_token_id),
            (next(others, None), writer.add_eom_token_id),
        ):
            if id_ is not None:
                add(id_)
        writer.add_add_bos_token(self.add_bos)
        writer.add_add_eos_token(self.add_eos)
        if self.remove_extra_whitespaces is not None:
            writer.add_remove_extra_whitespaces(self.remove_extra_whitespaces)
        if self.chat_template:
            writer.add_chat_template(self.chat_template)
        self._write_own_keys(writer)

    def _write_own_keys(self, writer: GGUFWriter) -> None:
        """What the ecosystem's keys cannot say (docs/gguf-keys.md)."""
        if self.prepend_scheme is not None:
            writer.add_add_space_prefix(self.prepend_scheme != "never")
            writer.add_string("livekv.tokenizer.prepend_scheme", self.prepend_scheme)
        for key, flag in (
            ("nfc", self.normalizes_nfc or None),
            ("normalizes_spaces", self.normalizes_spaces or None),
            ("splits_at_spaces", self.splits_at_spaces or None),
            ("fuse_unknown", self.fuse_unknown or None),
            ("ignore_merges", self.ignore_merges),
        ):
            if flag is not None:
                writer.add_bool(f"livekv.tokenizer.{key}", flag)
        add_list(writer, "livekv.tokenizer.added_tokens", list(self.added))
        add_list(writer, "livekv.tokenizer.added_token_flags", list(self.added.values()))
        add_list(writer, "livekv.tokenizer.eos_token_ids", self.ends)


def add_list(writer: GGUFWriter, key: str, values: list) -> None:
    """GGUF has no empty lists: without values, no key."""
    if values:
        writer.add_array(key, values)
