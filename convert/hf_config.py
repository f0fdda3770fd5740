"""config.json -> the numbers a GGUF of architecture `llama` carries. What the engine cannot compute is refused here."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from convert_error import ConvertError

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM")


@dataclass
class Hparams:
    n_embd: int
    n_layer: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_ff: int
    n_vocab: int
    n_ctx: int
    rms_eps: float
    rope_theta: float
    tied: bool
    rope_linear_factor: float | None = None
    rope_freqs: np.ndarray | None = None  # float32 [head_dim / 2], divisors of the rotation frequencies
    notes: list[str] = field(default_factory=list)


def read_hparams(config: dict) -> Hparams:
    """Throws ConvertError for anything that is not a plain Llama or Mistral decoder."""
    names = config.get("architectures") or []
    if len(names) != 1 or names[0] not in ARCHITECTURES:
        found, known = ", ".join(names) or "none", ", ".join(ARCHITECTURES)
        raise ConvertError(f"architecture {found} is not supported ({known} are)")
    mistral = names[0] == "MistralForCausalLM"
    for key in ("attention_bias", "mlp_bias"):
        if config.get(key):
            raise ConvertError(f"{key} is on: models with bias tensors are not supported")
    if config.get("quantization_config"):
        raise ConvertError("the checkpoint is quantized already (quantization_config); convert the original one")
    if config.get("hidden_act", "silu") != "silu":
        raise ConvertError(f"hidden_act '{config['hidden_act']}' is not supported (silu is)")

    n_embd, n_head = _count(config, "hidden_size"), _count(config, "num_attention_heads")
    rope = config.get("rope_parameters") or {}
    hparams = Hparams(
        n_embd=n_embd,
        n_layer=_count(config, "num_hidden_layers"),
        n_head=n_head,
        # The classes' own defaults, for configurations that leave them out.
        n_head_kv=_count(config, "num_key_value_heads", 8 if mistral else n_head),
        head_dim=_count(config, "head_dim", n_embd // n_head),
        n_ff=_count(config, "intermediate_size"),
        n_vocab=_count(config, "vocab_size"),
        n_ctx=_count(config, "max_position_embeddings"),
        rms_eps=_number(config, "rms_norm_eps", 1e-6),
        rope_theta=_number(rope if "rope_theta" in rope else config, "rope_theta", 10000.0),
        tied=bool(config.get("tie_word_embeddings", False)),
    )
    if hparams.n_head % hparams.n_head_kv:
        raise ConvertError(f"{hparams.n_head} heads cannot share {hparams.n_head_kv} key/value heads evenly")
    if "head_dim" not in config and n_embd % n_head:
        raise ConvertError(f"hidden_size {n_embd} is not a multiple of {n_head} heads, and there is no head_dim")
    if hparams.head_dim % 2:
        raise ConvertError(f"head_dim {hparams.head_dim} is odd: rotary embedding turns pairs")
    if float(rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))) != 1.0:
        raise ConvertError("partial_rotary_factor is not supported")
    _set_rope_scaling(hparams, rope or config.get("rope_scaling") or {})
    # MistralConfig's default, for configurations that leave it out; newer Mistral models say null.
    window = config.get("sliding_window", 4096) if mistral else None
    if window is not None and window < hparams.n_ctx:
        hparams.notes.append(
            f"context length {hparams.n_ctx} cut to the sliding window of {window}: within it, attention is full"
        )
        hparams.n_ctx = int(window)
    return hparams


def _count(config: dict, key: str, default: int | None = None) -> int:
    value = config.get(key)
    value = default if value is None else value
    if value is None:
        raise ConvertError(f"config.json lacks {key}")
    if not isinstance(value, int) or value < 1:
        raise ConvertError(f"config.json: {key} is {value!r}, not a positive whole number")
    return value


def _number(config: dict, key: str, default: float | None = None) -> float:
    value = config.get(key)
    value = default if value is None else value
    if value is None:
        raise ConvertError(f"RoPE scaling lacks {key}")
    if not isinstance(value, (int, float)) or not value > 0:
        raise ConvertError(f"config.json: {key} is {value!r}, not a positive number")
    return float(value)


def _set_rope_scaling(hparams: Hparams, scaling: dict) -> None:
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return
    if kind == "linear":
        hparams.rope_linear_factor = _number(scaling, "factor")
    elif kind == "llama3":
        hparams.rope_freqs = llama3_rope_freqs(
            hparams.head_dim,
            hparams.rope_theta,
            _number(scaling, "factor"),
            _number(scaling, "low_freq_factor"),
            _number(scaling, "high_freq_factor"),
            _number(scaling, "original_max_position_embeddings"),
        )
    else:
        raise ConvertError(f"RoPE scaling '{kind}' is not supported (linear and llama3 are)")


def llama3_rope_freqs(
    head_dim: int, theta: float, factor: float, low_freq_factor: float, high_freq_factor: float, n_ctx_orig: float
) -> np.ndarray:
    """Divisors of the rotation frequencies, float32 [head_dim / 2], as published with Llama 3.1.

    Waves longer than the original context over low_freq_factor are stretched by `factor`, waves shorter than it over
    high_freq_factor are kept, and those between are blended by how many times they fit into the original context.
    """
    wavelength = 2 * math.pi * theta ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    blend = (n_ctx_orig / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor)
    blend = np.clip(blend, 0.0, 1.0)  # 0: stretched, 1: kept
    return (1.0 / ((1.0 - blend) / factor + blend)).astype(np.float32)
