"""SentencePiece vocabularies: from tokenizer.model, or from the tokenizer.json that stands for one."""

from __future__ import annotations

import re
from pathlib import Path

from gguf import TokenType

from convert_error import ConvertError
from hf_vocab import AddedToken, Vocab
from json_fields import Fields
from tokenizer_bytelevel import bpe_model, merge_pairs, steps_of, vocabulary

SPACE = "\u2581"
BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


def read_spm_model(path: Path, tokenizer_config: Fields, n_vocab: int) -> Vocab:
    """As LlamaTokenizer of transformers 5 reads it: `legacy` says whether a space follows each special token too."""
    try:
        from sentencepiece import sentencepiece_model_pb2
    except ImportError as problem:
        raise ConvertError(f"{path.name} needs the packages sentencepiece and protobuf: {problem}") from problem
    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except Exception as problem:
        raise ConvertError(f"{path} is not a SentencePiece model: {problem}") from problem
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    if trainer.model_type != sentencepiece_model_pb2.TrainerSpec.BPE:
        kind = sentencepiece_model_pb2.TrainerSpec.ModelType.Name(trainer.model_type)
        raise ConvertError(f"SentencePiece model of type {kind} is not supported (BPE is)")
    if trainer.treat_whitespace_as_suffix:
        raise ConvertError("SentencePiece's treat_whitespace_as_suffix is not supported")
    vocab = Vocab("llama", "default", n_vocab)
    if normalizer.precompiled_charsmap:
        vocab.notes.append(f"texts are not normalized ({normalizer.name} in tokenizer.model)")
    for id_, piece in enumerate(proto.pieces):
        vocab.put(id_, piece.piece, piece.type, piece.score)  # GGUF numbers the types as SentencePiece does
        if piece.type in (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED):
            vocab.add(AddedToken(id_, piece.piece, special=piece.type != TokenType.USER_DEFINED))
    wanted = tokenizer_config.flag("add_prefix_space", normalizer.add_dummy_prefix)
    everywhere = tokenizer_config.flag("legacy", False)
    vocab.prepend_scheme = "never" if not wanted else "each" if everywhere else "first"
    vocab.remove_extra_whitespaces = normalizer.remove_extra_whitespaces
    for kind in ("bos", "eos", "unk", "pad"):
        id_ = getattr(trainer, f"{kind}_id")
        setattr(vocab, kind, id_ if 0 <= id_ < len(proto.pieces) else None)
    return vocab


def read_spm_json(tokenizer: Fields, n_vocab: int) -> Vocab:
    """Merges are carried, which Hugging Face's order follows. Other tools read scores, minus the rank of a token's
    first merge: SentencePiece merges the pair whose result scores best."""
    model = bpe_model(tokenizer)
    if model.flag("ignore_merges"):
        raise ConvertError("ignore_merges is not supported for a SentencePiece tokenizer")
    vocab = Vocab("llama", "default", n_vocab)
    _set_space_rules(vocab, tokenizer)
    vocab.fuse_unknown = bool(model.flag("fuse_unk"))
    texts = vocabulary(model)
    # A space in a text is a mark by then, so a merge that has one never applies.
    pairs = [pair for pair in merge_pairs(model, texts) if " " not in pair[0] + pair[1]]
    vocab.merges = [f"{left} {right}" for left, right in pairs]
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


def _set_space_rules(vocab: Vocab, tokenizer: Fields) -> None:
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
