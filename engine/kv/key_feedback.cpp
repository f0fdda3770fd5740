#include "kv/key_feedback.h"

#include "error.h"

namespace livekv {

// From the last channel to the first. `spread` [r, r] is what is left of share / r times the identity once the channels
// behind are known: gain_c = spread mu_c / (diagonal_c + mu_c' spread mu_c), and spread loses what channel c tells.
key_feedback::key_feedback(std::span<const float> q2, std::span<const float> means, std::span<const uint16_t> order)
    : n_means(means.size() / q2.size()), gain(means.size()), weight(means.size()) {
    LIVEKV_ASSERT(n_means > 0 && means.size() == n_means * q2.size() && order.size() == q2.size());
    const size_t r = n_means;
    std::vector<double> spread(r * r);
    for (size_t h = 0; h < r; ++h) {
        spread[h * r + h] = feedback_share / static_cast<double>(r);
    }
    std::vector<double> toward(r);
    for (size_t i = order.size(); i-- > 0;) {
        const size_t c = order[i];
        float * const mu = weight.data() + i * r;
        double squares = 0.0;
        for (size_t h = 0; h < r; ++h) {
            mu[h] = means[h * q2.size() + c];
            squares += static_cast<double>(mu[h]) * mu[h];
        }
        double variance = feedback_diagonal(q2[c], squares, r);
        for (size_t h = 0; h < r; ++h) {
            toward[h] = 0.0;
            for (size_t k = 0; k < r; ++k) {
                toward[h] += spread[h * r + k] * mu[k];
            }
            variance += toward[h] * mu[h];
        }
        if (!(variance > 0.0)) {
            continue;  // queries do not see the channel
        }
        for (size_t h = 0; h < r; ++h) {
            gain[i * r + h] = feedback_gain(toward[h] / variance);
            for (size_t k = 0; k < r; ++k) {
                spread[h * r + k] -= toward[h] * toward[k] / variance;
            }
        }
    }
}

}  // namespace livekv
