"""Small tokenizers in Hugging Face's files, one of each family; made by hand, so that every id is known."""

from __future__ import annotations

LLAMA3_SPLIT = (
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
    "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace("\\p{N}{1,3}", "\\p{N}")
QWEN35_SPLIT = QWEN2_SPLIT.replace("?\\p{L}+", "?[\\p{L}\\p{M}]+").replace(
    "[^\\s\\p{L}\\p{N}]", "[^\\s\\p{L}\\p{M}\\p{N}]"
)
SEED_SPLIT = QWEN2_SPLIT.replace("\\p{N}| ", "\\p{N}{1}| ").replace(
    "[^\\s\\p{L}\\p{N}]+[\\r\\n]*", "[^\\s\\p{L}\\p{N}\\r\\n]+"
)
CASED_WORD = (
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+",
    "|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*",
)
MARKS_AND_SPACES = "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
TEKKEN_SPLIT = "".join(CASED_WORD) + "|\\p{N}" + MARKS_AND_SPACES
CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
GPT4O_SPLIT = "".join(word + CONTRACTION for word in CASED_WORD) + "|\\p{N}{1,3}" + MARKS_AND_SPACES
DEEPSEEK_CODER_SPLITS = ("[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+")
GPT2_PRE = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
BYTES_ONLY = GPT2_PRE | {"use_regex": False}


def split_at(*expressions: str, then: tuple[dict, ...] = ()) -> dict:
    splits = [{"type": "Split", "pattern": {"Regex": e}, "behavior": "Isolated", "invert": False} for e in expressions]
    return {"type": "Sequence", "pretokenizers": [*splits, *then, BYTES_ONLY]}


LLAMA3_PRE = split_at(LLAMA3_SPLIT)
DIGITS = {"type": "Digits", "individual_digits": True}
SMOLLM_PRE = {"type": "Sequence", "pretokenizers": [DIGITS, GPT2_PRE]}
# tokenizer.ggml.pre -> the pre_tokenizer of tokenizer.json.
PRE_TOKENIZERS = {
    "gpt-2": GPT2_PRE,
    "llama-bpe": LLAMA3_PRE,
    "smollm": SMOLLM_PRE,
    "qwen2": split_at(QWEN2_SPLIT),
    "qwen35": split_at(QWEN35_SPLIT),
    "tekken": split_at(TEKKEN_SPLIT),
    "gpt-4o": split_at(GPT4O_SPLIT),
    "seed-coder": split_at(SEED_SPLIT),
    "deepseek-coder": split_at(*DEEPSEEK_CODER_SPLITS, then=(DIGITS,)),
}

WORDS = ("the", "and", "ing", "that", "her", "was", "on", "is")


def byte_characters() -> list[str]:
    """The character that stands for each byte: itself where printable, else the next one from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


def added(id_: int, content: str, special: bool = True) -> dict:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": id_, "content": content, "special": special, **flags}


def word_merges(words, joiner: str) -> list[list[str]]:
    """Merges that build each word (with `joiner` for its leading space) from the left, without repeats."""
    merges: list[list[str]] = []
    for word in words:
        text = joiner + word
        for end in range(2, len(text) + 1):
            pair = [text[: end - 1], text[end - 1]]
            if pair not in merges:
                merges.append(pair)
    return merges


def bos_template(bos: str, id_: int) -> dict:
    return {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {bos: {"id": bos, "ids": [id_], "tokens": [bos]}},
    }


def byte_level() -> tuple[dict, dict]:
    """(tokenizer.json, tokenizer_config.json): ids 0 to 255 are the bytes, then words, <s>, </s> and a plain <tag>."""
    merges = word_merges(WORDS, "\u0120")
    texts = byte_characters() + [left + right for left, right in merges]
    n = len(texts)
    tokenizer = {
        "version": "1.0",
        "added_tokens": [added(n, "<s>"), added(n + 1, "</s>"), added(n + 2, "<tag>", special=False)],
        "normalizer": None,
        "pre_tokenizer": GPT2_PRE,
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {text: id_ for id_, text in enumerate(texts)},
            "merges": merges,
        },
    }
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    return tokenizer, config


def spm_pieces() -> list[tuple[str, float, int]]:
    """(text, score, type) as SentencePiece keeps them: <unk> <s> </s>, the 256 bytes, then words, then letters."""
    merged = [left + right for left, right in word_merges(WORDS, "\u2581")]
    letters = ["\u2581", *"etaonihsrdlucmwfgypbvk,."]
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    pieces += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    return pieces + [(text, -float(rank), 1) for rank, text in enumerate(merged + letters)]


def spm_json() -> tuple[dict, dict]:
    """The tokenizer.json transformers would make of spm_pieces(), and its tokenizer_config.json."""
    tokenizer = {
        "version": "1.0",
        "added_tokens": [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>")],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "\u2581"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": bos_template("<s>", 1),
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {text: id_ for id_, (text, _, _) in enumerate(spm_pieces())},
            "merges": word_merges(WORDS, "\u2581"),
        },
    }
    # The class that takes tokenizer.json as it stands: LlamaTokenizer would build one anew.
    config = {"tokenizer_class": "TokenizersBackend", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return tokenizer, config
