"""config.json -> the numbers a GGUF of architecture `llama` carries. What the engine cannot compute is refused here."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from config_keys import refuse_unread
from convert_error import ConvertError
from json_fields import Fields

# Each with its model_type.
ARCHITECTURES = {"LlamaForCausalLM": "llama", "MistralForCausalLM": "mistral"}

# The engine's own limits (engine/model/hparams.cpp and arch/common_shape.cpp); a file beyond them would not load.
MAX_LAYERS = 1024
MAX_WIDTH = 1 << 20
MAX_VOCAB = 1 << 24
MAX_HEAD_DIM = 4096
MAX_CONTEXT = (1 << 32) - 1
HEAD_DIM_UNIT = 8
MAX_EPS = 1 - 1e-7  # rounds to a float32 below 1

# Keys of RoPE scaling that transformers reads for other kinds of it only.
ROPE_HARMLESS = (
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "attention_factor",
    "extrapolation_factor",
    "truncate",
    "finetuned",
)
ROPE_USED = (
    "rope_type",
    "type",
    "rope_theta",
    "partial_rotary_factor",
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
)


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
    attention_bias: bool = False  # of q, k, v and the output
    mlp_bias: bool = False  # of gate, up and down
    rope_linear_factor: float | None = None
    rope_freqs: np.ndarray | None = None  # float32 [head_dim / 2], divisors of the rotation frequencies
    notes: list[str] = field(default_factory=list)


def read_hparams(config: dict) -> Hparams:
    """Throws ConvertError for anything that is not a plain Llama or Mistral decoder."""
    fields = Fields(config, "config.json")
    architecture = _architecture(fields)
    architecture_type = ARCHITECTURES[architecture]
    mistral = architecture_type == "mistral"
    if mistral and (fields.flag("attention_bias") or fields.flag("mlp_bias")):
        raise ConvertError("config.json asks for biases, which MistralForCausalLM has none of")
    if fields.data.get("quantization_config"):
        raise ConvertError("the checkpoint is quantized already (quantization_config); convert the original one")
    if fields.text("hidden_act", "silu") not in ("silu", "swish"):
        raise ConvertError(f"hidden_act '{fields.text('hidden_act')}' is not supported (silu is)")

    n_embd = _count(fields, "hidden_size", MAX_WIDTH)
    n_head = _count(fields, "num_attention_heads", MAX_WIDTH)
    # The classes' own defaults: MistralConfig has 8 where the key is absent, and as many as heads where it is null.
    n_head_kv = 8 if mistral and "num_key_value_heads" not in config else n_head
    rope = _rope_fields(fields)
    hparams = Hparams(
        n_embd=n_embd,
        n_layer=_count(fields, "num_hidden_layers", MAX_LAYERS),
        n_head=n_head,
        n_head_kv=_count(fields, "num_key_value_heads", MAX_WIDTH, n_head_kv),
        head_dim=_count(fields, "head_dim", MAX_HEAD_DIM, n_embd // n_head),
        n_ff=_count(fields, "intermediate_size", MAX_WIDTH),
        n_vocab=_count(fields, "vocab_size", MAX_VOCAB),
        n_ctx=_count(fields, "max_position_embeddings", MAX_CONTEXT),
        rms_eps=fields.number("rms_norm_eps", 1e-6),
        rope_theta=_positive(rope if "rope_theta" in rope else fields, "rope_theta", 10000.0),
        tied=fields.flag("tie_word_embeddings", False),
        attention_bias=fields.flag("attention_bias", False),
        mlp_bias=fields.flag("mlp_bias", False),
    )
    if hparams.n_head % hparams.n_head_kv:
        raise ConvertError(f"{hparams.n_head} heads cannot share {hparams.n_head_kv} key/value heads evenly")
    if "head_dim" not in fields and n_embd % n_head:
        raise ConvertError(f"hidden_size {n_embd} is not a multiple of {n_head} heads, and there is no head_dim")
    if hparams.head_dim % HEAD_DIM_UNIT:
        raise ConvertError(f"head_dim {hparams.head_dim} is no multiple of {HEAD_DIM_UNIT}, which the engine asks for")
    if not 0 <= hparams.rms_eps < MAX_EPS:
        raise fields.wrong("rms_norm_eps", "a number from 0 to 1")
    if (rope if "partial_rotary_factor" in rope else fields).number("partial_rotary_factor", 1.0) != 1.0:
        raise ConvertError("partial_rotary_factor is not supported")
    _set_rope_scaling(hparams, rope)
    _cut_to_window(hparams, fields, mistral)
    unknown = refuse_unread(fields, hparams.head_dim, n_embd, hparams.n_layer)
    if unknown:
        hparams.notes.append(f"config.json has keys that are not known and not read: {', '.join(unknown)}")
    if fields.text("model_type", architecture_type) != architecture_type:
        hparams.notes.append(
            f"taken for the architecture {architecture}, though model_type is {fields.text('model_type')}"
        )
    if "rope_scaling" in fields and "rope_parameters" in fields and rope.path == "rope_scaling":
        hparams.notes.append("rope_scaling hides rope_parameters, as in transformers")
    return hparams


def _architecture(fields: Fields) -> str:
    names = fields.list("architectures") or []
    if len(names) != 1 or names[0] not in list(ARCHITECTURES):
        found, known = ", ".join(map(str, names)) or "none", ", ".join(ARCHITECTURES)
        raise ConvertError(f"architecture {found} is not supported ({known} are)")
    if fields.text("model_type", "llama") not in ARCHITECTURES.values():
        raise fields.wrong("model_type", "one that the architecture has: " + ARCHITECTURES[names[0]])
    return names[0]


def _count(fields: Fields, key: str, most: int, default: int | None = None) -> int:
    value = fields.integer(key, default)
    if value is None:
        raise ConvertError(f"config.json lacks {key}")
    if not 1 <= value <= most:
        raise fields.wrong(key, f"1 to {most}")
    return value


def _positive(fields: Fields, key: str, default: float | None = None) -> float:
    """A number whose float32, which is what the file holds, is finite and so far above 0 that its inverse is too."""
    value = fields.number(key, default)
    if value is None:
        raise ConvertError(f"RoPE scaling lacks {key}")
    with np.errstate(over="ignore"):
        stored = np.float32(value)
    if not (stored >= np.finfo(np.float32).tiny and np.isfinite(stored)):
        raise fields.wrong(key, "a positive number")
    return value


def _rope_fields(fields: Fields) -> Fields:
    """transformers takes rope_scaling, and rope_parameters where that is absent or empty."""
    for key in ("rope_scaling", "rope_parameters"):
        rope = fields.object(key)
        if rope is not None and rope.data:
            for name, value in rope.data.items():
                if value is not None and name not in ROPE_USED and name not in ROPE_HARMLESS:
                    raise rope.wrong(name, "none: it is not known, and may change the predictions")
            return rope
    return Fields({}, fields.file)


def _cut_to_window(hparams: Hparams, fields: Fields, mistral: bool) -> None:
    if mistral:  # MistralConfig's default, for configurations that leave it out; newer models say null
        window = fields.integer("sliding_window") if "sliding_window" in fields.data else 4096
    else:
        window = fields.integer("sliding_window") if fields.flag("use_sliding_window", True) else None
    known = ("full_attention", "sliding_attention") if window else ("full_attention",)
    if any(kind not in known for kind in fields.list("layer_types") or []):
        raise fields.wrong("layer_types", "full_attention in every layer")
    if window is None:
        return
    if window < 1:
        raise fields.wrong("sliding_window", "null or at least 1")
    if window < hparams.n_ctx:
        hparams.notes.append(
            f"context length {hparams.n_ctx} cut to the sliding window of {window}: within it, attention is full"
        )
        hparams.n_ctx = window


def _set_rope_scaling(hparams: Hparams, rope: Fields) -> None:
    kind = rope.text("rope_type", rope.text("type", "default"))
    if kind == "default":
        return
    if kind == "linear":
        hparams.rope_linear_factor = _positive(rope, "factor")
    elif kind == "llama3":
        hparams.rope_freqs = llama3_rope_freqs(
            hparams.head_dim,
            hparams.rope_theta,
            _positive(rope, "factor"),
            _positive(rope, "low_freq_factor"),
            _positive(rope, "high_freq_factor"),
            _positive(rope, "original_max_position_embeddings", hparams.n_ctx),
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
    if not low_freq_factor < high_freq_factor:
        raise ConvertError(
            f"RoPE scaling: low_freq_factor {low_freq_factor} is not below high_freq_factor {high_freq_factor}"
        )
    wavelength = 2 * math.pi * theta ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    blend = (n_ctx_orig / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor)
    blend = np.clip(blend, 0.0, 1.0)  # 0: stretched, 1: kept
    return (1.0 / ((1.0 - blend) / factor + blend)).astype(np.float32)
