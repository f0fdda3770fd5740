#include "kernels/guide_weights.h"

#include <algorithm>
#include <cmath>

namespace livekv {

guide_view view_of_guide(const guided_queries & queries, int64_t i, int64_t position, const guide_keys & guide) {
    const auto n_seen =
        static_cast<size_t>(std::ranges::upper_bound(guide.positions, position) - guide.positions.begin());
    return {queries.q + i * queries.n_head * queries.head_dim,
            queries.log_sums + i * queries.n_head,
            queries.n_head,
            queries.n_head_kv,
            queries.head_dim,
            queries.scale,
            guide.k.data(),
            guide.stride(),
            n_seen};
}

float weight_on_guide(const guide_view & view) {
    constexpr double log2_e = 1.4426950408889634;
    const int64_t group = view.n_head / view.n_head_kv;
    double sum = 0.0;
    for (int64_t head = 0; head < view.n_head; ++head) {
        const float * const q = view.q + head * view.head_dim;
        const float * const k = view.k + static_cast<size_t>(head / group * view.head_dim) * view.stride;
        for (size_t j = 0; j < view.n_seen; ++j) {
            double score = 0.0;
            for (int64_t c = 0; c < view.head_dim; ++c) {
                score += static_cast<double>(q[c]) * k[static_cast<size_t>(c) * view.stride + j];
            }
            // A query that attention rounded may differ by more than the scores that are left say: none is above 1.
            const double weight = std::exp2(score * view.scale * log2_e - view.log_sums[head]);
            sum += weight < 1.0 ? weight : weight >= 1.0 ? 1.0 : 0.0;
        }
    }
    return static_cast<float>(std::min(1.0, sum / static_cast<double>(view.n_head)));
}

}  // namespace livekv
