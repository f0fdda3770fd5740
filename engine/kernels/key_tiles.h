#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/attention.h"
#include "kernels/cpu/kernels.h"
#include "kv/kv_pack.h"

namespace livekv {

// One kv head's keys, a tile of 32 tokens at a time, for those who score them with a few queries.
class key_tiles {
  public:
    static constexpr size_t n_tile = rope_tile;  // tokens of a full one
    using scores = std::array<float, n_tile>;

    // segments: rows of n_head_kv heads, or blocks of versions 2, 3 and 4. turns: the keys are before RoPE, and each
    // tile is turned to the positions of its segment; null: they are after it.
    key_tiles(const cpu_kernels & kernels, std::span<const kv_segment> segments, int64_t n_head_kv, int64_t head_dim,
              int64_t head, const rope_turns * turns)
        : kernels_(kernels),
          segments_(segments),
          d_(static_cast<size_t>(head_dim)),
          row_(static_cast<size_t>(n_head_kv) * d_),
          head_(static_cast<size_t>(head)),
          turns_(turns),
          rows_(d_ * n_tile),
          tile_(d_ * n_tile) {}

    // f(first, n): of every tile, which of all keys its first one is, and how many it has.
    template <typename F>
    void for_each(F && f) {
        size_t first = 0;
        for (const kv_segment & s : segments_) {
            const auto n_tokens = static_cast<size_t>(s.n_tokens);
            for (size_t t = 0; t < n_tokens; t += n_tile) {
                const size_t n = std::min(n_tile, n_tokens - t);
                load(s, t, n);
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
    void load(const kv_segment & s, size_t first, size_t n) {
        if (s.k_blocks) {
            unpack_rows(s.k_blocks + head_ * s.k_block_bytes, static_cast<int32_t>(first), static_cast<int32_t>(n),
                        rows_.data());
        } else {
            for (size_t j = 0; j < n; ++j) {
                kernels_.to_f32(s.k_rows + (first + j) * row_ + head_ * d_, rows_.data() + j * d_, d_);
            }
        }
        for (size_t j = 0; j < n; ++j) {
            for (size_t c = 0; c < d_; ++c) {
                tile_[c * n_tile + j] = rows_[j * d_ + c];
            }
        }
    }

    const cpu_kernels & kernels_;
    std::span<const kv_segment> segments_;
    size_t d_;
    size_t row_;  // values of a token, all kv heads
    size_t head_;
    const rope_turns * turns_;
    std::vector<float> rows_;  // [n_tile, head_dim]
    std::vector<float> tile_;  // [head_dim, n_tile]
};

}  // namespace livekv
