#pragma once

// Decode's first product: a tile's keys, as codes in a warp's registers, times its queries. s as in step_keys.cuh.

#include "kernels/cuda/fragment.cuh"
#include "kernels/cuda/step_keys.cuh"

namespace livekv::device {

template <int32_t head_dim, int32_t bits>
class step_scores : public step_keys<head_dim> {
  public:
    SIMT_MEMBER step_scores(const device_attention & a, step_memory<head_dim> & memory,
                            step_key_memory<head_dim, bits> & keys, int32_t head, int32_t first_row)
        : step_keys<head_dim>(a, memory, head, first_row),
          mine_(memory.warps[simt::warp()]),
          grid_(keys.grid),
          q_of_(memory.q) {}

    // Where a tile's key outliers are listed, a tile ahead of reading them (load).
    SIMT_MEMBER void find_outliers(const tile_place & p) {
        const device_side & s = chunk_at(a_, p.chunk).k;
        span_ = key_outliers_of(s, block_of(s, head_), p.first / kv_tile_tokens);
    }

    SIMT_MEMBER const outlier_span & listed() const { return span_; }

    SIMT_MEMBER void load(const tile_place & p) {
        const device_side & s = chunk_at(a_, p.chunk).k;
        apart_ = load_outlier(s, span_.first + static_cast<uint32_t>(simt::lane()), span_.last);
        const uint8_t * const codes = block_of(s, head_) + s.codes;
        SIMT_UNROLL
        for (int32_t i = 0; i < 2; ++i) {
            const int32_t sixteen = p.first / 16 + i;
            const bool there = 16 * sixteen < s.n_stored;
            SIMT_UNROLL
            for (int32_t t = 0; t < n_steps; ++t) {
                const size_t brick = static_cast<size_t>(sixteen) * (head_dim / 4) + static_cast<size_t>(4 * t + q_);
                keys_[i][t] = there ? brick_part<bits>::load(codes + brick * (8 * bits), brick_token(g_))
                                    : brick_part<bits>::zeros();
            }
        }
    }

    // Scores of the keys loaded last, before their unit; listed: their outliers.
    SIMT_MEMBER void of_codes(const device_side & side, const tile_place & p, const outlier_span & listed,
                              float (&s)[2][4]) {
        clear(s);
        prepare_grid(side, block_of(side, head_), p);
        start_with_outliers(side, listed, s);
        SIMT_UNROLL
        for (int32_t t = 0; t < n_steps; ++t) {
            const simt::four_words grid = grid_[4 * t + q_];
            const simt::two_words query = query_[t][simt::lane()];
            SIMT_UNROLL
            for (int32_t i = 0; i < 2; ++i) {
                uint32_t a[4];
                keys_[i][t].centred(brick_token(g_), a);
                scaled(a, grid);
                simt::mma(s[i], a, query.w[0], query.w[1]);
            }
        }
    }

  private:
    // Place and value of outlier number i, or 0.
    SIMT_MEMBER uint32_t load_outlier(const device_side & s, uint32_t i, uint32_t last) const {
        const uint8_t * const block = block_of(s, head_);
        return i < last ? outlier_place_at(s, block, i) << 16 | outlier_at(s, block, i) : 0u;
    }

    // The key grids of the tile's group, in shared memory: every lane wants four channels of each 16.
    SIMT_MEMBER void prepare_grid(const device_side & s, const uint8_t * block, const tile_place & p) {
        const int32_t group = p.first / s.group;
        if (p.chunk == grid_chunk_ && group == grid_group_) {
            return;
        }
        grid_chunk_ = p.chunk;
        grid_group_ = group;
        simt::sync_warp();  // the last grid is no longer read
        for (int32_t i = simt::lane(); i < head_dim / 4; i += simt::warp_size) {
            grid_[i] = key_grid_of(s, block, group * head_dim + 4 * i);
        }
        simt::sync_warp();
    }

    // A lane sums up what one token's outliers add to the scores, in the order of the list.
    SIMT_MEMBER void start_with_outliers(const device_side & side, const outlier_span & span, float (&s)[2][4]) {
        if (span.first == span.last) {
            return;
        }
        float sum[step_rows] = {};
        uint32_t both = apart_;
        for (uint32_t first = span.first; first < span.last; first += simt::warp_size) {
            if (first != span.first) {
                both = load_outlier(side, first + static_cast<uint32_t>(simt::lane()), span.last);
            }
            const int32_t n = static_cast<int32_t>(span.last - first < 32u ? span.last - first : 32u);
            for (int32_t j = 0; j < n; ++j) {
                const uint32_t one = simt::shuffle(both, j);
                if (static_cast<int32_t>(one >> 27) == simt::lane()) {
                    const float x = simt::to_float(static_cast<uint16_t>(one));
                    const float * const q = q_of_[one >> 16 & 0x7ffu];
                    SIMT_UNROLL
                    for (int32_t r = 0; r < step_rows; ++r) {
                        sum[r] += x * q[r];
                    }
                }
            }
        }
        simt::sync_warp();
        SIMT_UNROLL
        for (int32_t r = 0; r < step_rows; ++r) {
            mine_.scores[simt::lane()][r] = sum[r];
        }
        simt::sync_warp();
        SIMT_UNROLL
        for (int32_t i = 0; i < 2; ++i) {
            SIMT_UNROLL
            for (int32_t j = 0; j < 4; ++j) {
                s[i][j] = mine_.scores[16 * i + 8 * (j / 2) + brick_token(g_)][2 * q_ + j % 2];
            }
        }
    }

    using step_keys<head_dim>::a_;
    using step_keys<head_dim>::query_;
    using step_keys<head_dim>::head_;
    using step_keys<head_dim>::g_;
    using step_keys<head_dim>::q_;
    using step_keys<head_dim>::n_steps;
    using step_keys<head_dim>::clear;

    typename step_memory<head_dim>::each_warp & mine_;
    simt::four_words (&grid_)[head_dim / 4];
    const float (&q_of_)[head_dim][step_rows];
    int32_t grid_chunk_ = -1;
    int32_t grid_group_ = -1;

    brick_part<bits> keys_[2][n_steps];
    outlier_span span_;   // of the keys loaded last, or of the tile after them
    uint32_t apart_ = 0;  // this lane's of the first 32 outliers of the keys loaded last
};

}  // namespace livekv::device
