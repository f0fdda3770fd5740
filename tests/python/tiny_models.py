"""Hugging Face folders of tiny random models, each a function of its shape and seed; torch is not needed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors.numpy import save, save_file

import tiny_tokenizers
from families import FAMILIES

N_VOCAB = 320


@dataclass(frozen=True)
class Shape:
    name: str
    architecture: str = "LlamaForCausalLM"
    n_embd: int = 128
    n_head: int = 4
    n_head_kv: int = 2
    head_dim: int = 64
    n_layer: int = 2
    n_ff: int = 192
    n_vocab: int = N_VOCAB
    tied: bool = False
    biases: bool = False  # of all linear layers, or of q, k and v where the architecture has no others
    rope: dict = field(default_factory=dict)  # config.json's rope_scaling
    rope_theta: float = 10000.0
    window: int = 0  # of layers that see no more; 0: all see all
    pattern: int = 0  # each pattern-th layer sees all
    branch_gain: float = 1.0  # of what attention and feed-forward add to the residual stream
    tokenizer: str = "bytelevel"
    seed: int = 1


def longrope(n_ctx_orig: int, n: int) -> dict:
    """config.json's rope_scaling for n pairs of channels."""
    return {
        "rope_type": "longrope",
        "short_factor": [1.0 + 0.05 * i for i in range(n)],
        "long_factor": [1.0 + 0.5 * i for i in range(n)],
        "original_max_position_embeddings": n_ctx_orig,
    }


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("mha_hd64", n_head=2, n_head_kv=2),
        Shape("gqa_hd64"),
        Shape("gqa_hd128", n_head=2, n_head_kv=1, head_dim=128),
        Shape("tied", n_head=2, n_head_kv=1, n_layer=1, tied=True, branch_gain=1.8, tokenizer="spm"),
        Shape(
            "llama3_rope",
            rope={
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        ),
        Shape("linear_rope", rope={"rope_type": "linear", "factor": 4.0}),
        Shape("hd8", n_embd=64, n_head=8, n_head_kv=4, head_dim=8, rope_theta=500.0, tokenizer="spm"),
        Shape("hd40", n_embd=80, n_head=2, n_head_kv=1, head_dim=40, n_ff=104),
        Shape("biased", biases=True),
        Shape("qwen2", "Qwen2ForCausalLM", biases=True, rope_theta=1e6),
        Shape("qwen3", "Qwen3ForCausalLM", head_dim=40, rope_theta=1e6),
        Shape("qwen3_tied", "Qwen3ForCausalLM", 96, 3, 1, 128, 1, tied=True, branch_gain=1.8),
        Shape("yarn", rope={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}),
        Shape(
            "qwen2_yarn",
            "Qwen2ForCausalLM",
            biases=True,
            rope={
                "rope_type": "yarn",
                "factor": 8.0,
                "original_max_position_embeddings": 16,
                "attention_factor": 0.9,
                "beta_fast": 4.0,
                "beta_slow": 0.5,
            },
        ),
        # The prompt has 40 tokens and the continuation 64: a window that is shorter, and one that is longer.
        Shape(
            "gemma3",
            "Gemma3ForCausalLM",
            head_dim=256,
            n_head=2,
            n_head_kv=1,
            n_layer=2,
            window=24,
            pattern=2,
            rope_theta=1e5,
            tied=True,
            branch_gain=3.0,
            tokenizer="spm",
        ),
        Shape(
            "gemma3_long",
            "Gemma3ForCausalLM",
            head_dim=32,
            n_layer=2,
            window=256,
            pattern=2,
            rope_theta=1e5,
            rope={"rope_type": "linear", "factor": 8.0},
            tied=True,
            branch_gain=3.0,
        ),
        Shape("qwen2_tied", "Qwen2ForCausalLM", 96, 3, 1, 32, 1, tied=True, biases=True, branch_gain=1.8),
    )
}


def weights(shape: Shape) -> dict[str, np.ndarray]:
    """float32 tensors by Hugging Face name.

    Scaled so that attention is neither flat nor one-hot and every layer changes the prediction, but none drowns what
    came before: a test of logits sees an error in any part, and rounding does not grow from layer to layer.
    """
    rng = np.random.default_rng(shape.seed)

    def matrix(n_rows: int, n_cols: int, gain: float = 1.0) -> np.ndarray:
        return rng.standard_normal((n_rows, n_cols), dtype=np.float32) * np.float32(gain / np.sqrt(n_cols))

    def bias(n: int, scale: float) -> np.ndarray:
        return rng.standard_normal(n, dtype=np.float32) * np.float32(scale)

    def norm(n: int = shape.n_embd, gain: float = 1.0) -> np.ndarray:
        return (rng.uniform(0.7, 1.3, n) * gain).astype(np.float32)

    branch = shape.branch_gain
    # Scores of the size that other models' products have; less where deep windows let rounding grow.
    head_gain = 1.0 if shape.window else 1.5
    # Unit values; less where they are the output matrix too, lest every token predicts itself.
    embedding_gain = 3.0 if shape.tied else float(np.sqrt(shape.n_embd))
    if shape.architecture == "Gemma3ForCausalLM":  # which multiplies with sqrt(n_embd) itself
        embedding_gain = 0.5
    n_q, n_kv = shape.n_head * shape.head_dim, shape.n_head_kv * shape.head_dim
    tensors = {"model.embed_tokens.weight": matrix(shape.n_vocab, shape.n_embd, embedding_gain)}
    for il in range(shape.n_layer):
        layer = f"model.layers.{il}."
        tensors |= {
            layer + "input_layernorm.weight": norm(),
            layer + "self_attn.q_proj.weight": matrix(n_q, shape.n_embd, 1.5),
            layer + "self_attn.k_proj.weight": matrix(n_kv, shape.n_embd, 1.5),
            layer + "self_attn.v_proj.weight": matrix(n_kv, shape.n_embd, 1.2 * branch),
            layer + "self_attn.o_proj.weight": matrix(shape.n_embd, n_q, 1.2 * branch),
            layer + "post_attention_layernorm.weight": norm(),
            layer + "mlp.gate_proj.weight": matrix(shape.n_ff, shape.n_embd, branch),
            layer + "mlp.up_proj.weight": matrix(shape.n_ff, shape.n_embd, branch),
            layer + "mlp.down_proj.weight": matrix(shape.n_embd, shape.n_ff, branch),
        }
        if FAMILIES[shape.architecture].post_norms:
            tensors |= {
                layer + "pre_feedforward_layernorm.weight": norm(),
                layer + "post_feedforward_layernorm.weight": norm(shape.n_embd, branch),
            }
        if FAMILIES[shape.architecture].head_norms:
            tensors |= {
                layer + "self_attn.q_norm.weight": norm(shape.head_dim, head_gain),
                layer + "self_attn.k_norm.weight": norm(shape.head_dim, head_gain),
            }
        if shape.biases:
            tensors |= {
                layer + "self_attn.q_proj.bias": bias(n_q, 0.5),
                layer + "self_attn.k_proj.bias": bias(n_kv, 0.5),
                layer + "self_attn.v_proj.bias": bias(n_kv, 0.5),
            }
        if shape.biases and shape.architecture == "LlamaForCausalLM":
            tensors |= {
                layer + "self_attn.o_proj.bias": bias(shape.n_embd, 0.3),
                layer + "mlp.gate_proj.bias": bias(shape.n_ff, 0.5),
                layer + "mlp.up_proj.bias": bias(shape.n_ff, 0.5),
                layer + "mlp.down_proj.bias": bias(shape.n_embd, 0.3),
            }
        if FAMILIES[shape.architecture].fused:
            parts = [tensors.pop(f"{layer}self_attn.{name}_proj.weight") for name in "qkv"]
            tensors[layer + "self_attn.qkv_proj.weight"] = np.concatenate(parts)
            parts = [tensors.pop(f"{layer}mlp.{name}_proj.weight") for name in ("gate", "up")]
            tensors[layer + "mlp.gate_up_proj.weight"] = np.concatenate(parts)
    tensors["model.norm.weight"] = norm()
    if FAMILIES[shape.architecture].norm_from_one:
        tensors |= {name: tensor - 1 for name, tensor in tensors.items() if name.endswith("norm.weight")}
    if not shape.tied:
        tensors["lm_head.weight"] = matrix(shape.n_vocab, shape.n_embd, 3.0)
    return tensors


def digest(tensors: dict[str, np.ndarray]) -> str:
    """Tells whether recorded logits belong to these weights."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(name.encode() + tensor.tobytes())
    return total.hexdigest()


def config(shape: Shape) -> dict:
    own = {}
    if shape.architecture == "LlamaForCausalLM":
        own = {"attention_bias": shape.biases, "mlp_bias": shape.biases}
    if "original_max_position_embeddings" in shape.rope and shape.rope["rope_type"] == "longrope":
        own["original_max_position_embeddings"] = shape.rope["original_max_position_embeddings"]
    if shape.window:
        own["sliding_window"] = shape.window
    if shape.pattern:
        own |= {
            "sliding_window_pattern": shape.pattern,
            "query_pre_attn_scalar": shape.head_dim,
            "rope_local_base_freq": 300.0,
        }
    act = FAMILIES[shape.architecture]
    return own | {
        act.act_key: act.act[0],
        "architectures": [shape.architecture],
        "model_type": FAMILIES[shape.architecture].model_type,
        "hidden_size": shape.n_embd,
        "intermediate_size": shape.n_ff,
        "num_hidden_layers": shape.n_layer,
        "num_attention_heads": shape.n_head,
        "num_key_value_heads": shape.n_head_kv,
        "head_dim": shape.head_dim,
        "vocab_size": shape.n_vocab,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": shape.rope_theta,
        "rope_scaling": shape.rope or None,
        "tie_word_embeddings": shape.tied,
        "torch_dtype": "float32",
        "pad_token_id": None,
    }


def to_bf16_bits(tensor: np.ndarray) -> np.ndarray:
    """The upper halves of float32 values, cut off: the tests need values that bfloat16 can hold, not rounding."""
    return (np.ascontiguousarray(tensor).view(np.uint32) >> 16).astype(np.uint16)


def save_safetensors(path: Path, tensors: dict[str, np.ndarray], dtype: str = "float32") -> None:
    if dtype != "bfloat16":
        save_file({name: tensor.astype(dtype) for name, tensor in tensors.items()}, path)
        return
    # numpy has no bfloat16: written as 16-bit integers, then renamed in the header.
    raw = save({name: to_bf16_bits(tensor) for name, tensor in tensors.items()})
    header_end = 8 + int.from_bytes(raw[:8], "little")
    header = raw[8:header_end].replace(b'"U16"', b'"BF16"')
    path.write_bytes(len(header).to_bytes(8, "little") + header + raw[header_end:])


def save_shards(folder: Path, tensors: dict[str, np.ndarray], n_shards: int) -> None:
    names = list(tensors)
    weight_map = {}
    for i in range(n_shards):
        file_name = f"model-{i + 1:05}-of-{n_shards:05}.safetensors"
        part = {name: tensors[name] for name in names[i::n_shards]}
        save_safetensors(folder / file_name, part)
        weight_map |= dict.fromkeys(part, file_name)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")


def make(folder: Path, shape: Shape, tensors: dict[str, np.ndarray] | None = None, dtype: str = "float32") -> Path:
    """Writes the whole folder; `tensors` empty leaves the weights to the caller."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config(shape))
    build = tiny_tokenizers.spm_json if shape.tokenizer == "spm" else tiny_tokenizers.byte_level
    tokenizer, tokenizer_config = build()
    write_json(folder / "tokenizer.json", tokenizer)
    write_json(folder / "tokenizer_config.json", tokenizer_config)
    tensors = weights(shape) if tensors is None else tensors
    if tensors:
        save_safetensors(folder / "model.safetensors", tensors, dtype)
    return folder
