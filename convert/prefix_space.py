"""Says what decides over a space in front of a text where tokenizer.json and tokenizer_config.json differ."""

from __future__ import annotations

from convert_error import ConvertError
from hf_vocab import Vocab
from json_fields import Fields
from tokenizer_spm import set_space_rules

# Of a prepend_scheme, in a note.
_MEANING = {
    "never": "never put",
    "first": "put at a text's beginning",
    "each": "put at the beginning and behind special tokens",
    "always": "always put",
}


def note_spaces(vocab: Vocab, tokenizer: Fields, tokenizer_config: Fields, is_built: bool) -> None:
    """is_built: whether the tokenizer's class takes no such rule from tokenizer.json."""
    wanted = tokenizer_config.flag("add_prefix_space")
    if wanted is None or not tokenizer.data:
        return
    if not is_built:
        if wanted != (vocab.prepend_scheme not in (None, "never")):
            vocab.notes.append(
                f"tokenizer_config.json says add_prefix_space {str(wanted).lower()}; tokenizer.json puts "
                f"{'none' if wanted else 'one'} in front, and decides"
            )
    elif vocab.model == "llama":
        stated = _stated_scheme(tokenizer)
        if stated is not None and stated != vocab.prepend_scheme:
            vocab.notes.append(
                f"tokenizer_config.json says add_prefix_space {str(wanted).lower()}, which decides as in transformers: "
                f"a space in front is {_MEANING[vocab.prepend_scheme]}, not {_MEANING[stated]} as in tokenizer.json"
            )


def _stated_scheme(tokenizer: Fields) -> str | None:
    vocab = Vocab("llama", "default", 0)
    try:
        set_space_rules(vocab, tokenizer)
    except ConvertError:
        return None  # nothing that such a vocabulary would be read with
    return vocab.prepend_scheme
