"""A Hugging Face folder's tokenizer -> the vocabulary a GGUF carries.

Two families: SentencePiece BPE with byte fallback (GGUF model `llama`), from tokenizer.model or from the tokenizer.json
that transformers makes of one, and byte-level BPE (GGUF model `gpt2`), from tokenizer.json.
"""

from __future__ import annotations

from pathlib import Path

from convert_error import ConvertError
from hf_checkpoint import read_json
from hf_vocab import Vocab
from tokenizer_bytelevel import is_byte_level, read_byte_level
from tokenizer_spm import read_spm_json, read_spm_model

# Tokens that end a turn of a chat, by the names the published models give them.
END_OF_TURN = ("<|eot_id|>", "<|im_end|>", "<|end_of_turn|>", "<end_of_turn>", "<|eot|>")


def read_vocab(hf_dir: Path, config: dict, n_vocab: int) -> Vocab:
    """Exactly n_vocab tokens; throws ConvertError when the tokenizer is of no supported kind or does not fit."""
    tokenizer = _read_optional(hf_dir, "tokenizer.json")
    tokenizer_config = _read_optional(hf_dir, "tokenizer_config.json")
    if tokenizer and is_byte_level(tokenizer):
        vocab = read_byte_level(tokenizer, n_vocab)
    elif (hf_dir / "tokenizer.model").exists():
        vocab = read_spm_model(hf_dir / "tokenizer.model", n_vocab)
    elif tokenizer:
        vocab = read_spm_json(tokenizer, n_vocab)
    else:
        raise ConvertError(f"{hf_dir} holds neither tokenizer.json nor tokenizer.model")

    for id_, content, special in _added_tokens(hf_dir, tokenizer, tokenizer_config):
        vocab.add(id_, content, special)
    names = {**_read_optional(hf_dir, "special_tokens_map.json"), **tokenizer_config}
    for kind in ("bos", "eos", "unk", "pad"):
        _set_special(vocab, kind, names.get(f"{kind}_token"), config.get(f"{kind}_token_id"))
    vocab.eot = next((vocab.ids[name] for name in END_OF_TURN if name in vocab.ids), None)
    _set_add_flags(vocab, tokenizer, tokenizer_config)
    vocab.chat_template = tokenizer_config.get("chat_template")
    template_file = hf_dir / "chat_template.jinja"
    if template_file.exists():
        vocab.chat_template = template_file.read_text(encoding="utf-8")
    vocab.finish()
    return vocab


def _read_optional(hf_dir: Path, name: str) -> dict:
    return read_json(hf_dir / name) if (hf_dir / name).exists() else {}


def _added_tokens(hf_dir: Path, tokenizer: dict, tokenizer_config: dict) -> list[tuple[int, str, bool]]:
    """(id, text, special), from the first source that has any; slow tokenizers keep theirs beside tokenizer.model."""
    if tokenizer.get("added_tokens"):
        return [(token["id"], token["content"], token["special"]) for token in tokenizer["added_tokens"]]
    if tokenizer_config.get("added_tokens_decoder"):
        entries = tokenizer_config["added_tokens_decoder"].items()
        return [(int(id_), token["content"], token.get("special", False)) for id_, token in entries]
    return [(id_, content, False) for content, id_ in _read_optional(hf_dir, "added_tokens.json").items()]


def _text(token: str | dict | None) -> str | None:
    return token["content"] if isinstance(token, dict) else token


def _set_special(vocab: Vocab, kind: str, token: str | dict | None, configured_id: int | list[int] | None) -> None:
    """The name in the tokenizer's files wins over the number in config.json, which wins over tokenizer.model."""
    text = _text(token)
    if text is not None and text in vocab.ids:
        setattr(vocab, kind, vocab.ids[text])
        return
    if isinstance(configured_id, list):
        configured_id = configured_id[0] if configured_id else None
    if isinstance(configured_id, int) and 0 <= configured_id < len(vocab.tokens):
        setattr(vocab, kind, configured_id)


def _set_add_flags(vocab: Vocab, tokenizer: dict, tokenizer_config: dict) -> None:
    """Whether a text gets a bos in front and an eos behind: as configured, else as the template does."""
    first, last = _template_ends(tokenizer.get("post_processor"))
    for text, kind in ((first, "bos"), (last, "eos")):
        id_ = vocab.ids.get(text) if text is not None else None
        if id_ is None:
            continue
        if getattr(vocab, kind) is None:
            setattr(vocab, kind, id_)
        if getattr(vocab, kind) != id_:
            vocab.notes.append(f"the post_processor adds {text}, which is not the {kind} token: not carried over")
        else:
            setattr(vocab, f"add_{kind}", True)
    if not tokenizer and vocab.model == "llama":
        vocab.add_bos = True  # LlamaTokenizer's default, with tokenizer.model alone
    for kind in ("bos", "eos"):
        configured = tokenizer_config.get(f"add_{kind}_token")
        if configured is not None:
            setattr(vocab, f"add_{kind}", bool(configured))
        if getattr(vocab, kind) is None:
            setattr(vocab, f"add_{kind}", False)


def _template_ends(post_processor: dict | None) -> tuple[str | None, str | None]:
    """The special tokens a TemplateProcessing puts right before and right after a single text."""
    if not post_processor:
        return None, None
    for step in post_processor.get("processors", [post_processor]):
        if step.get("type") != "TemplateProcessing":
            continue
        items = [item.get("SpecialToken", {}).get("id") for item in step["single"]]  # None: the text itself
        at = items.index(None)
        return (items[at - 1] if at > 0 else None), (items[at + 1] if at + 1 < len(items) else None)
    return None, None
