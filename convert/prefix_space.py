"""Whether a text gets a space in front where tokenizer.json and tokenizer_config.json say different things.

transformers 5 takes tokenizer.json whole for some models and classes. Others it builds anew, from the vocabulary, the
merges and tokenizer_config.json, whose add_prefix_space decides then.
"""

from __future__ import annotations

from convert_error import ConvertError
from hf_vocab import Vocab
from json_fields import Fields

TAKEN_WHOLE = ("mistral", "phi3")  # model_type: whatever the class
BUILT_BYTE_LEVEL = ("GPT2Tokenizer", "Qwen2Tokenizer")
BUILT_SPM = ("LlamaTokenizer",)

# Of a prepend_scheme, in a note.
_MEANING = {
    "never": "never put",
    "first": "put at a text's beginning",
    "each": "put at the beginning and behind special tokens",
    "always": "always put",
}


def follow_config(vocab: Vocab, tokenizer_config: Fields, config: Fields) -> None:
    """config: of config.json. Throws ConvertError for a space in front of byte-level BPE, which the engine has not."""
    wanted = tokenizer_config.flag("add_prefix_space")
    if wanted is None:
        return
    byte_level = vocab.model == "gpt2"
    follows = _is_built(tokenizer_config, config, byte_level)
    if not byte_level and follows:
        legacy = tokenizer_config.flag("legacy", False)
        scheme = "never" if not wanted else "each" if legacy else "first"
        if scheme != vocab.prepend_scheme:
            vocab.notes.append(
                f"tokenizer_config.json says add_prefix_space {str(wanted).lower()}, which decides as in transformers: "
                f"a space in front is {_MEANING[scheme]}, not {_MEANING[vocab.prepend_scheme]} as in tokenizer.json"
            )
        vocab.prepend_scheme = scheme
        vocab.normalizes_spaces = vocab.splits_at_spaces = False
    elif byte_level and wanted and follows:
        raise ConvertError(
            f"{tokenizer_config.wrong('add_prefix_space', 'false')}: the tokenizer's class puts a space in front of "
            "texts, which is not supported for byte-level BPE"
        )
    elif wanted != (vocab.prepend_scheme not in (None, "never")):
        vocab.notes.append(
            f"tokenizer_config.json says add_prefix_space {str(wanted).lower()}; tokenizer.json puts "
            f"{'none' if wanted else 'one'} in front, and decides"
        )


def _is_built(tokenizer_config: Fields, config: Fields, byte_level: bool) -> bool:
    """Whether transformers builds this tokenizer anew."""
    model_type = config.text("model_type", "llama")
    if model_type in TAKEN_WHOLE:
        return False
    qwen = model_type in ("qwen2", "qwen3")
    name = tokenizer_config.text("tokenizer_class", "Qwen2Tokenizer" if qwen else "")
    return name.removesuffix("Fast") in (BUILT_BYTE_LEVEL if byte_level else BUILT_SPM)
