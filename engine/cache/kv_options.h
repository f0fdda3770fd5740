#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kv/kv_method.h"

namespace livekv {

// How keys and values are stored: the policy, and what the livekv policy can be told. Declared as options, with ranges
// and help, in kv_option_table.h. The defaults are what docs/fidelity.md found to be worth their bits.
struct kv_options {
    std::string policy = "livekv";
    int64_t chunk_size = 512;
    int64_t warmup_chunks = 2;
    bool warmup_keep = false;
    int64_t tail_chunks = 0;
    int64_t sink_tokens = 4;
    int64_t bypass_layers = 0;  // -1: a tenth of the layers
    std::string bypass_type = "q8_0";
    std::vector<int64_t> bits = {4};  // keys[, values]
    int64_t key_group = 128;          // 0: the chunk
    bool zero_point = true;
    double ema_alpha = 0.1;
    double clip_factor = 4.0;
    double outlier_ratio = 0.005;
    double v_outlier_ratio = 0.0;  // -1: as keys
    std::string scale_method = "ema_clipped";
    bool scale_search = false;
    std::string rotate = "v";
    bool seal_decode = true;
    bool measure_error = false;

    // Throws livekv::error, naming the options, when they contradict each other.
    void check() const;

    kv_method method() const;

    // Layers kept at higher precision, of n_layer.
    int64_t n_bypass(int64_t n_layer) const;
};

}  // namespace livekv
