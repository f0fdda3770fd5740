"""The reference model's tokenizer, and its training text as one token stream."""

from __future__ import annotations

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

BOS, EOS, EOT = "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"
SPECIAL_TOKENS = [BOS, EOS, "<|start_header_id|>", "<|end_header_id|>", EOT]

# Llama 3's conversation format, as tokenizer_config.json and GGUF carry it.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


def special_id(tokenizer: Tokenizer, name: str) -> int:
    """The id of one of SPECIAL_TOKENS; ValueError where the tokenizer has no such token."""
    found = tokenizer.token_to_id(name)
    if found is None:
        raise ValueError(f"the tokenizer has no token {name}")
    return found


def chat_head(role: str) -> str:
    """What a turn of the conversation begins with."""
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n"


# How Llama 3 cuts text before BPE; GGUF calls this pre-tokenizer `llama-bpe`.
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(texts: list[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE with Llama 3's split; every byte string has an encoding, so there is no unknown token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((p for text in texts for p in text.split("\n\n")), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, special_id(tokenizer, BOS))]
    )
    return tokenizer


def token_stream(tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    """All texts as one uint16 stream, `<|end_of_text|>` after each."""
    eos = special_id(tokenizer, EOS)
    parts: list[int] = []
    for text in texts:
        parts += tokenizer.encode(text, add_special_tokens=False).ids
        parts.append(eos)
    return np.asarray(parts, dtype=np.uint16)
