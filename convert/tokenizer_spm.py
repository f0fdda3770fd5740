"""SentencePiece vocabularies, from the tokenizer.json that stands for one."""

from __future__ import annotations

import re

from gguf import TokenType

from built_tokenizer import SPACE
from convert_error import ConvertError
from hf_vocab import Vocab
from json_fields import Fields
from tokenizer_bytelevel import bpe_model, byte_characters, merge_pairs, steps_of, vocabulary

BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


def read_spm_json(tokenizer: Fields, n_vocab: int) -> Vocab:
    """Merges are carried, which Hugging Face's order follows. Other tools read scores, minus the rank of a token's
    first merge: SentencePiece merges the pair whose result scores best."""
    model = bpe_model(tokenizer)
    if model.flag("ignore_merges"):
        raise ConvertError("ignore_merges is not supported for a SentencePiece tokenizer")
    vocab = Vocab("llama", "default", n_vocab)
    set_space_rules(vocab, tokenizer)
    vocab.fuse_unknown = bool(model.flag("fuse_unk"))
    texts = vocabulary(model)
    # A space in a text is a mark by then, so a merge that has one never applies.
    pairs = [pair for pair in merge_pairs(model, texts) if " " not in pair[0] + pair[1]]
    vocab.merges = [f"{left} {right}" for left, right in pairs]
    if not vocab.merges:  # GGUF has no empty lists, and without one the scores would join pieces
        raise model.wrong("merges", "at least one merge that a text can need: the engine takes none without")
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(pairs):
        ranks.setdefault(left + right, rank)
    for text, id_ in texts.items():
        if model.flag("byte_fallback") and BYTE_TOKEN.fullmatch(text):
            vocab.put(id_, text, TokenType.BYTE)
        elif text == model.text("unk_token"):
            vocab.put(id_, text, TokenType.UNKNOWN)
            vocab.unk = id_
        else:
            vocab.put(id_, text, TokenType.NORMAL, -float(ranks.get(text, len(ranks))))
    return vocab


def has_all_bytes(vocab: Vocab) -> bool:
    """Whether every text can be written without an unknown token."""
    if vocab.model == "gpt2":
        return all(character in vocab.ids for character in byte_characters())
    return vocab.types.count(TokenType.BYTE) == 256


def set_space_rules(vocab: Vocab, tokenizer: Fields) -> None:
    """Checks that the text is prepared as SentencePiece does it, and says where a space is put in front."""
    prepends = False
    for step in steps_of(tokenizer, "normalizer"):
        kind, pattern = step.text("type"), step.data.get("pattern")
        if kind == "Prepend" and step.text("prepend") == SPACE and not vocab.normalizes_spaces:
            prepends = True
        elif kind == "Replace" and pattern == {"String": " "} and step.text("content") == SPACE:
            vocab.normalizes_spaces = True
        else:
            raise ConvertError(f"normalizer {step.data} is not one of SentencePiece's")
    scheme = None
    for step in steps_of(tokenizer, "pre_tokenizer"):
        if vocab.normalizes_spaces and step.text("type") == "Split" and step.data.get("pattern") == {"String": " "}:
            continue  # Gemma's: no space is left by then
        if step.text("type") != "Metaspace" or step.text("replacement") != SPACE or scheme is not None:
            raise ConvertError(f"pre_tokenizer {step.data} is not one of SentencePiece's")
        scheme = step.text("prepend_scheme", "always" if step.flag("add_prefix_space", True) else "never")
        if scheme not in ("always", "first", "never"):
            raise step.wrong("prepend_scheme", "always, first or never")
        vocab.splits_at_spaces = bool(step.flag("split", True))
    if scheme is None and not vocab.normalizes_spaces:
        raise ConvertError(f"tokenizer.json is neither byte-level nor SentencePiece: nothing turns spaces into {SPACE}")
    if prepends and (scheme not in (None, "never") or not vocab.normalizes_spaces):
        raise ConvertError("tokenizer.json puts spaces in front twice: Prepend with Metaspace is not supported")
    names = {None: "never", "never": "never", "first": "first", "always": "each"}
    vocab.prepend_scheme = "always" if prepends else names[scheme]
