#include "kernels/window_scores.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

namespace livekv {

namespace {

constexpr size_t tile_tokens = 32;

// A row is a query of one of the heads that share the kv head: its window token and what softmax makes of its scores.
struct window_row {
    const float * q;
    size_t n_seen;  // keys
    float largest = -std::numeric_limits<float>::infinity();
    double sum = 0.0;
};

class scorer {
  public:
    scorer(const cpu_kernels & kernels, const window_queries & queries, std::span<const kv_segment> segments,
           int64_t head)
        : kernels_(kernels),
          segments_(segments),
          d_(static_cast<size_t>(queries.head_dim)),
          row_(static_cast<size_t>(queries.n_head_kv) * d_),
          offset_(static_cast<size_t>(head) * d_),
          scale_(queries.scale),
          key_(d_),
          tile_(d_ * tile_tokens) {}

    // f(row, first, scores): of every row and tile, the scores of the keys from first on that the row sees.
    template <typename F>
    void for_each_tile(std::span<window_row> rows, F && f) {
        size_t first = 0;
        for (const kv_segment & s : segments_) {
            const auto n_tokens = static_cast<size_t>(s.n_tokens);
            for (size_t t = 0; t < n_tokens; t += tile_tokens) {
                const size_t n = std::min(tile_tokens, n_tokens - t);
                load(s.k_rows + t * row_ + offset_, n);
                for (window_row & row : rows) {
                    if (row.n_seen > first + t) {
                        f(row, first + t, scores_of(row.q).first(std::min(n, row.n_seen - first - t)));
                    }
                }
            }
            first += n_tokens;
        }
    }

  private:
    void load(const uint16_t * rows, size_t n) {
        for (size_t j = 0; j < n; ++j) {
            kernels_.to_f32(rows + j * row_, key_.data(), d_);
            for (size_t c = 0; c < d_; ++c) {
                tile_[c * tile_tokens + j] = key_[c];
            }
        }
    }

    std::span<const float> scores_of(const float * q) {
        scores_.fill(0.0f);
        for (size_t c = 0; c < d_; ++c) {
            for (size_t j = 0; j < tile_tokens; ++j) {
                scores_[j] += q[c] * tile_[c * tile_tokens + j];
            }
        }
        for (float & s : scores_) {
            s *= scale_;
        }
        return scores_;
    }

    const cpu_kernels & kernels_;
    std::span<const kv_segment> segments_;
    size_t d_;
    size_t row_;     // values of a token, all kv heads
    size_t offset_;  // of the kv head's
    float scale_;
    std::vector<float> key_;
    std::vector<float> tile_;  // [head_dim, tile_tokens]
    std::array<float, tile_tokens> scores_;
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
    scorer of_keys(kernels, queries, segments, head);
    of_keys.for_each_tile(rows, [](window_row & row, size_t, std::span<const float> scores) {
        const float largest = std::max(row.largest, *std::ranges::max_element(scores));
        row.sum *= std::exp(static_cast<double>(row.largest) - largest);
        for (const float s : scores) {
            row.sum += std::exp(s - largest);
        }
        row.largest = largest;
    });
    std::vector<float> a(group * n_before);  // kv_fastkv.h
    of_keys.for_each_tile(rows, [&](const window_row & row, size_t first, std::span<const float> scores) {
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
