#include "model/hparams.h"

#include <cmath>

#include "error.h"
#include "model/gguf_keys.h"
#include "model/leftovers.h"

namespace livekv {

namespace {

// Generous upper bounds: they refuse corrupted numbers before anything is allocated from them.
constexpr uint32_t max_layers = 1024;
constexpr uint32_t max_width = 1 << 20;
constexpr uint32_t max_vocab = 1 << 24;

int64_t sized(const gguf_file & file, const char * key, uint32_t value, uint32_t max) {
    if (value < 1 || value > max) {
        fail("'", file.path(), "': key '", key, "' is ", value, ", expected 1 to ", max);
    }
    return value;
}

int64_t sized(const gguf_file & file, const char * key, uint32_t max) {
    return sized(file, key, file.get_u32(key), max);
}

// A number that some files give for each layer; all layers must have the same.
std::optional<uint32_t> find_for_all_layers(const gguf_file & file, const char * key, int64_t n_layer) {
    if (!file.is_array(key)) {
        return file.find_u32(key);
    }
    const std::optional<std::vector<double>> values = file.find_numbers(key);
    if (!values || static_cast<int64_t>(values->size()) != n_layer) {
        fail("'", file.path(), "': key '", key, "' is an array of ", values ? values->size() : 0,
             " numbers, expected one for each of ", n_layer, " layers");
    }
    const double first = values->front();
    for (const double value : *values) {
        if (value != first) {
            fail("'", file.path(), "': key '", key, "' is ", first, " in one layer and ", value,
                 " in another; layers of different shapes are not supported");
        }
    }
    if (!(first >= 0.0 && first <= UINT32_MAX && first == std::floor(first))) {
        fail("'", file.path(), "': key '", key, "' is ", first, ", out of range");
    }
    return static_cast<uint32_t>(first);
}

int64_t sized_for_all_layers(const gguf_file & file, const char * key, int64_t n_layer, uint32_t max) {
    const std::optional<uint32_t> value = find_for_all_layers(file, key, n_layer);
    return value ? sized(file, key, *value, max) : sized(file, key, max);
}

void read_rope(const gguf_file & file, hparams & hp) {
    hp.rope_freq_base = file.find_f32(keys::rope_freq_base).value_or(10000.0f);
    if (!std::isfinite(hp.rope_freq_base) || hp.rope_freq_base <= 0.0f) {
        fail("'", file.path(), "': key '", keys::rope_freq_base, "' is ", hp.rope_freq_base, ", expected more than 0");
    }
    const std::string scaling = file.find_string(keys::rope_scaling_type).value_or("linear");
    if (scaling != "linear" && scaling != "none") {
        fail("'", file.path(), "': RoPE scaling '", scaling, "' is not supported (none, linear and llama3 are)");
    }
    float factor = file.find_f32(keys::rope_scaling_factor).value_or(0.0f);
    if (factor == 0.0f) {
        factor = file.find_f32(keys::rope_scale_linear).value_or(1.0f);
    }
    if (!std::isfinite(factor) || factor <= 0.0f || !std::isfinite(1.0f / factor)) {
        fail("'", file.path(), "': key '", keys::rope_scaling_factor, "' is ", factor, ", expected more than 0");
    }
    hp.rope_freq_scale = scaling == "none" ? 1.0f : 1.0f / factor;
    hp.n_rot = file.find_u32(keys::rope_dimension_count).value_or(static_cast<uint32_t>(hp.head_dim));
    if (hp.n_rot < 2 || hp.n_rot > hp.head_dim || hp.n_rot % 2 != 0) {
        fail("'", file.path(), "': key '", keys::rope_dimension_count, "' is ", hp.n_rot,
             ", expected an even number up to head_dim ", hp.head_dim);
    }
}

}  // namespace

hparams hparams::read(const gguf_file & file) {
    const std::string architecture = file.get_string(keys::architecture);
    if (architecture != "llama") {
        fail("'", file.path(), "': architecture '", architecture, "' is not supported (only 'llama' is)");
    }
    if (const uint32_t experts = file.find_u32(keys::expert_count).value_or(0); experts > 0) {
        fail("'", file.path(), "': mixture-of-experts models are not supported (", experts, " experts)");
    }
    hparams hp;
    hp.name = file.find_string(keys::name).value_or("");
    hp.n_ctx_train = sized(file, keys::context_length, UINT32_MAX);
    hp.n_embd = sized(file, keys::embedding_length, max_width);
    hp.n_layer = sized(file, keys::block_count, max_layers);
    hp.n_ff = sized_for_all_layers(file, keys::feed_forward_length, hp.n_layer, max_width);
    hp.n_head = sized_for_all_layers(file, keys::head_count, hp.n_layer, max_width);
    const uint32_t n_head = static_cast<uint32_t>(hp.n_head);
    hp.n_head_kv = sized(file, keys::head_count_kv,
                         find_for_all_layers(file, keys::head_count_kv, hp.n_layer).value_or(n_head), max_width);
    if (hp.n_head % hp.n_head_kv != 0) {
        fail("'", file.path(), "': ", hp.n_head, " heads cannot share ", hp.n_head_kv, " key/value heads evenly");
    }
    const uint32_t default_dim = static_cast<uint32_t>(hp.n_embd / hp.n_head);
    hp.head_dim = sized(file, keys::key_length, file.find_u32(keys::key_length).value_or(default_dim), 4096);
    const uint32_t value_dim = file.find_u32(keys::value_length).value_or(static_cast<uint32_t>(hp.head_dim));
    if (hp.head_dim % 8 != 0 || value_dim != hp.head_dim) {
        fail("'", file.path(), "': head_dim ", hp.head_dim, " for keys and ", value_dim,
             " for values: both must be the same multiple of 8");
    }
    hp.norm_rms_eps = file.get_f32(keys::norm_rms_eps);
    if (!(hp.norm_rms_eps >= 0.0f && hp.norm_rms_eps < 1.0f)) {
        fail("'", file.path(), "': key '", keys::norm_rms_eps, "' is ", hp.norm_rms_eps, ", expected 0 to 1");
    }
    read_rope(file, hp);
    const ggml_tensor * token_embd = file.find_tensor(keys::token_embd);
    if (!token_embd) {
        fail("'", file.path(), "': tensor '", keys::token_embd, "' is missing (a vocabulary-only file?)");
    }
    if (token_embd->ne[1] > max_vocab) {
        fail("'", file.path(), "': tensor '", keys::token_embd, "' has ", token_embd->ne[1], " rows");
    }
    hp.n_vocab = token_embd->ne[1];
    refuse_unread_keys(file, hp);
    return hp;
}

}  // namespace livekv
