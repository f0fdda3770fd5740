#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/attention.h"
#include "kernels/cpu/kernels.h"

namespace livekv {

// One kv head's keys in f16 rows, a tile of 32 tokens at a time, for those who score them with a few queries.
class key_tiles {
  public:
    static constexpr size_t n_tile = rope_tile;  // tokens of a full one
    using scores = std::array<float, n_tile>;

    // segments: rows of n_head_kv heads. turns: the keys are before RoPE, and each tile is turned to the positions of
    // its segment; null: they are after it.
    key_tiles(const cpu_kernels & kernels, std::span<const kv_segment> segments, int64_t n_head_kv, int64_t head_dim,
              int64_t head, const rope_turns * turns)
        : kernels_(kernels),
          segments_(segments),
          d_(static_cast<size_t>(head_dim)),
          row_(static_cast<size_t>(n_head_kv) * d_),
          offset_(static_cast<size_t>(head) * d_),
          turns_(turns),
          key_(d_),
          tile_(d_ * n_tile) {}

    // f(first, n): of every tile, which of all keys its first one is, and how many it has.
    template <typename F>
    void for_each(F && f) {
        size_t first = 0;
        for (const kv_segment & s : segments_) {
            const auto n_tokens = static_cast<size_t>(s.n_tokens);
            for (size_t t = 0; t < n_tokens; t += n_tile) {
                const size_t n = std::min(n_tile, n_tokens - t);
                load(s.k_rows + t * row_ + offset_, n);
                if (turns_) {
                    turn_tile(*turns_, s.first + static_cast<int64_t>(t), tile_);
                }
                f(first + t, n);
            }
            first += n_tokens;
        }
    }

    // A query's products with the tile's keys, times scale; those behind its n are none.
    void score(const float * q, float scale, scores & out) const {
        out.fill(0.0f);
        for (size_t c = 0; c < d_; ++c) {
            for (size_t j = 0; j < n_tile; ++j) {
                out[j] += q[c] * tile_[c * n_tile + j];
            }
        }
        for (float & s : out) {
            s *= scale;
        }
    }

  private:
    void load(const uint16_t * rows, size_t n) {
        for (size_t j = 0; j < n; ++j) {
            kernels_.to_f32(rows + j * row_, key_.data(), d_);
            for (size_t c = 0; c < d_; ++c) {
                tile_[c * n_tile + j] = key_[c];
            }
        }
    }

    const cpu_kernels & kernels_;
    std::span<const kv_segment> segments_;
    size_t d_;
    size_t row_;     // values of a token, all kv heads
    size_t offset_;  // of the kv head's
    const rope_turns * turns_;
    std::vector<float> key_;
    std::vector<float> tile_;  // [head_dim, n_tile]
};

}  // namespace livekv
