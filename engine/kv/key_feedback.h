#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kv/host_device.h"

namespace livekv {

constexpr double feedback_share = 0.5;           // of what the means say of queries to come
constexpr double feedback_least_diagonal = 0.1;  // of q2, which has seen more queries than the means

// A channel's own part of M below, from its mean square and the sum of squares of its r means.
LIVEKV_HD inline double feedback_diagonal(float q2, double squares, size_t r) {
    const double own = q2 - feedback_share / static_cast<double>(r) * squares;
    const double least = feedback_least_diagonal * q2;
    return own < least ? least : own;
}

// A gain as a float, finite.
LIVEKV_HD inline float feedback_gain(double gain) {
    constexpr double largest = 3.4028234663852886e38;
    return static_cast<float>(gain < -largest ? -largest : gain > largest ? largest : gain);
}

// How the error of a key's channel is made up for by the channels after it in the block's order, where keys have
// classes of width (kv_classes.h). An error e [head_dim] of a key costs the scores e' M e, where M is what queries are
// made of:
//
//   M = diag(q2 - share s) + share / r (mu_1 mu_1' + ... + mu_r mu_r'),   s = the diagonal of (mu_1 mu_1' + ...) / r,
//
// with the mean square q2 of each channel over the queries, and the mean query mu of each of r heads; share, less than
// 1, as the queries to come have other means. With M = U' D U, U unit lower triangular in the block's order, M's least
// cost is where a channel is rounded from t_c = k_c + sum over j < c of U_cj e_j. As M is a diagonal and r products,
//
//   t_c = k_c + gain_c . (sum over j < c of weight_j e_j),
//
// weight_j = (mu_1j ... mu_rj): r sums a key, and no matrix.
struct key_feedback {
    // q2: [head_dim]; means: [n_means, head_dim], finite; order: [head_dim] channels.
    key_feedback(std::span<const float> q2, std::span<const float> means, std::span<const uint16_t> order);

    size_t n_means;
    std::vector<float> gain;    // [head_dim, n_means], in the block's order
    std::vector<float> weight;  // as gain
};

}  // namespace livekv
