"""A tiny model with the vocabulary of another GGUF file, to try a tokenizer whose model is large or not supported."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
from hf_vocab import Vocab

N_EMBD = 8


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def tensors(n_vocab: int) -> dict[str, tuple[int, ...]]:
    """Name -> shape, rows first."""
    square = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    shapes: dict[str, tuple[int, ...]] = {f"blk.0.{name}.weight": (N_EMBD, N_EMBD) for name in square}
    shapes |= {f"blk.0.{name}.weight": (N_EMBD,) for name in ("attn_norm", "ffn_norm")}
    return shapes | {"output_norm.weight": (N_EMBD,), "token_embd.weight": (n_vocab, N_EMBD)}


def write(source: gguf.GGUFReader, path: Path) -> Path:
    """A llama of one layer, all weights zero, with every key of `source` that is a tokenizer's."""
    names = [name for name in source.fields if name.startswith("tokenizer.")]
    keys = [b"".join(part.tobytes() for part in source.fields[name].parts) for name in names]
    keys.append(text("general.architecture") + struct.pack("<I", gguf.GGUFValueType.STRING) + text("llama"))
    for name in ("context_length", "embedding_length", "feed_forward_length"):
        keys.append(text(f"llama.{name}") + struct.pack("<II", gguf.GGUFValueType.UINT32, N_EMBD))
    for name in ("block_count", "attention.head_count"):
        keys.append(text(f"llama.{name}") + struct.pack("<II", gguf.GGUFValueType.UINT32, 1))
    epsilon = struct.pack("<If", gguf.GGUFValueType.FLOAT32, 1e-5)
    keys.append(text("llama.attention.layer_norm_rms_epsilon") + epsilon)
    n_vocab = len(source.fields["tokenizer.ggml.tokens"].data)
    shapes = tensors(n_vocab)
    head, at = [b"GGUF", struct.pack("<IQQ", 3, len(shapes), len(keys)), *keys], 0
    for name, shape in shapes.items():
        head.append(
            text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], gguf.GGMLQuantizationType.F32, at)
        )
        at += int(np.prod(shape)) * 4
    whole = b"".join(head)
    path.write_bytes(whole + bytes(-len(whole) % 32) + bytes(at))
    return path


def of_vocab(vocab: Vocab, path: Path) -> Path:
    """The same of a converter's vocabulary, with the keys that are the converter's own."""
    writer = gguf.GGUFWriter(path, "llama", use_temp_file=False)
    writer.add_context_length(N_EMBD)
    writer.add_embedding_length(N_EMBD)
    writer.add_feed_forward_length(N_EMBD)
    writer.add_block_count(1)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    vocab.write(writer)
    for name, shape in tensors(len(vocab.tokens)).items():
        writer.add_tensor(name, np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
