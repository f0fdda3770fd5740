"""A Hugging Face folder's tokenizer -> the vocabulary a GGUF carries.

Two families: SentencePiece BPE with byte fallback (GGUF model `llama`), from tokenizer.model or from the tokenizer.json
that transformers makes of one, and byte-level BPE (GGUF model `gpt2`), from tokenizer.json.
"""

from __future__ import annotations

from pathlib import Path

import post_processor
from added_tokens import add_tokens, token_text
from convert_error import ConvertError
from hf_checkpoint import read_json
from hf_vocab import Vocab
from json_fields import Fields
from prefix_space import follow_config
from tokenizer_bytelevel import is_byte_level, read_byte_level
from tokenizer_spm import read_spm_json, read_spm_model

# Tokens that end a turn of a chat, by the names the published models give them.
END_OF_TURN = ("<|eot_id|>", "<|im_end|>", "<|end_of_turn|>", "<end_of_turn>", "<|eot|>")


def read_vocab(hf_dir: Path, config: dict, n_vocab: int) -> Vocab:
    """Exactly n_vocab tokens; throws ConvertError when the tokenizer is of no supported kind or does not fit."""
    tokenizer = _read_optional(hf_dir, "tokenizer.json")
    tokenizer_config = _read_optional(hf_dir, "tokenizer_config.json")
    model_config = Fields(config, "config.json")
    if tokenizer.data and is_byte_level(tokenizer):
        vocab = read_byte_level(tokenizer, n_vocab)
        follow_config(vocab, tokenizer_config, model_config)
    elif (hf_dir / "tokenizer.model").exists():
        vocab = read_spm_model(hf_dir / "tokenizer.model", tokenizer_config, n_vocab)
    elif tokenizer.data:
        vocab = read_spm_json(tokenizer, n_vocab)
        follow_config(vocab, tokenizer_config, model_config)
    else:
        tekken = " (tekken.json is not read; the folder in transformers' format has a tokenizer.json)"
        found = tekken if (hf_dir / "tekken.json").exists() else ""
        raise ConvertError(f"{hf_dir} holds neither tokenizer.json nor tokenizer.model{found}")

    special_map = _read_optional(hf_dir, "special_tokens_map.json")
    add_tokens(vocab, tokenizer, tokenizer_config, special_map, _read_optional(hf_dir, "added_tokens.json"))
    names = [special_map, tokenizer_config]  # as transformers prefers them, unless the latter has all
    if "added_tokens_decoder" in tokenizer_config.data:
        names.reverse()
    for kind in ("bos", "eos", "unk", "pad"):
        text = next((text for text in (token_text(file, f"{kind}_token") for file in names) if text is not None), None)
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
    known = [id_ for id_ in configured if 0 <= id_ < vocab.n_vocab]
    if known:
        setattr(vocab, kind, known[0])
    elif configured and kind != "eos" and configured != [-1]:  # _set_ends says those; some write -1 for none
        vocab.notes.append(f"{kind}_token_id {configured[0]} is none of the model's {vocab.n_vocab} tokens: left out")


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
