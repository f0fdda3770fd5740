"""The keys of config.json: used by hf_config.py or hf_tokenizer.py, harmless, or refused unless they change nothing."""

from __future__ import annotations

import math
from collections.abc import Callable

from convert_error import ConvertError
from families import Family
from json_fields import Fields


def _keys(text: str) -> frozenset[str]:
    return frozenset(text.split())


USED = _keys("""
    architectures model_type hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads
    head_dim vocab_size max_position_embeddings original_max_position_embeddings rms_norm_eps rope_theta rope_scaling
    rope_parameters partial_rotary_factor tie_word_embeddings attention_bias mlp_bias hidden_act sliding_window
    use_sliding_window layer_types quantization_config bos_token_id eos_token_id unk_token_id pad_token_id
""")

# What says nothing about the predictions of a plain decoder.
HARMLESS = _keys("""
    _name_or_path name_or_path transformers_version dtype torch_dtype use_bfloat16 torchscript tokenizer_class prefix
    sep_token_id cls_token_id mask_token_id decoder_start_token_id
    initializer_range initializer_cutoff_factor attention_dropout hidden_dropout embd_pdrop resid_pdrop attn_pdrop
    classifier_dropout gradient_checkpointing use_cache return_dict output_attentions output_hidden_states
    output_router_logits router_aux_loss_coef num_experts_per_tok max_window_layers layer_norm_eps pretraining_tp
    is_decoder tie_encoder_decoder cross_attention_hidden_size pruned_heads
    chunk_size_feed_forward finetuning_task id2label label2id num_labels problem_type task_specific_params
    attn_implementation _attn_implementation _attn_implementation_autoset _flash_attn_2_enabled tf_legacy_loss
    num_logits_to_keep unsloth_fixed unsloth_version cache_implementation
    max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p
    typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids
    num_return_sequences output_scores return_dict_in_generate forced_bos_token_id forced_eos_token_id
    remove_invalid_values exponential_decay_length_penalty suppress_tokens begin_suppress_tokens
""")

# Parts of other decoders: 0, false or null is "without".
OFF = _keys("""
    add_cross_attention is_encoder_decoder alibi parallel_attn use_parallel_residual parallel_residual
    qk_norm use_qk_norm qk_layernorm use_bias qkv_bias lm_head_bias clip_qkv attn_logit_softcapping
    final_logit_softcapping logits_soft_cap num_experts num_local_experts n_routed_experts n_shared_experts
    moe_num_experts num_nextn_predict_layers num_kv_shared_layers q_lora_rank kv_lora_rank
    rope_interleave rope_interleaved rotary_emb_interleaved use_mup use_bidirectional_attention
""")

# What transformers takes with any class: layers that differ, whose cache they use, and other files than the usual.
EMPTY = _keys("per_layer_config kv_sharing_modes transformers_weights fusion_config")

# Factors: 1 is "without".
ONE = _keys("""
    logits_scaling logit_scale embedding_multiplier embedding_scale scale_emb residual_multiplier residual_scale
    lm_head_multiplier output_multiplier attention_in_multiplier attention_out_multiplier key_multiplier
    rope_ratio rotary_pct
""")

TEXTS = {
    "hidden_activation": ("silu", "swish"),
    "activation_function": ("silu", "swish"),
    "position_embedding_type": ("rope", "rotary"),
}

# What the value must be, from head_dim, hidden_size and num_hidden_layers.
COMPUTED: dict[str, Callable[[int, int, int], float]] = {
    "attention_multiplier": lambda head_dim, n_embd, n_layer: head_dim**-0.5,
    "query_pre_attn_scalar": lambda head_dim, n_embd, n_layer: head_dim,
    "dim_model_base": lambda head_dim, n_embd, n_layer: n_embd,
    "scale_depth": lambda head_dim, n_embd, n_layer: math.sqrt(n_layer),
}


def refuse_unread(fields: Fields, head_dim: int, n_embd: int, n_layer: int, family: Family) -> list[str]:
    """Throws ConvertError for a key that changes the predictions and is not read; gives the names of unknown ones."""
    unknown = []
    for key, value in fields.data.items():
        if value is None or key in USED or key in HARMLESS or key in family.reads:
            continue
        if key in OFF:
            neutral, same = "off", _is_number(value) and value == 0
        elif key in EMPTY:
            neutral, same = "nothing", value in ({}, [], "")
        elif key in ONE:
            neutral, same = "1", _is_number(value) and value == 1
        elif key in TEXTS:
            neutral, same = TEXTS[key][0], value in TEXTS[key]
        elif key in COMPUTED:
            number = COMPUTED[key](head_dim, n_embd, n_layer)
            neutral, same = f"{number:g}", math.isclose(fields.number(key), number, rel_tol=1e-6)
        elif key == "is_causal":
            neutral, same = "true", value is True
        elif key == "no_rope_layers":  # 1: with
            neutral, same = "1 for every layer", isinstance(value, list) and all(layer == 1 for layer in value)
        else:
            unknown.append(key)
            continue
        if not same:
            raise ConvertError(f"{fields.wrong(key, neutral)}; no other model is supported")
    return unknown


def _is_number(value: object) -> bool:
    return isinstance(value, (bool, int, float))
