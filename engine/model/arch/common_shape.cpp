#include "model/arch/common_shape.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "model/gguf_keys.h"

namespace livekv {

namespace {

// Generous upper bounds: they refuse corrupted numbers before anything is allocated from them.
constexpr uint32_t max_layers = 1024;
constexpr uint32_t max_width = 1 << 20;
constexpr uint32_t max_head_dim = 4096;

void read_yarn(arch_keys & keys, int64_t n_ctx_train, rope_params & rope) {
    rope.n_ctx_orig = keys.get_size(keys::rope_scaling_orig_ctx, UINT32_MAX, n_ctx_train);
    rope.beta_fast = read_positive(keys, keys::rope_yarn_beta_fast, rope.beta_fast);
    rope.beta_slow = read_positive(keys, keys::rope_yarn_beta_slow, rope.beta_slow);
    rope.attn_factor = read_positive(keys, keys::rope_scaling_attn_factor, 1.0f) *
                       read_positive(keys, keys::rope_yarn_attn_factor, 1.0f);
    if (rope.factor < 1.0f) {
        keys.refuse(keys::rope_scaling_factor, rope.factor, ", expected 1 or more for YaRN");
    }
    if (rope.beta_fast <= rope.beta_slow) {
        keys.refuse(keys::rope_yarn_beta_fast, rope.beta_fast, ", expected more than beta_slow ", rope.beta_slow);
    }
    if (rope.base <= 1.0f) {
        keys.refuse(keys::rope_freq_base, rope.base, ", expected more than 1 for YaRN");
    }
    if (const float share = keys.find_f32(keys::rope_yarn_ext_factor).value_or(1.0f); share != 1.0f) {
        keys.refuse(keys::rope_yarn_ext_factor, share, ", expected 1");
    }
}

void read_rope_scaling(arch_keys & keys, int64_t n_ctx_train, rope_params & rope) {
    const std::string scaling = keys.find_string(keys::rope_scaling_type).value_or("linear");
    const float older_factor = keys.find_f32(keys::rope_scale_linear).value_or(1.0f);
    const float factor = keys.find_f32(keys::rope_scaling_factor).value_or(0.0f);
    rope.factor = factor == 0.0f ? older_factor : factor;
    if (!std::isfinite(rope.factor) || rope.factor <= 0.0f || !std::isfinite(1.0f / rope.factor)) {
        keys.refuse(keys::rope_scaling_factor, rope.factor, ", expected more than 0");
    }
    if (scaling == "none") {
        rope.factor = 1.0f;
    } else if (scaling == "longrope" && keys.file().find_tensor(keys::rope_factors_long)) {
        rope.factor = 1.0f;  // all of it is in tensors
    } else if (scaling == "linear") {
        rope.scaling = rope.factor == 1.0f ? rope_scaling::none : rope_scaling::linear;
    } else if (scaling == "yarn") {
        rope.scaling = rope_scaling::yarn;
        read_yarn(keys, n_ctx_train, rope);
    } else {
        fail("'", keys.file().path(), "': RoPE scaling '", scaling,
             "' is not supported (none, linear, yarn and llama3 are)");
    }
}

// A tensor f32 [n], or nothing when the file has none of the name.
std::vector<float> read_rope_divisors(const gguf_file & file, const char * name, int64_t n) {
    if (!file.find_tensor(name)) {
        return {};
    }
    const ggml_tensor * tensor = file.get_tensor(name, {n});
    if (tensor->type != GGML_TYPE_F32) {
        fail("'", file.path(), "': tensor '", name, "' has type ", ggml_type_name(tensor->type), ", expected f32");
    }
    std::vector<float> divisors(static_cast<size_t>(n));
    std::memcpy(divisors.data(), file.tensor_data(tensor), divisors.size() * sizeof(float));
    for (const float divisor : divisors) {
        if (!(divisor > 0.0f && std::isfinite(divisor) && std::isfinite(1.0f / divisor))) {
            fail("'", file.path(), "': tensor '", name, "' holds ", divisor, ", expected more than 0");
        }
    }
    return divisors;
}

}  // namespace

void read_sizes(arch_keys & keys, hparams & hp) {
    hp.n_ctx_train = keys.get_size(keys::context_length, UINT32_MAX);
    hp.n_embd = keys.get_size(keys::embedding_length, max_width);
    hp.n_layer = keys.get_size(keys::block_count, max_layers);
    layer_shape layer;
    layer.n_ff = keys.get_size_of_layers(keys::feed_forward_length, hp.n_layer, max_width);
    layer.n_head = keys.get_size_of_layers(keys::head_count, hp.n_layer, max_width);
    layer.n_head_kv = keys.get_size_of_layers(keys::head_count_kv, hp.n_layer, max_width, layer.n_head);
    if (layer.n_head % layer.n_head_kv != 0) {
        fail("'", keys.file().path(), "': ", layer.n_head, " heads cannot share ", layer.n_head_kv,
             " key/value heads evenly");
    }
    layer.head_dim = keys.get_size(keys::key_length, max_head_dim, hp.n_embd / layer.n_head);
    const int64_t value_dim = keys.find_u32(keys::value_length).value_or(static_cast<uint32_t>(layer.head_dim));
    if (layer.head_dim % head_dim_unit != 0 || value_dim != layer.head_dim) {
        fail("'", keys.file().path(), "': head_dim ", layer.head_dim, " for keys and ", value_dim,
             " for values: both must be the same multiple of ", head_dim_unit);
    }
    hp.layers.assign(static_cast<size_t>(hp.n_layer), layer);
}

void read_rms_norm(arch_keys & keys, hparams & hp) {
    hp.norm_rms_eps = keys.get_f32(keys::norm_rms_eps);
    if (!(hp.norm_rms_eps >= 0.0f && hp.norm_rms_eps < 1.0f)) {
        keys.refuse(keys::norm_rms_eps, hp.norm_rms_eps, ", expected 0 to 1");
    }
}

float read_positive(arch_keys & keys, const char * key, float otherwise) {
    const float value = keys.find_f32(key).value_or(otherwise);
    if (!(value > 0.0f && std::isfinite(value) && std::isfinite(1.0f / value))) {
        keys.refuse(key, value, ", expected more than 0");
    }
    return value;
}

void read_windows(arch_keys & keys, hparams & hp, uint32_t pattern) {
    const int64_t window = keys.get_size(keys::sliding_window, UINT32_MAX);
    std::vector<bool> sees_all = keys.get_layer_pattern(keys::sliding_window_pattern, hp.n_layer, pattern);
    for (size_t il = 0; il < hp.layers.size(); ++il) {
        hp.layers[il].window = sees_all[il] ? 0 : window;
    }
}

void read_long_rope(arch_keys & keys, hparams & hp) {
    rope_params & rope = hp.ropes.front();
    const bool has_short = keys.file().find_tensor(keys::rope_factors_short);
    const bool has_long = keys.file().find_tensor(keys::rope_factors_long);
    if (!has_short && !has_long) {
        return;
    }
    if (has_short != has_long) {
        fail("'", keys.file().path(), "': tensor '", has_short ? keys::rope_factors_long : keys::rope_factors_short,
             "' is missing, though there is the other one");
    }
    if (rope.factor != 1.0f) {
        keys.refuse(keys::rope_scaling_factor, rope.factor, ", expected 1 beside tensor '", keys::rope_factors_long,
                    "', which says how positions are scaled");
    }
    hp.long_beyond = keys.get_size(keys::rope_scaling_orig_ctx, UINT32_MAX);
    rope.attn_factor = read_positive(keys, keys::rope_scaling_attn_factor, 1.0f);
    rope.divisors = read_rope_divisors(keys.file(), keys::rope_factors_short, rope.n_rot / 2);
    rope_params other = rope;
    other.divisors = read_rope_divisors(keys.file(), keys::rope_factors_long, rope.n_rot / 2);
    hp.ropes.push_back(other);
    for (layer_shape & layer : hp.layers) {
        layer.long_rope = 1;
    }
}

void refuse_experts(arch_keys & keys) {
    if (const uint32_t experts = keys.find_u32(keys::expert_count).value_or(0); experts > 0) {
        fail("'", keys.file().path(), "': mixture-of-experts models are not supported (", experts, " experts)");
    }
}

void read_rope(arch_keys & keys, hparams & hp, rope_order order) {
    rope_params rope;
    rope.order = order;
    const int64_t head_dim = hp.head_dim(0);
    rope.n_rot = keys.find_u32(keys::rope_dimension_count).value_or(static_cast<uint32_t>(head_dim));
    if (rope.n_rot < 2 || rope.n_rot > head_dim || rope.n_rot % 2 != 0) {
        keys.refuse(keys::rope_dimension_count, rope.n_rot, ", expected an even number up to head_dim ", head_dim);
    }
    rope.base = read_positive(keys, keys::rope_freq_base, rope.base);
    read_rope_scaling(keys, hp.n_ctx_train, rope);
    rope.divisors = read_rope_divisors(keys.file(), keys::rope_freqs, rope.n_rot / 2);
    hp.ropes = {rope};
}

}  // namespace livekv
