#pragma once

#include <string>

// Metadata keys and tensor names of GGUF files. convert/ writes the same ones.
namespace livekv::keys {

inline constexpr const char * architecture = "general.architecture";
inline constexpr const char * type = "general.type";
inline constexpr const char * quantization_version = "general.quantization_version";
inline constexpr const char * name = "general.name";
inline constexpr const char * split_no = "split.no";  // from 0
inline constexpr const char * split_count = "split.count";
inline constexpr const char * split_tensors_count = "split.tensors.count";  // of all parts together

// An architecture's, behind its name and a dot: "llama.context_length".
inline constexpr const char * context_length = "context_length";
inline constexpr const char * embedding_length = "embedding_length";
inline constexpr const char * block_count = "block_count";
inline constexpr const char * feed_forward_length = "feed_forward_length";
inline constexpr const char * head_count = "attention.head_count";
inline constexpr const char * head_count_kv = "attention.head_count_kv";
inline constexpr const char * key_length = "attention.key_length";
inline constexpr const char * value_length = "attention.value_length";
inline constexpr const char * norm_rms_eps = "attention.layer_norm_rms_epsilon";
inline constexpr const char * rope_dimension_count = "rope.dimension_count";
inline constexpr const char * rope_freq_base = "rope.freq_base";
inline constexpr const char * attention_scale = "attention.scale";
inline constexpr const char * sliding_window = "attention.sliding_window";
inline constexpr const char * sliding_window_pattern = "attention.sliding_window_pattern";
inline constexpr const char * rope_freq_base_swa = "rope.freq_base_swa";
inline constexpr const char * rope_scaling_type = "rope.scaling.type";
inline constexpr const char * rope_scaling_factor = "rope.scaling.factor";
inline constexpr const char * rope_scale_linear = "rope.scale_linear";  // older files
inline constexpr const char * rope_scaling_orig_ctx = "rope.scaling.original_context_length";
inline constexpr const char * rope_scaling_attn_factor = "rope.scaling.attn_factor";
inline constexpr const char * rope_yarn_attn_factor = "rope.scaling.yarn_attn_factor";
inline constexpr const char * rope_yarn_ext_factor = "rope.scaling.yarn_ext_factor";
inline constexpr const char * rope_yarn_beta_fast = "rope.scaling.yarn_beta_fast";
inline constexpr const char * rope_yarn_beta_slow = "rope.scaling.yarn_beta_slow";
inline constexpr const char * expert_count = "expert_count";

// Keys of our own, for what Hugging Face's tokenizers do and the ecosystem's keys cannot say. All are optional; files
// of other tools lack them. docs/gguf-keys.md says what they mean.
inline constexpr const char * prepend_scheme = "livekv.tokenizer.prepend_scheme";
inline constexpr const char * normalizes_spaces = "livekv.tokenizer.normalizes_spaces";
inline constexpr const char * normalizes_nfc = "livekv.tokenizer.nfc";
inline constexpr const char * splits_at_spaces = "livekv.tokenizer.splits_at_spaces";
inline constexpr const char * fuse_unknown = "livekv.tokenizer.fuse_unknown";
inline constexpr const char * spm_merges = "livekv.tokenizer.merges";
inline constexpr const char * ignore_merges = "livekv.tokenizer.ignore_merges";
inline constexpr const char * added_tokens = "livekv.tokenizer.added_tokens";
inline constexpr const char * added_token_flags = "livekv.tokenizer.added_token_flags";
inline constexpr const char * eos_token_ids = "livekv.tokenizer.eos_token_ids";

inline constexpr const char * token_embd = "token_embd.weight";
inline constexpr const char * output_norm = "output_norm.weight";
inline constexpr const char * output = "output.weight";
inline constexpr const char * rope_factors_short = "rope_factors_short.weight";
inline constexpr const char * rope_factors_long = "rope_factors_long.weight";
inline constexpr const char * rope_freqs = "rope_freqs.weight";

// blk.<il>.<part>, e.g. blk(3, "attn_q.weight")
inline std::string blk(int64_t il, const std::string & part) {
    return "blk." + std::to_string(il) + "." + part;
}

}  // namespace livekv::keys
