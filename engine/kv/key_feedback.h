#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace livekv {

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
