#include "kernels/window_scores.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/key_tiles.h"

namespace livekv {

namespace {

// A row is a query of one of the heads that share the kv head: its window token and what softmax makes of its scores.
struct window_row {
    const float * q;
    size_t n_seen;  // keys
    float largest = -std::numeric_limits<float>::infinity();
    double sum = 0.0;
};

}  // namespace

void window_scores(const cpu_kernels & kernels, const window_queries & queries, std::span<const kv_segment> segments,
                   int64_t head, fastkv_method::pooling pool, std::span<float> score) {
    const size_t n_before = score.size();
    const auto group = static_cast<size_t>(queries.n_head / queries.n_head_kv);
    const auto n_queries = static_cast<size_t>(queries.n);
    std::vector<window_row> rows;  // [group, n_queries]
    for (size_t g = 0; g < group; ++g) {
        for (size_t i = 0; i < n_queries; ++i) {
            const size_t at = i * static_cast<size_t>(queries.n_head) + static_cast<size_t>(head) * group + g;
            rows.push_back({queries.q + at * static_cast<size_t>(queries.head_dim), n_before + i + 1});
        }
    }
    key_tiles keys(kernels, segments, queries.n_head_kv, queries.head_dim, head, /*turns=*/nullptr);
    key_tiles::scores all;
    // f(row, first, scores): of every row and tile, the scores of the keys from first on that the row sees.
    const auto for_each_row = [&](auto && f) {
        keys.for_each([&](size_t first, size_t n) {
            for (window_row & row : rows) {
                if (row.n_seen > first) {
                    keys.score(row.q, queries.scale, all);
                    f(row, first, std::span<const float>(all).first(std::min(n, row.n_seen - first)));
                }
            }
        });
    };
    for_each_row([](window_row & row, size_t, std::span<const float> scores) {
        const float largest = std::max(row.largest, *std::ranges::max_element(scores));
        row.sum *= std::exp(static_cast<double>(row.largest) - largest);
        for (const float s : scores) {
            row.sum += std::exp(s - largest);
        }
        row.largest = largest;
    });
    std::vector<float> a(group * n_before);  // kv_fastkv.h
    for_each_row([&](const window_row & row, size_t first, std::span<const float> scores) {
        const auto g = static_cast<size_t>(&row - rows.data()) / n_queries;
        const float share = static_cast<float>(1.0 / row.sum);
        for (size_t j = 0; j < scores.size() && first + j < n_before; ++j) {
            a[g * n_before + first + j] += std::exp(scores[j] - row.largest) * share;
        }
    });
    std::ranges::fill(score, 0.0f);
    for (size_t g = 0; g < group; ++g) {
        fastkv_add_pooled(pool, std::span(a).subspan(g * n_before, n_before), score);
    }
}

}  // namespace livekv
