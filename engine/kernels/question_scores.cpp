#include "kernels/question_scores.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/key_tiles.h"

namespace livekv {

namespace {

// A token of the question: what softmax makes of its scores.
struct question_row {
    const float * q;
    float factor;
    float largest = -std::numeric_limits<float>::infinity();
    double sum = 0.0;
};

}  // namespace

void question_scores(const cpu_kernels & kernels, const question_queries & queries,
                     std::span<const kv_segment> segments, const rope_turns * turns, int64_t query_head,
                     std::span<float> score) {
    const size_t n_columns = score.size();
    std::vector<question_row> rows;
    for (int64_t p = 0; p < queries.n; ++p) {
        rows.push_back({queries.q + (p * queries.n_head + query_head) * queries.head_dim,
                        queries.factors[static_cast<size_t>(p)]});
    }
    const int64_t head = query_head / (queries.n_head / queries.n_head_kv);
    key_tiles keys(kernels, segments, queries.n_head_kv, queries.head_dim, head, turns);
    key_tiles::scores s;
    keys.for_each([&](size_t first, size_t n) {
        for (size_t p = 0; p < rows.size(); ++p) {
            const size_t n_seen = n_columns + p + 1;
            if (n_seen <= first) {
                continue;
            }
            question_row & row = rows[p];
            const size_t n_here = std::min(n, n_seen - first);
            keys.score(row.q, queries.scale, s);
            const float largest = std::max(row.largest, *std::max_element(s.begin(), s.begin() + n_here));
            row.sum *= std::exp(static_cast<double>(row.largest) - largest);
            for (size_t j = 0; j < n_here; ++j) {
                row.sum += std::exp(s[j] - largest);
            }
            row.largest = largest;
        }
    });
    std::ranges::fill(score, 0.0f);
    keys.for_each([&](size_t first, size_t n) {
        if (first >= n_columns) {
            return;
        }
        const size_t n_here = std::min(n, n_columns - first);
        for (const question_row & row : rows) {
            const auto share = static_cast<float>(row.factor / row.sum);
            keys.score(row.q, queries.scale, s);
            for (size_t j = 0; j < n_here; ++j) {
                score[first + j] += std::exp(s[j] - row.largest) * share;
            }
        }
    });
}

}  // namespace livekv
