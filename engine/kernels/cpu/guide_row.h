#pragma once

// A token's weight on the guide (kernels/guide_weights.h): scores of two heads at a time against four vectors of
// positions. Internal linkage: each CPU level compiles its own.

#include "kernels/cpu/row_products.h"
#include "kernels/guide_weights.h"

namespace livekv {
namespace {

constexpr int32_t guide_vectors = 4;

// The weights of n_heads heads side by side, which share the kv head of k f32 [head_dim, stride], summed.
template <int32_t n_heads>
inline double weights_of_heads(const guide_view & view, int64_t first_head, const float * k) {
    constexpr int32_t tile = guide_vectors * lanes::n;
    static_assert(guide_positions_at_once % tile == 0, "no load may pass the end of a row of keys");
    const float * const q = view.q + first_head * view.head_dim;
    const f32 log2_scale = lanes::set(view.scale * log2_e);
    double sum = 0.0;
    for (size_t first = 0; first < view.n_seen; first += tile) {
        f32 scores[n_heads][guide_vectors];
        for (auto & head : scores) {
            for (f32 & score : head) {
                score = lanes::set(0.0f);
            }
        }
        for (int64_t c = 0; c < view.head_dim; ++c) {
            const float * const keys = k + static_cast<size_t>(c) * view.stride + first;
            for (int32_t v = 0; v < guide_vectors; ++v) {
                const f32 key = lanes::load(keys + v * lanes::n);
                for (int32_t h = 0; h < n_heads; ++h) {
                    scores[h][v] = lanes::fma(lanes::set_word(q + h * view.head_dim + c), key, scores[h][v]);
                }
            }
        }
        f32 weights = lanes::set(0.0f);
        for (int32_t h = 0; h < n_heads; ++h) {
            const f32 log_sum = lanes::set(view.log_sums[first_head + h]);
            for (int32_t v = 0; v < guide_vectors; ++v) {
                const size_t at = first + static_cast<size_t>(v * lanes::n);
                if (at >= view.n_seen) {
                    break;
                }
                const f32 x = lanes::sub(lanes::mul(scores[h][v], log2_scale), log_sum);
                // What is no number becomes the second operand of max: no weight.
                f32 weight = exp2_negative(lanes::min(lanes::max(x, lanes::set(-1000.0f)), lanes::set(0.0f)));
                if (view.n_seen - at < static_cast<size_t>(lanes::n)) {
                    float each[lanes::n];
                    lanes::store(each, weight);
                    for (size_t j = view.n_seen - at; j < static_cast<size_t>(lanes::n); ++j) {
                        each[j] = 0.0f;
                    }
                    weight = lanes::load(each);
                }
                weights = lanes::add(weights, weight);
            }
        }
        sum += static_cast<double>(lanes::sum(weights));
    }
    return sum;
}

inline float weight_on_guide_lanes(const guide_view & view) {
    const int64_t group = view.n_head / view.n_head_kv;
    double sum = 0.0;
    for (int64_t head = 0; head < view.n_head;) {
        const float * const k = view.k + static_cast<size_t>(head / group * view.head_dim) * view.stride;
        if (head % group + 2 <= group) {
            sum += weights_of_heads<2>(view, head, k);
            head += 2;
        } else {
            sum += weights_of_heads<1>(view, head, k);
            head += 1;
        }
    }
    const auto mean = static_cast<float>(sum / static_cast<double>(view.n_head));
    return mean < 1.0f ? mean : 1.0f;
}

}  // namespace
}  // namespace livekv
