"""What tokenizer.json's post_processor puts around a text: in a GGUF a bos in front and an eos behind, or neither."""

from __future__ import annotations

from convert_error import ConvertError
from hf_vocab import Vocab
from json_fields import Fields, wrong


def set_added(vocab: Vocab, tokenizer: Fields, tokenizer_config: Fields, of_class: tuple[bool, bool] | None) -> None:
    """Whether a text gets a bos and an eos. tokenizer.json decides where there is one, as in transformers 5, unless the
    tokenizer's class decides itself (of_class). Without tokenizer.json add_bos_token and add_eos_token of
    tokenizer_config.json do. Throws ConvertError for tokens that are neither."""
    configured = {kind: tokenizer_config.flag(f"add_{kind}_token") for kind in ("bos", "eos")}
    if not tokenizer.data:
        # A bos where nothing is said, as models of SentencePiece expect and transformers up to 4 did; 5 adds none.
        vocab.add_bos = vocab.model == "llama" if configured["bos"] is None else configured["bos"]
        vocab.add_eos = bool(configured["eos"])
    elif of_class is not None:
        vocab.add_bos, vocab.add_eos = of_class
    else:
        front, behind = _around(tokenizer.object("post_processor"))
        vocab.add_bos = _is_added(vocab, "bos", front)
        vocab.add_eos = _is_added(vocab, "eos", behind)
        for kind, wanted in configured.items():
            if wanted is not None and wanted != getattr(vocab, f"add_{kind}"):
                vocab.notes.append(
                    f"tokenizer_config.json says add_{kind}_token {str(wanted).lower()}; tokenizer.json's "
                    f"post_processor adds {'one' if getattr(vocab, f'add_{kind}') else 'none'}, and decides"
                )
    for kind in ("bos", "eos"):
        if getattr(vocab, kind) is None:
            setattr(vocab, f"add_{kind}", False)


def _is_added(vocab: Vocab, kind: str, ids: list[int]) -> bool:
    if len(ids) == 1 and getattr(vocab, kind) is None and 0 <= ids[0] < vocab.n_vocab:
        setattr(vocab, kind, ids[0])
    if not ids or ids == [getattr(vocab, kind)]:
        return bool(ids)
    place = "in front of" if kind == "bos" else "behind"
    raise ConvertError(
        f"tokenizer.json: the post_processor puts the tokens {', '.join(map(str, ids))} {place} a text; only the "
        f"{kind} token ({getattr(vocab, kind)}) can be put there"
    )


def _around(processor: Fields | None) -> tuple[list[int], list[int]]:
    """The ids in front of and behind a single text."""
    if processor is None:
        return [], []
    kind = processor.text("type")
    if kind == "Sequence":
        front, behind = [], []
        for step in processor.objects("processors"):
            more_front, more_behind = _around(step)
            front, behind = more_front + front, behind + more_behind
        return front, behind
    if kind == "ByteLevel":  # of places in the text alone
        return [], []
    if kind == "TemplateProcessing":
        return _of_template(processor)
    if kind in ("BertProcessing", "RobertaProcessing"):
        return [_id_of_pair(processor, "cls")], [_id_of_pair(processor, "sep")]
    raise processor.wrong("type", "ByteLevel, TemplateProcessing, BertProcessing, RobertaProcessing or Sequence")


def _of_template(processor: Fields) -> tuple[list[int], list[int]]:
    known = processor.object("special_tokens")
    parts: list[list[int] | None] = []  # None: the text itself
    for item in processor.objects("single"):
        special = item.object("SpecialToken")
        if special is None:
            parts.append(None)
            continue
        name = special.required_text("id")
        entry = known.object(name) if known is not None else None
        ids = entry.list("ids") if entry is not None else None
        if ids is None or not all(_is_id(id_) for id_ in ids):
            raise wrong(processor.file, processor.name("special_tokens"), name, "a token with ids")
        parts.append(ids)
    if parts.count(None) != 1:
        raise processor.wrong("single", "a template with the text in it, once")
    at = parts.index(None)
    return [id_ for part in parts[:at] for id_ in part or []], [id_ for part in parts[at + 1 :] for id_ in part or []]


def _id_of_pair(processor: Fields, key: str) -> int:
    pair = processor.list(key)
    if pair is None or len(pair) != 2 or not _is_id(pair[1]):
        raise processor.wrong(key, "a token and its id")
    return pair[1]


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
