"""A Hugging Face folder's tokenizer -> the vocabulary a GGUF carries: as transformers 5 reads the folder.

Two families: SentencePiece BPE with byte fallback (GGUF model `llama`) and byte-level BPE (GGUF model `gpt2`). Both
come from tokenizer.json; tokenizer.model is read where there is none.
"""

from __future__ import annotations

from pathlib import Path

from gguf import TokenType

import post_processor
from added_tokens import add_tokens
from built_tokenizer import CLASSES, BuiltClass, built
from convert_error import ConvertError
from folder_files import files_in, has_file
from hf_checkpoint import read_json
from hf_vocab import Vocab
from json_fields import Fields
from prefix_space import note_spaces
from sentencepiece_model import Pieces, read_pieces
from special_names import Files, SpecialNames, read_special_names, read_token
from tokenizer_bytelevel import is_byte_level, read_byte_level
from tokenizer_class import tokenizer_class
from tokenizer_spm import has_all_bytes, read_spm_json

# Tokens that end a turn of a chat, by the names the published models give them.
END_OF_TURN = ("<|eot_id|>", "<|im_end|>", "<|end_of_turn|>", "<end_of_turn>", "<|eot|>")

UNKNOWN = "<unk>"  # of SentencePiece, unless a model calls it otherwise


def read_vocab(hf_dir: Path, config: dict, n_vocab: int) -> Vocab:
    """Exactly n_vocab tokens; throws ConvertError when the tokenizer is of no supported kind or does not fit."""
    files = Files(
        tokenizer=_read_optional(hf_dir, "tokenizer.json"),
        config=_read_optional(hf_dir, "tokenizer_config.json"),
        special_map=_read_optional(hf_dir, "special_tokens_map.json"),
        added=_read_optional(hf_dir, "added_tokens.json"),
    )
    model_config = Fields(config, "config.json")
    _refuse_unread(files.config)
    pieces = None if files.tokenizer.data else _read_pieces(hf_dir)
    names_byte_level = pieces is None and '"ByteLevel"' in _read_text(hf_dir / "tokenizer.json")
    kind = CLASSES.get(tokenizer_class(files.config, model_config, names_byte_level))
    names = _special_names(files, kind, pieces)
    vocab = _read_model(files, kind, names, pieces, n_vocab)
    if (
        model_config.text("model_type") == "mistral"
        and files.config.flag("fix_mistral_regex")
        and vocab.pre != "tekken"
    ):
        raise ConvertError(f"{files.config.wrong('fix_mistral_regex', 'false')}: it is not read")
    note_spaces(vocab, files.tokenizer, files.config, kind is not None)

    unk_of_model, has_all = vocab.unk, has_all_bytes(vocab)
    if vocab.model == "llama" and vocab.unk is None and has_all and names.text("unk_token") == UNKNOWN in vocab.ids:
        vocab.types[vocab.ids[UNKNOWN]] = int(TokenType.UNKNOWN)  # for other tools, which look for one
    own = files.tokenizer.objects("added_tokens") if kind is None else []
    own = [read_token(entry, entry.required_integer("id")) for entry in own]
    add_tokens(vocab, own, names, kind is not None and kind.adds_twice)
    for name in ("bos", "eos", "unk", "pad"):
        _set_special(vocab, name, names, _ids(model_config, f"{name}_token_id"), pieces)
    if not has_all:
        vocab.unk = unk_of_model  # without one, what is no token is left out of a text
    vocab.eot = next((vocab.ids[name] for name in END_OF_TURN if name in vocab.ids), None)
    post_processor.set_added(vocab, files.tokenizer, files.config, kind.around if kind else None)
    _set_ends(vocab, model_config, _read_optional(hf_dir, "generation_config.json"))
    of_files = _template_of_files(hf_dir)
    vocab.chat_template = _chat_template(files.config) if of_files is None else of_files
    _note_template(vocab)
    vocab.finish()
    return vocab


def _refuse_unread(config: Fields) -> None:
    """Keys of tokenizer_config.json that change tokens and are not read."""
    if config.flag("split_special_tokens"):
        raise ConvertError(
            f"{config.wrong('split_special_tokens', 'false')}: control tokens that a text spells out are always taken "
            "for such where the caller asks for it"
        )
    if any(name != "tokenizer.json" for name in config.list("fast_tokenizer_files") or []):
        raise ConvertError(f"{config.wrong('fast_tokenizer_files', 'none')}: only tokenizer.json is read")


def _read_model(
    files: Files, kind: BuiltClass | None, names: SpecialNames, pieces: Pieces | None, n_vocab: int
) -> Vocab:
    """Tokens, merges and the rules of a text, without added tokens."""
    tokenizer = files.tokenizer if pieces is None else pieces.tokenizer
    if kind is not None:
        if pieces is not None and kind.byte_level:
            raise ConvertError("the tokenizer's class needs tokenizer.json, and there is tokenizer.model alone")
        tokenizer = built(kind, tokenizer, files.config, names.text("unk_token"))
    elif pieces is not None:
        pieces.take_whole(names.listed)
    vocab = read_byte_level(tokenizer, n_vocab) if is_byte_level(tokenizer) else read_spm_json(tokenizer, n_vocab)
    if pieces is not None:
        pieces.complete(vocab)
    return vocab


def _special_names(files: Files, kind: BuiltClass | None, pieces: Pieces | None) -> SpecialNames:
    defaults = kind.names if kind is not None else pieces.names if pieces is not None else {}
    listed_too = kind.extra if kind is not None else ()
    return read_special_names(files, defaults, listed_too, pieces.added if pieces is not None else None)


def _read_pieces(hf_dir: Path) -> Pieces:
    if has_file(hf_dir / "tokenizer.model"):
        return read_pieces(hf_dir / "tokenizer.model")
    tekken = " (tekken.json is not read; the folder in transformers' format has a tokenizer.json)"
    found = tekken if has_file(hf_dir / "tekken.json") else ""
    raise ConvertError(f"{hf_dir} holds neither tokenizer.json nor tokenizer.model{found}")


def _read_optional(hf_dir: Path, name: str) -> Fields:
    return Fields(read_json(hf_dir / name) if has_file(hf_dir / name) else {}, name)


def _ids(file: Fields, key: str) -> list[int]:
    """One id, several, or none."""
    value = file.data.get(key)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(id_, int) and not isinstance(id_, bool) for id_ in ids):
        raise file.wrong(key, "a whole number or a list of them")
    return ids


def _set_special(vocab: Vocab, kind: str, names: SpecialNames, configured: list[int], pieces: Pieces | None) -> None:
    """The name in the tokenizer's files wins over the number in config.json, which wins over the name that only the
    class gives, and that over tokenizer.model."""
    text = names.text(f"{kind}_token")
    is_said = f"{kind}_token" in names.said
    if is_said and text in vocab.ids:
        setattr(vocab, kind, vocab.ids[text])
        return
    if is_said and text in vocab.left_out and kind in ("bos", "eos"):
        raise ConvertError(
            f"the {kind} token '{text}' lies beyond the model's {vocab.n_vocab} rows: give it one with "
            "model.resize_token_embeddings(len(tokenizer)), save the model and convert that"
        )
    known = [id_ for id_ in configured if 0 <= id_ < vocab.n_vocab]
    if known:
        setattr(vocab, kind, known[0])
        return
    if configured and kind != "eos" and configured != [-1]:  # _set_ends says those; some write -1 for none
        vocab.notes.append(f"{kind}_token_id {configured[0]} is none of the model's {vocab.n_vocab} tokens: left out")
    of_pieces = pieces.ids.get(kind) if pieces is not None else None
    found = vocab.ids.get(text, of_pieces)
    if found is not None:
        setattr(vocab, kind, found)


def _set_ends(vocab: Vocab, model_config: Fields, generation_config: Fields) -> None:
    """Every id that ends a text: the tokenizer's, and all that the configurations list."""
    listed = _ids(model_config, "eos_token_id") + _ids(generation_config, "eos_token_id")
    ends = ([] if vocab.eos is None else [vocab.eos]) + [id_ for id_ in listed if 0 <= id_ < vocab.n_vocab]
    for id_ in dict.fromkeys(listed):
        if not 0 <= id_ < vocab.n_vocab:
            vocab.notes.append(f"eos_token_id {id_} is none of the model's {vocab.n_vocab} tokens: left out")
    vocab.ends = list(dict.fromkeys(ends))


def _template_of_files(hf_dir: Path) -> str | list | None:
    """What newer transformers writes beside tokenizer_config.json: one template, and others by name in a folder."""
    main = hf_dir / "chat_template.jinja"
    if not has_file(main):
        return _chat_template(_read_optional(hf_dir, "chat_template.json"))
    others = files_in(hf_dir / "additional_chat_templates", "*.jinja")
    if not others:
        return _read_text(main)
    named = [("default", main), *((path.stem, path) for path in others)]
    return [{"name": name, "template": _read_text(path)} for name, path in named]


def _note_template(vocab: Vocab) -> None:
    """What the engine runs the template of a known family for instead."""
    listed = isinstance(vocab.chat_template, list)
    named = {entry["name"]: entry["template"] for entry in vocab.chat_template} if listed else {}
    text = named.get("default", "") if listed else vocab.chat_template or ""
    if text and "messages" not in text:
        vocab.notes.append("the chat template reads no messages: chats are those of the family it is recognized as")
    elif named and not text:
        names = ", ".join(named)
        vocab.notes.append(
            f"the chat templates ({names}) have no default: without tools, chats are those of the family that the "
            "vocabulary is recognized as"
        )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as problem:
        raise ConvertError(f"{path} is not UTF-8: {problem}") from problem


def _chat_template(tokenizer_config: Fields) -> str | list | None:
    """One template, or several by name: a list of objects with name and template, or an object of them."""
    value = tokenizer_config.data.get("chat_template")
    if isinstance(value, list):
        entries = tokenizer_config.objects("chat_template")
        return [{"name": entry.required_text("name"), "template": entry.required_text("template")} for entry in entries]
    if isinstance(value, dict):
        named = tokenizer_config.object("chat_template")
        return [{"name": name, "template": named.required_text(name)} for name in named.data]
    return tokenizer_config.text("chat_template")
