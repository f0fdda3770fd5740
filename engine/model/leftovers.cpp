#include "model/leftovers.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "error.h"
#include "model/gguf_keys.h"

namespace livekv {

namespace {

// What hparams::read makes use of.
constexpr const char * used_keys[] = {
    keys::context_length,       keys::embedding_length,  keys::block_count,         keys::feed_forward_length,
    keys::head_count,           keys::head_count_kv,     keys::key_length,          keys::value_length,
    keys::norm_rms_eps,         keys::rope_freq_base,    keys::rope_scaling_type,   keys::rope_scaling_factor,
    keys::rope_dimension_count, keys::rope_scale_linear, keys::expert_count,
};

// What says nothing that a plain LLaMA's result depends on, whatever the value.
constexpr const char * harmless_keys[] = {
    "llama.vocab_size",                            // the rows of token_embd say it
    "llama.tensor_data_layout",                    // older files; "Meta AI original pth" in all of them
    "llama.expert_used_count",                     // says which experts are used, where there are none
    "llama.attention.layer_norm_epsilon",          // of a norm that takes the mean away; ours has a key of its own
    "llama.rope.scaling.original_context_length",  // this and what follows is read for YaRN only
    "llama.rope.scaling.finetuned",
    "llama.rope.scaling.yarn_beta_fast",
    "llama.rope.scaling.yarn_beta_slow",
};

// Everything else in these namespaces must be off (0, false), or neutral.
constexpr const char * computed_namespaces[] = {"llama.", "xielu.", "diffusion.", "adapter."};

struct neutral_range {
    double low, high;
};

neutral_range neutral_values(const std::string & key, const hparams & hp) {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    if (key == "llama.attention.causal" || key == "llama.logit_scale" || key == "llama.residual_scale" ||
        key == "llama.embedding_scale" || key == "llama.attention.output_scale" || key == "llama.rope.scaling.alpha" ||
        key == "llama.rope.scaling.attn_factor" || key == "llama.rope.scaling.yarn_attn_factor") {
        return {1.0, 1.0};
    }
    if (key == "llama.embedding_length_out") {
        return {static_cast<double>(hp.n_embd), static_cast<double>(hp.n_embd)};
    }
    if (key == "llama.attention.scale") {  // stored as float32
        const double scale = 1.0 / std::sqrt(static_cast<double>(hp.head_dim));
        return {scale * (1.0 - 1e-6), scale * (1.0 + 1e-6)};
    }
    if (key == "llama.attention.sliding_window") {  // no text is longer than what it was trained for
        return {static_cast<double>(hp.n_ctx_train), infinity};
    }
    return {0.0, 0.0};
}

bool is_neutral(const gguf_file & file, const std::string & key, const hparams & hp) {
    const std::optional<std::vector<double>> values = file.find_numbers(key);
    if (!values) {
        return false;  // a text, or texts
    }
    const bool may_be_off = key != "llama.attention.causal";
    const neutral_range neutral = neutral_values(key, hp);
    return std::ranges::all_of(*values, [&](double value) {
        return (may_be_off && value == 0.0) || (value >= neutral.low && value <= neutral.high);
    });
}

std::string value_text(const gguf_file & file, const std::string & key) {
    const std::optional<std::vector<double>> values = file.find_numbers(key);
    if (!values || values->size() != 1) {
        return values ? "an array" : "a text";
    }
    std::ostringstream text;
    text << values->front();
    return text.str();
}

bool is_known(const std::string & key) {
    const auto is_key = [&](const char * known) { return key == known; };
    return std::ranges::any_of(used_keys, is_key) || std::ranges::any_of(harmless_keys, is_key);
}

// Angles of RoPE that old converters kept: the metadata says them too. blk.<il>.attn_rot_embd, with .weight or without.
bool is_harmless_tensor(const std::string & name) {
    return name.starts_with("blk.") && (name.ends_with(".attn_rot_embd.weight") || name.ends_with(".attn_rot_embd"));
}

}  // namespace

void refuse_unread_keys(const gguf_file & file, const hparams & hp) {
    for (int64_t i = 0; i < file.n_keys(); ++i) {
        const std::string key = file.key(i);
        const bool matters =
            std::ranges::any_of(computed_namespaces, [&](const char * space) { return key.starts_with(space); });
        if (matters && !is_known(key) && !is_neutral(file, key, hp)) {
            fail("'", file.path(), "': key '", key, "' is ", value_text(file, key),
                 ", which is not supported and may change what the model computes");
        }
    }
}

void refuse_unused_tensors(const gguf_file & file, const std::set<const ggml_tensor *> & used) {
    constexpr int64_t most_named = 3;
    std::string names;
    int64_t n_unused = 0;
    for (int64_t i = 0; i < file.n_tensors(); ++i) {
        const ggml_tensor * tensor = file.tensor(i);
        if (!used.contains(tensor) && !is_harmless_tensor(tensor->name)) {
            names += n_unused < most_named ? (n_unused ? ", '" : "'") + std::string(tensor->name) + "'" : "";
            ++n_unused;
        }
    }
    if (n_unused > 0) {
        fail("'", file.path(), "': ", n_unused, n_unused == 1 ? " tensor has" : " tensors have",
             " no place in this model and may change what it computes: ", names,
             n_unused > most_named ? ", ..." : "");
    }
}

}  // namespace livekv
