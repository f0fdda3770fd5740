#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace livekv {

// Keys of the guide (policy guided), as attention reads them: at consecutive positions, but for those that are not
// kept.
struct guide_keys {
    std::vector<float> k;  // f32 [n_head_kv, head_dim, positions.size()]
    std::vector<int64_t> positions;
};

// Queries whose attention was computed: f32 [n_tokens, n_head, head_dim], and the base-2 logarithms of their softmax
// sums, [n_tokens, n_head] (attention_args::log_sums).
struct guided_queries {
    const float * q = nullptr;
    const float * log_sums = nullptr;
    int64_t n_head = 0;
    int64_t n_head_kv = 0;
    int64_t head_dim = 0;
    float scale = 0.0f;  // of q . k before the softmax
};

// The mean over heads of the weight that token i, at this position, gives to the guide as far as it sees it, 0 to 1;
// what is no number counts as 0. No weight of any other token is computed. scratch: [guide.positions.size()].
float weight_given_to_guide(const guided_queries & queries, int64_t i, int64_t position, const guide_keys & guide,
                            std::span<float> scratch);

}  // namespace livekv
