#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace livekv {

constexpr size_t guide_positions_at_once = 64;  // at the most, by any CPU level (kernels/cpu/guide_row.h)

// Keys of the guide (policy guided), as attention reads them: at consecutive positions, but for those that are not
// kept.
struct guide_keys {
    std::vector<float> k;  // f32 [n_head_kv, head_dim, stride()], zeros behind the positions
    std::vector<int64_t> positions;

    size_t stride() const {
        return (positions.size() + guide_positions_at_once - 1) / guide_positions_at_once * guide_positions_at_once;
    }
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

// One token's queries, and what it sees of the guide: the first n_seen positions.
struct guide_view {
    const float * q;         // f32 [n_head, head_dim]
    const float * log_sums;  // [n_head]
    int64_t n_head;
    int64_t n_head_kv;
    int64_t head_dim;
    float scale;
    const float * k;  // guide_keys::k
    size_t stride;
    size_t n_seen;
};

// Of token i, which is at this position.
guide_view view_of_guide(const guided_queries & queries, int64_t i, int64_t position, const guide_keys & guide);

// The mean over heads of the weight that the token gives to what it sees of the guide, 0 to 1; what is no number counts
// as 0. No weight of any other token is computed. This is the reference: cpu_kernels::weight_on_guide is what a pass
// calls.
float weight_on_guide(const guide_view & view);

}  // namespace livekv
