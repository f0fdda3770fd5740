#include "model/arch/common_shape.h"

#include <cmath>

#include "model/gguf_keys.h"

namespace livekv {

namespace {

// Generous upper bounds: they refuse corrupted numbers before anything is allocated from them.
constexpr uint32_t max_layers = 1024;
constexpr uint32_t max_width = 1 << 20;
constexpr uint32_t max_head_dim = 4096;

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

void read_rope(arch_keys & keys, hparams & hp) {
    hp.rope_freq_base = keys.find_f32(keys::rope_freq_base).value_or(10000.0f);
    if (!std::isfinite(hp.rope_freq_base) || hp.rope_freq_base <= 0.0f) {
        keys.refuse(keys::rope_freq_base, hp.rope_freq_base, ", expected more than 0");
    }
    const std::string scaling = keys.find_string(keys::rope_scaling_type).value_or("linear");
    if (scaling != "linear" && scaling != "none") {
        fail("'", keys.file().path(), "': RoPE scaling '", scaling, "' is not supported (none, linear and llama3 are)");
    }
    const float older_factor = keys.find_f32(keys::rope_scale_linear).value_or(1.0f);
    float factor = keys.find_f32(keys::rope_scaling_factor).value_or(0.0f);
    factor = factor == 0.0f ? older_factor : factor;
    if (!std::isfinite(factor) || factor <= 0.0f || !std::isfinite(1.0f / factor)) {
        keys.refuse(keys::rope_scaling_factor, factor, ", expected more than 0");
    }
    hp.rope_freq_scale = scaling == "none" ? 1.0f : 1.0f / factor;
    const int64_t head_dim = hp.head_dim(0);
    hp.n_rot = keys.find_u32(keys::rope_dimension_count).value_or(static_cast<uint32_t>(head_dim));
    if (hp.n_rot < 2 || hp.n_rot > head_dim || hp.n_rot % 2 != 0) {
        keys.refuse(keys::rope_dimension_count, hp.n_rot, ", expected an even number up to head_dim ", head_dim);
    }
}

}  // namespace livekv
