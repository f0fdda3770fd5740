#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "model/fingerprint.h"
#include "rope/rope.h"

namespace livekv {

// What a cache needs to know of one of the model's layers.
struct kv_layer_shape {
    int64_t n_head = 0;
    int64_t n_head_kv = 0;
    int64_t head_dim = 0;
    int64_t window = 0;      // tokens a query sees, its own included; 0: all
    bool on_device = false;  // the layer's keys and values, and the work on them, are the GPU's
    rope_params rope = {};   // what turns its queries and keys

    int64_t n_embd_kv() const { return n_head_kv * head_dim; }
};

struct kv_shape {
    std::vector<kv_layer_shape> layers;
    int64_t n_ctx = 0;     // the most tokens a sequence may have
    bool is_long = false;  // its keys have the positions of a long context: another model's, to whoever shares chunks

    std::function<model_facts()> model = {};  // what tells it from other models; empty: not known

    int64_t n_layer() const { return static_cast<int64_t>(layers.size()); }
};

}  // namespace livekv
