"""Which class of transformers 5 reads a folder's tokenizer: the choice of its AutoTokenizer."""

from __future__ import annotations

from convert_error import ConvertError
from json_fields import Fields

WHOLE = "TokenizersBackend"  # takes tokenizer.json as it stands

# model_type -> the class registered for it; of a Llama none is.
REGISTERED = {
    "mistral": WHOLE,
    "phi3": WHOLE,
    "qwen2": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "gemma3_text": "GemmaTokenizer",
}
# Those whose folders are known to name a wrong class: the registered one is taken whatever they say.
NOT_BELIEVED = ("phi3", "qwen2")

# Other classes that build a tokenizer of BPE in their own way.
NOT_READ = (
    *("BlenderbotTokenizer", "CLIPTokenizer", "CohereTokenizer", "DebertaTokenizer", "EsmcTokenizer"),
    *("HerbertTokenizer", "LayoutLMv3Tokenizer", "LukeTokenizer", "MarkupLMTokenizer", "NllbTokenizer"),
    *("NougatTokenizer", "OpenAIGPTTokenizer", "ReformerTokenizer", "RobertaTokenizer", "SeamlessM4TTokenizer"),
    *("Siglip2Tokenizer", "Tipsv2Tokenizer", "WhisperTokenizer"),
)


def tokenizer_class(tokenizer_config: Fields, config: Fields, names_byte_level: bool) -> str:
    """The class's name without `Fast`. config: of config.json; names_byte_level: whether tokenizer.json has the word
    "ByteLevel". Throws ConvertError for a class that builds its tokenizer in a way that is not read."""
    name = _chosen(tokenizer_config, config, names_byte_level)
    if name in NOT_READ:
        raise ConvertError(
            f"{tokenizer_config.wrong('tokenizer_class', WHOLE)}: transformers builds a {name} in its own way, which "
            f"is not supported; with {WHOLE} tokenizer.json is read as it stands"
        )
    return name


def _chosen(tokenizer_config: Fields, config: Fields, names_byte_level: bool) -> str:
    model_type = config.text("model_type", "")
    registered = REGISTERED.get(model_type)
    # Of the two files the first that says one; an empty name is none.
    said = (tokenizer_config.text("tokenizer_class") or config.text("tokenizer_class") or "").removesuffix("Fast")
    if said and not _has_own_code(tokenizer_config):
        if said == "LlamaTokenizer" and names_byte_level and model_type not in NOT_BELIEVED:
            return WHOLE  # Llama 3's, which such a class could not read
        if registered is not None and registered != said and (registered == WHOLE or model_type in NOT_BELIEVED):
            return registered
    return said or registered or WHOLE


def _has_own_code(tokenizer_config: Fields) -> bool:
    """Then the class that is named counts, whatever the model; the code is not run."""
    value = tokenizer_config.data.get("auto_map")
    return isinstance(value, list) or (isinstance(value, dict) and value.get("AutoTokenizer") is not None)
