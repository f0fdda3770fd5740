#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/gguf_file.h"
#include "rope/rope_override.h"

namespace livekv {

struct architecture;  // model/arch/arch.h

struct layer_shape {
    int64_t n_head = 0;
    int64_t n_head_kv = 0;
    int64_t head_dim = 0;  // of keys and of values, a multiple of head_dim_unit
    int64_t n_ff = 0;
    size_t rope = 0;     // of hparams::ropes
    int64_t window = 0;  // tokens a query sees, its own and those right before it; 0: all
};

inline constexpr int64_t head_dim_unit = 8;  // attention's kernels take rows in pieces of so many

// The shape of a model, read from GGUF metadata only and checked once.
struct hparams {
    const architecture * arch = nullptr;
    std::string name;  // general.name, may be empty
    int64_t n_ctx_train = 0;
    int64_t n_embd = 0;
    int64_t n_layer = 0;
    std::vector<layer_shape> layers;  // [n_layer]
    std::vector<rope_params> ropes;   // those the layers' rope counts among; one in most models
    bool rope_is_overridden = false;  // it is not the file's
    int64_t n_vocab = 0;
    float norm_rms_eps = 0.0f;
    float attention_scale = 0.0f;  // of q . k, where it is not 1 / sqrt(head_dim)
    float embedding_scale = 1.0f;  // of a token's row before the first layer

    std::string architecture_name() const;

    // Of layer il.
    int64_t n_head(int64_t il) const { return layer(il).n_head; }
    int64_t n_head_kv(int64_t il) const { return layer(il).n_head_kv; }
    int64_t head_dim(int64_t il) const { return layer(il).head_dim; }
    int64_t n_ff(int64_t il) const { return layer(il).n_ff; }
    int64_t window(int64_t il) const { return layer(il).window; }
    const rope_params & rope(int64_t il) const { return ropes[layer(il).rope]; }
    int64_t n_embd_q(int64_t il) const { return n_head(il) * head_dim(il); }
    int64_t n_embd_kv(int64_t il) const { return n_head_kv(il) * head_dim(il); }

    // Numbers that one token's keys and values are, over all layers.
    int64_t kv_values_per_token() const;
    // Their bytes in 16-bit floats: the yardstick of every cache.
    int64_t kv_f16_bytes_per_token() const { return 2 * kv_values_per_token(); }

    // Throws livekv::error for an unknown architecture, a missing key, a value no such model has, and for a key that is
    // not read here but may change what the model computes; rope_option_error for a change that does not fit the file.
    static hparams read(const gguf_file & file, const rope_override & changes = {});

  private:
    const layer_shape & layer(int64_t il) const { return layers[static_cast<size_t>(il)]; }
};

}  // namespace livekv
