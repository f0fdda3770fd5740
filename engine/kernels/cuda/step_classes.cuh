#pragma once

// Decode's first product of keys in classes of width: codes come into a warp's shared memory, a tile ahead, as where
// they lie and how wide they are is the block's. s as in step_keys.cuh.

#include "kernels/cuda/step_keys.cuh"
#include "kernels/cuda/step_scores.cuh"

namespace livekv::device {

template <int32_t head_dim>
class step_scores<head_dim, bits_by_class> : public step_keys<head_dim> {
  public:
    SIMT_MEMBER step_scores(const device_attention & a, step_memory<head_dim> & memory,
                            step_key_memory<head_dim, bits_by_class> & keys, int32_t head, int32_t first_row)
        : step_keys<head_dim>(a, memory, head, first_row), mine_(keys), q_of_(memory.q) {}

    // Nothing of them is stored apart.
    SIMT_MEMBER void find_outliers(const tile_place &) const {}
    SIMT_MEMBER outlier_span listed() const { return {0, 0}; }

    SIMT_MEMBER void load(const tile_place & p) {
        const device_side & s = chunk_at(a_, p.chunk).k;
        simt::sync_warp();  // the tile before is no longer read
        another_block_ = p.chunk != position_.chunk;
        another_group_ = fetch_classes(s, block_of(s, head_), p, simt::lane(), simt::warp_size, position_, mine_.block);
    }

    // Scores of the keys loaded last, before their unit.
    SIMT_MEMBER void of_codes(const device_side & side, const tile_place &, const outlier_span &, float (&s)[2][4]) {
        clear(s);
        simt::wait_copies();
        simt::sync_warp();
        if (another_block_) {
            take_order();
        }
        if (another_group_) {
            take_levels();
        }
        const int32_t r = brick_token(g_);
        SIMT_UNROLL_2
        for (int32_t t = 0; t < n_steps; ++t) {
            if ((simt::shuffle(place_, 4 * t) & 255u) == 0) {
                break;  // the others have no width either
            }
            const uint32_t place = simt::shuffle(place_, 4 * t + q_);
            uint32_t a[2][4];
            centred_bricks(static_cast<int32_t>(place & 255u), mine_.block.codes + (place >> 8), 8 * side.width_sum, r,
                           a);
            const simt::four_words grid = mine_.block.quad_grid(4 * t + q_);
            const simt::two_words query = mine_.query[t][simt::lane()];
            SIMT_UNROLL
            for (int32_t i = 0; i < 2; ++i) {
                scaled(a[i], grid);
                simt::mma(s[i], a[i], query.w[0], query.w[1]);
            }
        }
        SIMT_UNROLL
        for (int32_t i = 0; i < 8; ++i) {
            s[i / 4][i % 4] += mine_.offset[2 * q_ + i % 2];
        }
    }

  private:
    using step_keys<head_dim>::a_;
    using step_keys<head_dim>::head_;
    using step_keys<head_dim>::g_;
    using step_keys<head_dim>::q_;
    using step_keys<head_dim>::n_steps;
    using step_keys<head_dim>::clear;

    // The block's order: its queries in it, and where its quads lie.
    SIMT_MEMBER void take_order() {
        place_ = place_of_lane(mine_.block);
        SIMT_UNROLL
        for (int32_t t = 0; t < n_steps; ++t) {
            const auto at = [&](int32_t i) { return q_of_[mine_.block.order[16 * t + 4 * q_ + i]][g_]; };
            mine_.query[t][simt::lane()] = {{simt::to_halves(at(0), at(2)), simt::to_halves(at(1), at(3))}};
        }
    }

    // What the group's levels add to the scores: a lane has a channel of 32, and of their sums over the lanes a row.
    SIMT_MEMBER void take_levels() {
        float sum[step_rows] = {};
        SIMT_UNROLL
        for (int32_t i = 0; i < head_dim / simt::warp_size; ++i) {
            const int32_t place = simt::lane() + simt::warp_size * i;
            const float level = mine_.block.level(place);
            const float (&q)[step_rows] = q_of_[mine_.block.order[place]];
            SIMT_UNROLL
            for (int32_t r = 0; r < step_rows; ++r) {
                sum[r] += q[r] * level;
            }
        }
        SIMT_UNROLL
        for (int32_t r = 0; r < step_rows; ++r) {
            SIMT_UNROLL
            for (int32_t step = 1; step < simt::warp_size; step *= 2) {
                sum[r] += simt::shuffle_xor(sum[r], step);
            }
            if (simt::lane() == 0) {
                mine_.offset[r] = sum[r];
            }
        }
        simt::sync_warp();
    }

    step_key_memory<head_dim, bits_by_class> & mine_;
    const float (&q_of_)[head_dim][step_rows];
    class_position position_;  // of the keys loaded last
    bool another_block_ = false;
    bool another_group_ = false;
    uint32_t place_ = 0;  // place_of_lane of the block
};

}  // namespace livekv::device
