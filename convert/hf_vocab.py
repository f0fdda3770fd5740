"""The vocabulary as GGUF stores it, while it is being collected."""

from __future__ import annotations

from dataclasses import dataclass, field

from gguf import GGUFWriter, TokenType

from convert_error import ConvertError


@dataclass
class Vocab:
    model: str  # llama (SentencePiece) or gpt2 (byte-level BPE)
    pre: str  # which regular expression splits a text before merging
    n_vocab: int
    tokens: list[str | None] = field(default_factory=list)  # [n_vocab]; None: no such token
    types: list[int] = field(default_factory=list)  # [n_vocab]
    scores: list[float] | None = None  # [n_vocab], llama only
    merges: list[str] | None = None  # "left right", best first, gpt2 only
    ids: dict[str, int] = field(default_factory=dict)
    add_space_prefix: bool | None = None
    remove_extra_whitespaces: bool | None = None
    bos: int | None = None
    eos: int | None = None
    unk: int | None = None
    pad: int | None = None
    eot: int | None = None
    add_bos: bool = False
    add_eos: bool = False
    chat_template: str | list | None = None
    notes: list[str] = field(default_factory=list)

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

    def add(self, id_: int, text: str, special: bool) -> None:
        """An entry of added_tokens, which may repeat one of the vocabulary proper."""
        known = self.types[id_] if 0 <= id_ < self.n_vocab else None
        if known in (TokenType.UNKNOWN, TokenType.BYTE) and self.tokens[id_] == text:
            return
        if not special and self.model == "llama":
            text = text.replace("\u2581", " ")  # matched against the text before its spaces are replaced
        self.put(id_, text, TokenType.CONTROL if special else TokenType.USER_DEFINED)

    def finish(self) -> None:
        """Names the rows of the embedding that have no token."""
        for id_, text in enumerate(self.tokens):
            if text is None:
                self.tokens[id_] = f"[PAD{id_}]"

    def write(self, writer: GGUFWriter) -> None:
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.scores is not None:
            writer.add_token_scores(self.scores)
        if self.merges is not None:
            writer.add_token_merges(self.merges)
        for id_, add in (
            (self.bos, writer.add_bos_token_id),
            (self.eos, writer.add_eos_token_id),
            (self.unk, writer.add_unk_token_id),
            (self.pad, writer.add_pad_token_id),
            (self.eot, writer.add_eot_token_id),
        ):
            if id_ is not None:
                add(id_)
        writer.add_add_bos_token(self.add_bos)
        writer.add_add_eos_token(self.add_eos)
        if self.add_space_prefix is not None:
            writer.add_add_space_prefix(self.add_space_prefix)
        if self.remove_extra_whitespaces is not None:
            writer.add_remove_extra_whitespaces(self.remove_extra_whitespaces)
        if self.chat_template:
            writer.add_chat_template(self.chat_template)
