"""tokenizer.model, a SentencePiece model, as the tokenizer.json that transformers 5 makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import TokenType

from built_tokenizer import REPLACED_SPACES
from convert_error import ConvertError
from hf_vocab import AddedToken, Vocab
from json_fields import Fields


@dataclass
class Pieces:
    """A tokenizer.model: as the tokenizer.json that transformers 5 makes of it, and what that does not hold."""

    tokenizer: Fields  # as TokenizersBackend takes it, which puts no space in front
    added: list[AddedToken]  # control and user-defined pieces
    scores: list[float]  # [number of pieces]
    unused: set[int]
    names: dict[str, str]  # bos_token and so on
    ids: dict[str, int]  # bos and so on, and pad
    normalizer: str  # the name of what a text goes through first; "" for nothing
    removes_spaces: bool  # that are more than one, at the ends of a text too

    def take_whole(self, listed: list[AddedToken]) -> None:
        """Gives pieces the texts that the list has for their ids, where the vocabulary lacks those. Throws ConvertError
        for texts that go through a charsmap, which only classes of their own leave out."""
        if self.normalizer:
            raise ConvertError(f"tokenizer.model normalizes texts ({self.normalizer}), which is not supported")
        ids = self.tokenizer.data["model"]["vocab"]
        texts = {id_: text for text, id_ in ids.items()}
        for token in listed:
            if texts.get(token.id) and token.content not in ids:
                ids[token.content] = ids.pop(texts[token.id])
                texts[token.id] = token.content

    def complete(self, vocab: Vocab) -> None:
        """Scores and types that a tokenizer.json has not."""
        for id_, score in enumerate(self.scores):
            vocab.scores[id_] = score
            if id_ in self.unused and vocab.types[id_] == TokenType.NORMAL:
                vocab.types[id_] = int(TokenType.UNUSED)
        vocab.remove_extra_whitespaces = False
        if self.normalizer:
            vocab.notes.append(f"texts are not normalized ({self.normalizer} in tokenizer.model), as in transformers")
        if self.removes_spaces:
            vocab.notes.append("spaces that tokenizer.model would remove stay, as in transformers")


def read_pieces(path: Path) -> Pieces:
    """Throws ConvertError for what is no BPE of SentencePiece's."""
    proto = _parse(path)
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    ids = {piece.piece: id_ for id_, piece in enumerate(proto.pieces)}
    # What two pieces make is a merge, first those of the first pieces, whatever their scores.
    merges = [
        [text[:cut], text[cut:]]
        for text in sorted(ids, key=ids.get)
        for cut in range(1, len(text))
        if text[:cut] in ids and text[cut:] in ids
    ]
    tokenizer = {
        "normalizer": REPLACED_SPACES,
        "model": {
            "type": "BPE",
            "vocab": ids,
            "merges": merges,
            "unk_token": trainer.unk_piece,
            "fuse_unk": True,
            "byte_fallback": trainer.byte_fallback,
        },
    }
    kinds = ("bos", "eos", "unk", "pad")
    own = {kind: getattr(trainer, f"{kind}_id") for kind in kinds if 0 <= getattr(trainer, f"{kind}_id")}
    return Pieces(
        tokenizer=Fields(tokenizer, path.name),
        added=[
            AddedToken(-1, piece.piece, special=piece.type == TokenType.CONTROL)
            for piece in proto.pieces
            if piece.type in (TokenType.CONTROL, TokenType.USER_DEFINED)
        ],
        scores=[piece.score for piece in proto.pieces],
        unused={id_ for id_, piece in enumerate(proto.pieces) if piece.type == TokenType.UNUSED},
        names={f"{kind}_token": getattr(trainer, f"{kind}_piece") for kind in own if kind != "pad"},
        ids={kind: id_ for kind, id_ in own.items() if id_ < len(proto.pieces)},
        normalizer=(normalizer.name or "a charsmap") if normalizer.precompiled_charsmap else "",
        removes_spaces=normalizer.remove_extra_whitespaces,
    )


def _parse(path: Path) -> Any:
    try:
        from sentencepiece import sentencepiece_model_pb2
    except ImportError as problem:
        raise ConvertError(f"{path.name} needs the packages sentencepiece and protobuf: {problem}") from problem
    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except Exception as problem:
        raise ConvertError(f"{path} is not a SentencePiece model: {problem}") from problem
    trainer = proto.trainer_spec
    if trainer.model_type != sentencepiece_model_pb2.TrainerSpec.BPE:
        kind = sentencepiece_model_pb2.TrainerSpec.ModelType.Name(trainer.model_type)
        raise ConvertError(f"SentencePiece model of type {kind} is not supported (BPE is)")
    if trainer.treat_whitespace_as_suffix:
        raise ConvertError("SentencePiece's treat_whitespace_as_suffix is not supported")
    return proto
