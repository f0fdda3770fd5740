"""Reads llama2.c checkpoints (legacy and version 1, float32) and writes them as GGUF; for tests only.

Their q and k rows are already in the order of ggml's RoPE of type NORM.
"""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np

MAGIC_V1 = 0x616B3432  # "ak42"
HEADER_V1_BYTES = 256

LAYER_NAMES = {
    "attn_norm": "attn_norm",
    "wq": "attn_q",
    "wk": "attn_k",
    "wv": "attn_v",
    "wo": "attn_output",
    "ffn_norm": "ffn_norm",
    "w1": "ffn_gate",
    "w2": "ffn_down",
    "w3": "ffn_up",
}


def read_checkpoint(path: Path) -> tuple[dict[str, int], dict[str, np.ndarray]]:
    """(hparams, tensors); layer tensors are [n_layer, ...], `output` is there only when it is not the embedding."""
    raw = path.read_bytes()
    v1 = struct.unpack_from("<I", raw)[0] == MAGIC_V1
    keys = ("n_embd", "n_ff", "n_layer", "n_head", "n_head_kv", "n_vocab", "n_ctx")
    hparams = dict(zip(keys, struct.unpack_from("<7i", raw, 8 if v1 else 0)))
    shared = bool(raw[36]) if v1 else hparams["n_vocab"] > 0
    hparams["n_vocab"] = abs(hparams["n_vocab"])
    data = np.frombuffer(raw, np.float32, offset=HEADER_V1_BYTES if v1 else 28)

    n_embd, n_ff, n_layer, n_vocab = (hparams[key] for key in ("n_embd", "n_ff", "n_layer", "n_vocab"))
    head_dim = n_embd // hparams["n_head"]
    n_kv = hparams["n_head_kv"] * head_dim
    shapes = {
        "token_embd": (n_vocab, n_embd),
        "attn_norm": (n_layer, n_embd),
        "wq": (n_layer, n_embd, n_embd),
        "wk": (n_layer, n_kv, n_embd),
        "wv": (n_layer, n_kv, n_embd),
        "wo": (n_layer, n_embd, n_embd),
        "ffn_norm": (n_layer, n_embd),
        "w1": (n_layer, n_ff, n_embd),
        "w2": (n_layer, n_embd, n_ff),
        "w3": (n_layer, n_ff, n_embd),
        "output_norm": (n_embd,),
        "rope_table": (2, hparams["n_ctx"], head_dim // 2),
        "output": (n_vocab, n_embd),
    }
    if v1:
        del shapes["rope_table"]
        norms = ("attn_norm", "ffn_norm", "output_norm")
        shapes = {name: shapes[name] for name in norms} | {k: v for k, v in shapes.items() if k not in norms}
    if shared:
        del shapes["output"]
    tensors, at = {}, 0
    for name, shape in shapes.items():
        count = int(np.prod(shape))
        tensors[name] = data[at : at + count].reshape(shape)
        at += count
    assert at == data.size, f"{path}: {data.size - at} values left over"
    tensors.pop("rope_table", None)
    return hparams, tensors


def read_tokenizer(path: Path, n_vocab: int) -> list[tuple[str, float]]:
    """(text, score) of each token; llama2.c writes spaces where SentencePiece has U+2581."""
    raw, at, tokens = path.read_bytes(), 4, []
    for _ in range(n_vocab):
        score, n_bytes = struct.unpack_from("<fi", raw, at)
        text = raw[at + 8 : at + 8 + n_bytes].decode("utf-8")
        tokens.append((text.replace(" ", "\u2581"), score))
        at += 8 + n_bytes
    assert at == len(raw)
    return tokens


def write_gguf(checkpoint: Path, tokenizer: Path, out: Path) -> None:
    hparams, tensors = read_checkpoint(checkpoint)
    tokens = read_tokenizer(tokenizer, hparams["n_vocab"])
    head_dim = hparams["n_embd"] // hparams["n_head"]
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_name(checkpoint.stem)
    writer.add_context_length(hparams["n_ctx"])
    writer.add_embedding_length(hparams["n_embd"])
    writer.add_block_count(hparams["n_layer"])
    writer.add_feed_forward_length(hparams["n_ff"])
    writer.add_head_count(hparams["n_head"])
    writer.add_head_count_kv(hparams["n_head_kv"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(head_dim)
    writer.add_vocab_size(hparams["n_vocab"])
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(["<unk>", "<s>", "</s>"] + [text for text, _ in tokens[3:]])
    writer.add_token_scores([score for _, score in tokens])
    types = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    types += [gguf.TokenType.BYTE] * 256 + [gguf.TokenType.NORMAL] * (len(tokens) - 259)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    for name in ("token_embd", "output_norm", "output"):
        if name in tensors:
            writer.add_tensor(f"{name}.weight", tensors[name])
    for il in range(hparams["n_layer"]):
        for name, gguf_name in LAYER_NAMES.items():
            writer.add_tensor(f"blk.{il}.{gguf_name}.weight", np.ascontiguousarray(tensors[name][il]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
