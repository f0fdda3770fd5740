#include "kernels/key_weights.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/key_tiles.h"

namespace livekv {

namespace {

// A token's query of one head: what softmax makes of its scores.
struct query_row {
    const float * q;
    size_t head;    // of the n_heads
    size_t n_seen;  // keys
    float factor;
    float largest = -std::numeric_limits<float>::infinity();
    double sum = 0.0;
};

std::vector<query_row> rows_of(const last_queries & queries, size_t n_keys, size_t first_head, size_t n_heads) {
    const auto n = static_cast<size_t>(queries.n);
    std::vector<query_row> rows;  // [n_heads, n]
    for (size_t head = 0; head < n_heads; ++head) {
        for (size_t i = 0; i < n; ++i) {
            const size_t at = i * static_cast<size_t>(queries.n_head) + first_head + head;
            rows.push_back({queries.q + at * static_cast<size_t>(queries.head_dim), head, n_keys - n + i + 1,
                            queries.factors.empty() ? 1.0f : queries.factors[i]});
        }
    }
    return rows;
}

}  // namespace

void sum_key_weights(const cpu_kernels & kernels, const last_queries & queries, std::span<const kv_segment> segments,
                     const rope_turns * turns, int64_t first_head, int64_t n_heads, std::span<float> sums) {
    size_t n_keys = 0;
    for (const kv_segment & s : segments) {
        n_keys += static_cast<size_t>(s.n_tokens);
    }
    const size_t n_wanted = sums.size() / static_cast<size_t>(n_heads);
    std::vector<query_row> rows =
        rows_of(queries, n_keys, static_cast<size_t>(first_head), static_cast<size_t>(n_heads));
    const int64_t head = first_head / (queries.n_head / queries.n_head_kv);
    key_tiles keys(kernels, segments, queries.n_head_kv, queries.head_dim, head, turns);
    key_tiles::scores all;
    // f(row, first, scores): of every row and tile, the scores of the keys from first on that the row sees.
    const auto for_each_row = [&](size_t first, size_t n, auto && f) {
        for (query_row & row : rows) {
            if (row.n_seen > first) {
                keys.score(row.q, queries.scale, all);
                f(row, std::span<const float>(all).first(std::min(n, row.n_seen - first)));
            }
        }
    };
    keys.for_each([&](size_t first, size_t n) {
        for_each_row(first, n, [](query_row & row, std::span<const float> scores) {
            const float largest = std::max(row.largest, *std::ranges::max_element(scores));
            row.sum *= std::exp(static_cast<double>(row.largest) - largest);
            for (const float s : scores) {
                row.sum += std::exp(s - largest);
            }
            row.largest = largest;
        });
    });
    std::ranges::fill(sums, 0.0f);
    keys.for_each([&](size_t first, size_t n) {
        if (first >= n_wanted) {
            return;
        }
        for_each_row(first, std::min(n, n_wanted - first), [&](const query_row & row, std::span<const float> scores) {
            const auto share = static_cast<float>(row.factor / row.sum);
            float * const mine = sums.data() + row.head * n_wanted + first;
            for (size_t j = 0; j < scores.size(); ++j) {
                mine[j] += std::exp(scores[j] - row.largest) * share;
            }
        });
    });
}

}  // namespace livekv
