"""The models that are converted: what their transformers classes do that config.json does not say."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    model_type: str
    gguf: str  # general.architecture of the file
    kv_heads: int | None = None  # where num_key_value_heads is absent; None: as many as heads
    head_dim: int | None = None  # where it is absent; None: hidden_size over heads
    rms_eps: float = 1e-6  # where rms_norm_eps is absent
    tied: bool = False  # where tie_word_embeddings is absent
    rope_neighbours: bool = False  # the engine turns neighbouring channels: rows of q and k are reordered
    qkv_bias: bool | None = None  # of q, k and v alone, whatever attention_bias says; None: that says it, for all four
    head_norms: bool = False  # of each head's queries and keys
    post_norms: bool = False  # after attention and feed-forward too
    norm_from_one: bool = False  # a norm multiplies with 1 + its weight
    act: tuple[str, ...] = ("silu", "swish")  # names of the activation the engine computes
    act_key: str = "hidden_act"
    pattern: int = 0  # each pattern-th layer sees all, the others a window, where layer_types is absent; 0: all see all
    reads: frozenset[str] = frozenset()  # keys of config.json that others refuse or ignore
    fused: bool = False  # q, k and v are one matrix, gate and up another
    partial_rope: bool = False  # partial_rotary_factor may leave channels as they are
    only_longrope: bool = False  # positions are scaled by longrope or not at all
    n_ctx_orig: int | None = None  # where original_max_position_embeddings is absent at the top; None: as elsewhere
    all_see_window: bool = False  # where there is one
    mlp_bias: bool = False  # mlp_bias may ask for biases
    window: int | None = None  # where sliding_window is absent
    uses_window: bool | None = True  # where use_sliding_window is absent; None: the class reads no sliding_window


# By the class that `architectures` names.
FAMILIES = {
    "LlamaForCausalLM": Family("llama", "llama", rope_neighbours=True, mlp_bias=True, uses_window=None),
    "MistralForCausalLM": Family("mistral", "llama", kv_heads=8, rope_neighbours=True, qkv_bias=False, window=4096),
    "Qwen3ForCausalLM": Family(
        "qwen3", "qwen3", kv_heads=32, head_dim=128, window=4096, uses_window=False, head_norms=True
    ),
    "Gemma3ForCausalLM": Family(
        "gemma3_text",
        "gemma3",
        kv_heads=4,
        head_dim=256,
        tied=True,
        head_norms=True,
        post_norms=True,
        norm_from_one=True,
        act=("gelu_pytorch_tanh",),
        act_key="hidden_activation",
        window=4096,
        pattern=6,
        reads=frozenset(
            ("hidden_activation", "query_pre_attn_scalar", "sliding_window_pattern", "_sliding_window_pattern")
            + ("rope_local_base_freq",)
        ),
    ),
    "Phi3ForCausalLM": Family(
        "phi3",
        "phi3",
        rms_eps=1e-5,
        qkv_bias=False,
        fused=True,
        partial_rope=True,
        only_longrope=True,
        n_ctx_orig=4096,
        all_see_window=True,
    ),
    "Qwen2ForCausalLM": Family("qwen2", "qwen2", kv_heads=32, qkv_bias=True, window=4096, uses_window=False),
}
