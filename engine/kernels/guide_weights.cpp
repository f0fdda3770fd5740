#include "kernels/guide_weights.h"

#include <algorithm>
#include <cmath>

namespace livekv {

namespace {

constexpr float log2_e = 1.4426950408889634f;

}  // namespace

float weight_given_to_guide(const guided_queries & queries, int64_t i, int64_t position, const guide_keys & guide,
                            std::span<float> scratch) {
    const size_t n = guide.positions.size();
    const size_t d = static_cast<size_t>(queries.head_dim);
    const int64_t group = queries.n_head / queries.n_head_kv;
    const size_t n_seen =
        static_cast<size_t>(std::ranges::upper_bound(guide.positions, position) - guide.positions.begin());
    double sum = 0.0;
    for (int64_t head = 0; head < queries.n_head; ++head) {
        const float * const q = queries.q + (i * queries.n_head + head) * queries.head_dim;
        const float * const k = guide.k.data() + static_cast<size_t>(head / group) * d * n;
        std::fill_n(scratch.begin(), n_seen, 0.0f);
        for (size_t c = 0; c < d; ++c) {
            for (size_t j = 0; j < n_seen; ++j) {
                scratch[j] += q[c] * k[c * n + j];
            }
        }
        const float log_sum = queries.log_sums[i * queries.n_head + head];
        for (size_t j = 0; j < n_seen; ++j) {
            // A query that attention rounded may differ by more than the scores that are left say: none is above 1.
            const float weight = std::exp2(scratch[j] * queries.scale * log2_e - log_sum);
            sum += weight < 1.0f ? weight : weight >= 1.0f ? 1.0f : 0.0f;
        }
    }
    return std::min(1.0f, static_cast<float>(sum / static_cast<double>(queries.n_head)));
}

}  // namespace livekv
