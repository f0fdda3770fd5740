#pragma once

// Decode's second product: a tile's values, in a warp's registers, times the weights its scores become, on top of what
// the warp has summed up so far. s as in step_scores.cuh.

#include "kernels/cuda/fragment.cuh"
#include "kernels/cuda/query.cuh"
#include "kernels/cuda/step_memory.cuh"

namespace livekv::device {

template <int32_t head_dim, int32_t bits>
class step_values {
  public:
    // outliers: [head_dim, step_rows] of this warp, what the values' outliers add; or null, where there are none.
    SIMT_MEMBER step_values(const device_attention & a, step_memory<head_dim> & memory, float * outliers, int32_t head)
        : a_(a),
          mine_(memory.warps[simt::warp()]),
          o_of_(outliers),
          head_(head),
          g_(simt::lane() / 4),
          q_(simt::lane() % 4) {
        for (int32_t i = simt::lane(); o_of_ && i < head_dim * step_rows; i += simt::warp_size) {
            o_of_[i] = 0.0f;
        }
    }

    SIMT_MEMBER void load(const tile_place & p) {
        const device_side & s = chunk_at(a_, p.chunk).v;
        const int32_t tile = p.first / kv_tile_tokens;
        const int32_t n_quads = kv_value_tile_quads(s.n_stored, tile);
        const uint8_t * const codes = block_of(s, head_) + s.codes + kv_value_tile_brick(head_dim, tile) * (8 * bits);
        SIMT_UNROLL
        for (int32_t i = 0; i < 2; ++i) {
            const int32_t quad = 4 * i + quad_of_lane();
            scales_[i] = value_scales_of(s, block_of(s, head_), p.first + 4 * quad);
            SIMT_UNROLL
            for (int32_t t = 0; t < n_steps; ++t) {
                values_[i][t] = quad < n_quads ? brick_part<bits>::load(codes + (t * n_quads + quad) * (8 * bits), g_)
                                               : brick_part<bits>::zeros();
            }
        }
    }

    // Scores become weights; what was summed up before is put into their unit. weights_: the B fragments, for each 16
    // tokens those of quad_of_lane: tokens 0, 2 and 1, 3.
    SIMT_MEMBER void soften(float (&s)[2][4]) {
        float factor[2];
        SIMT_UNROLL
        for (int32_t j = 0; j < 2; ++j) {
            float top = simt::larger(simt::larger(s[0][j], s[0][2 + j]), simt::larger(s[1][j], s[1][2 + j]));
            SIMT_UNROLL
            for (int32_t step = 4; step < 32; step *= 2) {
                top = simt::larger(top, simt::shuffle_xor(top, step));
            }
            const float m = simt::larger(m_[j], top);
            factor[j] = simt::exp2(m_[j] - m);
            m_[j] = m;
            float sum = 0.0f;
            SIMT_UNROLL
            for (int32_t i = 0; i < 2; ++i) {
                SIMT_UNROLL
                for (int32_t half = 0; half < 2; ++half) {
                    s[i][2 * half + j] = simt::exp2(s[i][2 * half + j] - m);
                    sum += s[i][2 * half + j];
                }
            }
            l_[j] = l_[j] * factor[j] + sum;
        }
        if (simt::ballot(factor[0] != 1.0f || factor[1] != 1.0f) != 0) {
            SIMT_UNROLL
            for (int32_t t = 0; t < n_steps; ++t) {
                SIMT_UNROLL
                for (int32_t j = 0; j < 4; ++j) {
                    o_[t][j] *= factor[j % 2];
                }
            }
            scale_outliers(factor);
        }
        const bool odd = (q_ & 1) != 0;
        SIMT_UNROLL
        for (int32_t i = 0; i < 2; ++i) {
            const uint32_t low = simt::transpose(simt::to_halves(s[i][0], s[i][1]));
            const uint32_t high = simt::transpose(simt::to_halves(s[i][2], s[i][3]));
            const uint32_t other = simt::shuffle_xor(odd ? low : high, 1);
            weights_[i][0] = odd ? other : low;
            weights_[i][1] = odd ? high : other;
        }
    }

    // The values loaded last, by the weights made last; s: those weights.
    SIMT_MEMBER void add(const device_side & side, const tile_place & p, const float (&s)[2][4]) {
        SIMT_UNROLL
        for (int32_t i = 0; i < 2; ++i) {
            const simt::four_words grid = grid_of(scales_[i].scales, scales_[i].centres);
            SIMT_UNROLL
            for (int32_t t = 0; t < n_steps; ++t) {
                uint32_t a[4];
                values_[i][t].centred(g_, a);
                scaled(a, grid);
                simt::mma(o_[t], a, weights_[i][0], weights_[i][1]);
            }
        }
        if (o_of_) {
            add_outliers(side, p, s);
        }
    }

    // Exact values: pairs of channels of a token, which a transpose makes pairs of tokens of a channel.
    SIMT_MEMBER void add_rows(const device_side & side, const tile_place & p) {
        SIMT_UNROLL
        for (int32_t i = 0; i < 2; ++i) {
            // Row g of the matrices: the tokens of two columns of the weights, as quad_of_lane orders them.
            const int32_t token = 16 * i + 4 * quad_of(g_ / 2) + g_ % 2 * 2;
            const uint16_t * const even = row_of(a_, side, head_, p.first + token, 2 * q_);
            const uint16_t * const odd = row_of(a_, side, head_, p.first + token + 1, 2 * q_);
            const auto pair = [](const uint16_t * row, bool there, int32_t channel) {
                return simt::transpose(there ? *simt::as<uint32_t>(row + channel) : 0u);
            };
            SIMT_UNROLL
            for (int32_t t = 0; t < n_steps; ++t) {
                const bool even_there = token < p.end;
                const bool odd_there = token + 1 < p.end;
                const uint32_t a[4] = {pair(even, even_there, 16 * t), pair(even, even_there, 16 * t + 8),
                                       pair(odd, odd_there, 16 * t), pair(odd, odd_there, 16 * t + 8)};
                simt::mma(o_[t], a, weights_[i][0], weights_[i][1]);
            }
        }
    }

    // What this warp has, for the others of the block.
    SIMT_MEMBER void leave(step_memory<head_dim> & memory) {
        SIMT_UNROLL
        for (int32_t j = 0; j < 2; ++j) {
            SIMT_UNROLL
            for (int32_t step = 4; step < 32; step *= 2) {
                l_[j] += simt::shuffle_xor(l_[j], step);
            }
            if (g_ == 0) {
                memory.m[simt::warp()][2 * q_ + j] = m_[j];
                memory.l[simt::warp()][2 * q_ + j] = l_[j];
            }
            SIMT_UNROLL
            for (int32_t t = 0; t < n_steps; ++t) {
                SIMT_UNROLL
                for (int32_t half = 0; half < 2; ++half) {
                    const int32_t c = 16 * t + 8 * half + g_;
                    const float apart = o_of_ ? o_of_[c * step_rows + 2 * q_ + j] : 0.0f;
                    memory.o[simt::warp()][2 * q_ + j][c] = o_[t][2 * half + j] + apart;
                }
            }
        }
    }

  private:
    static constexpr int32_t n_steps = head_dim / 16;

    // The four tokens of 16 whose weights this lane holds (soften).
    SIMT_MEMBER int32_t quad_of_lane() const { return quad_of(q_); }
    SIMT_MEMBER static int32_t quad_of(int32_t q) { return q / 2 + q % 2 * 2; }

    SIMT_MEMBER void scale_outliers(const float (&factor)[2]) {
        if (!o_of_) {
            return;
        }
        simt::sync_warp();
        if (g_ == 0) {
            mine_.factor[2 * q_] = factor[0];
            mine_.factor[2 * q_ + 1] = factor[1];
        }
        simt::sync_warp();
        for (int32_t i = simt::lane(); i < head_dim * step_rows; i += simt::warp_size) {
            o_of_[i] *= mine_.factor[i % step_rows];
        }
    }

    // Eight lanes, a row each, go through the tile's outliers in the order of the list.
    SIMT_MEMBER void add_outliers(const device_side & side, const tile_place & p, const float (&s)[2][4]) {
        simt::sync_warp();
        SIMT_UNROLL
        for (int32_t i = 0; i < 2; ++i) {
            SIMT_UNROLL
            for (int32_t j = 0; j < 4; ++j) {
                mine_.scores[16 * i + 8 * (j / 2) + brick_token(g_)][2 * q_ + j % 2] = s[i][j];
            }
        }
        simt::sync_warp();
        const uint8_t * const block = block_of(side, head_);
        const uint32_t n = side.n_outliers;
        if (simt::lane() < step_rows) {
            for (int32_t t = p.begin; t < p.end; ++t) {
                const float weight = mine_.scores[t][simt::lane()];
                const uint32_t first = static_cast<uint32_t>(p.first + t) * n;
                for (uint32_t i = first; i < first + n; ++i) {
                    const uint32_t c = outlier_place_at(side, block, i);
                    o_of_[c * step_rows + static_cast<uint32_t>(simt::lane())] +=
                        weight * simt::to_float(outlier_at(side, block, i));
                }
            }
        }
        simt::sync_warp();
    }

    const device_attention & a_;
    typename step_memory<head_dim>::each_warp & mine_;
    float * o_of_;
    int32_t head_;
    int32_t g_;
    int32_t q_;

    brick_part<bits> values_[2][n_steps];
    value_scales scales_[2];
    uint32_t weights_[2][2] = {};
    float m_[2] = {no_score, no_score};  // of rows 2q and 2q + 1
    float l_[2] = {0.0f, 0.0f};          // of this lane's tokens
    float o_[n_steps][4] = {};           // channels 16 t + g (0, 1) and + 8 (2, 3), rows 2q and 2q + 1
};

}  // namespace livekv::device
