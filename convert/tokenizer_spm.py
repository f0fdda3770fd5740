"""SentencePiece vocabularies: from tokenizer.model, or from the tokenizer.json that stands for one."""

from __future__ import annotations

import re
from pathlib import Path

from gguf import TokenType

from convert_error import ConvertError
from hf_vocab import Vocab
from tokenizer_bytelevel import merge_pairs, steps_of

SPACE = "\u2581"
BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


def read_spm_model(path: Path, n_vocab: int) -> Vocab:
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
    vocab.add_space_prefix = normalizer.add_dummy_prefix
    vocab.remove_extra_whitespaces = normalizer.remove_extra_whitespaces
    for kind in ("bos", "eos", "unk", "pad"):
        id_ = getattr(trainer, f"{kind}_id")
        setattr(vocab, kind, id_ if 0 <= id_ < len(proto.pieces) else None)
    return vocab


def read_spm_json(tokenizer: dict, n_vocab: int) -> Vocab:
    """Scores are minus the rank of a token's first merge: SentencePiece merges the pair whose result scores best.

    That is BPE's order, with one difference left: SentencePiece may also merge a pair that is not in the list of merges
    when its result is a token. Lists made from a SentencePiece model hold every such pair; for lists trained otherwise,
    no text of a 90,000-token sample came out differently.
    """
    model = tokenizer["model"]
    if model.get("type") != "BPE":
        raise ConvertError(f"tokenizer.json of type {model.get('type')} is not supported (BPE is)")
    if model.get("ignore_merges"):
        raise ConvertError("ignore_merges is not supported for a SentencePiece tokenizer")
    vocab = Vocab("llama", "default", n_vocab)
    vocab.add_space_prefix = _space_prefix(tokenizer)
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merge_pairs(model)):
        ranks.setdefault(left + right, rank)
    for text, id_ in model["vocab"].items():
        if BYTE_TOKEN.fullmatch(text):
            vocab.put(id_, text, TokenType.BYTE)
        elif text == model.get("unk_token"):
            vocab.put(id_, text, TokenType.UNKNOWN)
            vocab.unk = id_
        else:
            vocab.put(id_, text, TokenType.NORMAL, -float(ranks.get(text, len(ranks))))
    return vocab


def _space_prefix(tokenizer: dict) -> bool:
    """Checks that the text is prepared as SentencePiece does it, and says whether a space is put in front."""
    prefix, replaces = False, False
    for step in steps_of(tokenizer.get("normalizer"), "normalizers"):
        if step["type"] == "Prepend" and step.get("prepend") == SPACE:
            prefix = True
        elif step["type"] == "Replace" and step.get("pattern") == {"String": " "} and step.get("content") == SPACE:
            replaces = True
        else:
            raise ConvertError(f"normalizer {step} is not one of SentencePiece's")
    for step in steps_of(tokenizer.get("pre_tokenizer"), "pretokenizers"):
        if step["type"] != "Metaspace" or step.get("replacement") != SPACE:
            raise ConvertError(f"pre_tokenizer {step} is not one of SentencePiece's")
        replaces = True
        scheme = step.get("prepend_scheme") or ("always" if step.get("add_prefix_space", True) else "never")
        prefix = prefix or scheme != "never"
    if not replaces:
        raise ConvertError(f"tokenizer.json is neither byte-level nor SentencePiece: nothing turns spaces into {SPACE}")
    return prefix
