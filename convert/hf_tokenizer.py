"""A Hugging Face folder's tokenizer -> the vocabulary a GGUF carries.

Two families: SentencePiece BPE with byte fallback (GGUF model `llama`), from tokenizer.model or from the tokenizer.json
that transformers makes of one, and byte-level BPE (GGUF model `gpt2`), from tokenizer.json.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import post_processor
from convert_error import ConvertError
from hf_checkpoint import read_json
from hf_vocab import AddedToken, Vocab
from json_fields import Fields
from tokenizer_bytelevel import is_byte_level, read_byte_level
from tokenizer_spm import read_spm_json, read_spm_model

# Tokens that end a turn of a chat, by the names the published models give them.
END_OF_TURN = ("<|eot_id|>", "<|im_end|>", "<|end_of_turn|>", "<end_of_turn>", "<|eot|>")


def read_vocab(hf_dir: Path, config: dict, n_vocab: int) -> Vocab:
    """Exactly n_vocab tokens; throws ConvertError when the tokenizer is of no supported kind or does not fit."""
    tokenizer = _read_optional(hf_dir, "tokenizer.json")
    tokenizer_config = _read_optional(hf_dir, "tokenizer_config.json")
    if tokenizer.data and is_byte_level(tokenizer):
        vocab = read_byte_level(tokenizer, n_vocab)
    elif (hf_dir / "tokenizer.model").exists():
        vocab = read_spm_model(hf_dir / "tokenizer.model", tokenizer_config, n_vocab)
    elif tokenizer.data:
        vocab = read_spm_json(tokenizer, n_vocab)
    else:
        tekken = " (tekken.json is not read; the folder in transformers' format has a tokenizer.json)"
        found = tekken if (hf_dir / "tekken.json").exists() else ""
        raise ConvertError(f"{hf_dir} holds neither tokenizer.json nor tokenizer.model{found}")

    added = _added_tokens(hf_dir, tokenizer, tokenizer_config)
    if tokenizer.objects("added_tokens"):
        added = _numbered(added, vocab)
    for token in added:
        vocab.add(token)
    model_config = Fields(config, "config.json")
    names = [tokenizer_config, _read_optional(hf_dir, "special_tokens_map.json")]
    for kind in ("bos", "eos", "unk", "pad"):
        text = next((text for text in (_token_text(file, f"{kind}_token") for file in names) if text is not None), None)
        _set_special(vocab, kind, text, _ids(model_config, f"{kind}_token_id"))
    vocab.eot = next((vocab.ids[name] for name in END_OF_TURN if name in vocab.ids), None)
    post_processor.set_added(vocab, tokenizer, tokenizer_config)
    _set_ends(vocab, model_config, _read_optional(hf_dir, "generation_config.json"))
    of_files = _template_of_files(hf_dir)
    vocab.chat_template = _chat_template(tokenizer_config) if of_files is None else of_files
    vocab.finish()
    return vocab


def _read_optional(hf_dir: Path, name: str) -> Fields:
    return Fields(read_json(hf_dir / name) if (hf_dir / name).exists() else {}, name)


def _added_tokens(hf_dir: Path, tokenizer: Fields, tokenizer_config: Fields) -> list[AddedToken]:
    """From the first source that has any; slow tokenizers keep theirs beside tokenizer.model."""
    if tokenizer.objects("added_tokens"):
        return [_added_token(entry.required_integer("id"), entry) for entry in tokenizer.objects("added_tokens")]
    decoder = tokenizer_config.object("added_tokens_decoder")
    if decoder is not None and decoder.data:
        found = []
        for id_ in decoder.data:
            entry = decoder.object(id_)
            if entry is None or not id_.isdecimal():
                raise decoder.wrong(id_, "an id with an object")
            found.append(_added_token(int(id_), entry))
        return found
    listed = _read_optional(hf_dir, "added_tokens.json")
    return [AddedToken(listed.required_integer(content), content) for content in listed.data]


def _numbered(added: list[AddedToken], vocab: Vocab) -> list[AddedToken]:
    """With the ids that Hugging Face's tokenizers give them, whatever the file says: that of the same text in the
    vocabulary, else the next one behind the vocabulary and the tokens added before."""
    next_id, found = len(vocab.ids), []
    for token in added:
        id_ = vocab.ids.get(token.content, next_id)
        if id_ != token.id:
            vocab.notes.append(
                f"'{token.content}' is token {id_}, as tokenizers numbers it; tokenizer.json says {token.id}"
            )
        next_id = max(next_id, id_ + 1)
        found.append(replace(token, id=id_))
    return found


def _added_token(id_: int, entry: Fields) -> AddedToken:
    special = bool(entry.flag("special"))
    flags = {name: bool(entry.flag(name)) for name in ("lstrip", "rstrip", "single_word")}
    normalized = bool(entry.flag("normalized", not special))
    return AddedToken(id_, entry.required_text("content"), special, normalized=normalized, **flags)


def _token_text(file: Fields, key: str) -> str | None:
    """A special token's text: the string, or an object's content."""
    if isinstance(file.data.get(key), dict):
        return file.object(key).required_text("content")
    return file.text(key)


def _ids(file: Fields, key: str) -> list[int]:
    """One id, several, or none."""
    value = file.data.get(key)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(id_, int) and not isinstance(id_, bool) for id_ in ids):
        raise file.wrong(key, "a whole number or a list of them")
    return ids


def _set_special(vocab: Vocab, kind: str, text: str | None, configured: list[int]) -> None:
    """The name in the tokenizer's files wins over the number in config.json, which wins over tokenizer.model."""
    if text is not None and text in vocab.ids:
        setattr(vocab, kind, vocab.ids[text])
        return
    if text in vocab.left_out and kind in ("bos", "eos"):
        raise ConvertError(
            f"the {kind} token '{text}' lies beyond the model's {vocab.n_vocab} rows: give it one with "
            "model.resize_token_embeddings(len(tokenizer)), save the model and convert that"
        )
    if configured and 0 <= configured[0] < len(vocab.tokens):
        setattr(vocab, kind, configured[0])


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
    if not main.exists():
        return _chat_template(_read_optional(hf_dir, "chat_template.json"))
    others = sorted((hf_dir / "additional_chat_templates").glob("*.jinja"))
    if not others:
        return _read_text(main)
    named = [("default", main), *((path.stem, path) for path in others)]
    return [{"name": name, "template": _read_text(path)} for name, path in named]


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
