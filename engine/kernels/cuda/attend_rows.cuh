#pragma once

// Prefill: many query rows. A block of threads takes 128 rows of a kv head, 32 a warp, over a span of the context, tile
// by tile of 32 tokens, which become halves in shared memory once for all four warps (rows_stage.cuh). Products as in
// attend_step.cuh, tokens and channels in their natural order.

#include "kernels/cuda/query.cuh"
#include "kernels/cuda/rows_stage.cuh"

namespace livekv::device {

template <int32_t head_dim, int32_t k_bits, int32_t v_bits>
class rows_block {
  public:
    using memory = rows_memory<head_dim, k_bits, v_bits>;

    SIMT_MEMBER rows_block(const device_attention & a, memory & m, int32_t head, int32_t first_row)
        : a_(a),
          memory_(m),
          stage_(a, m, head),
          head_(head),
          first_row_(first_row),
          g_(simt::lane() / 4),
          q_(simt::lane() % 4) {
        for (int32_t i = 0; i < rows_of_warp; ++i) {
            const int32_t r = simt::warp() * rows_of_warp + i;
            float x[head_dim / 32];
            const float power = scaled_query<head_dim>(a, head, first_row + r, x);
            SIMT_UNROLL
            for (int32_t j = 0; j < head_dim / 32; ++j) {
                const int32_t c = simt::lane() + 32 * j;
                *simt::as<uint16_t>(m.q + piece_of<2 * head_dim>(r, c / 8) + c % 8 * 2) = simt::to_half(x[j]);
            }
            if (simt::lane() == 0) {
                m.power[r] = power;
            }
        }
    }

    // Tiles first ... last - 1; all threads of the block.
    SIMT_MEMBER void run(int64_t first, int64_t last) {
        if (first >= last) {
            return;
        }
        int32_t chunk = chunk_of_tile(a_, first);
        tile_place p = place_in(chunk_at(a_, chunk), chunk, first);
        stage_.fetch(p, 0);
        for (int64_t tile = first; tile < last; ++tile) {
            const int32_t turn = static_cast<int32_t>(tile - first) % 2;
            simt::wait_copies();
            simt::sync();  // the codes are there, and nobody reads the tile two before
            stage_.unpack(p, turn);
            simt::sync();  // the tile is there, and nobody reads the codes, nor the tile before
            stage_.add_outliers(p, turn);
            tile_place next = p;
            if (tile + 1 < last) {
                chunk = chunk_of_next(a_, tile + 1, chunk);
                next = place_in(chunk_at(a_, chunk), chunk, tile + 1);
                stage_.fetch(next, turn ^ 1);
            }
            multiply(p, turn);
            p = next;
        }
    }

    SIMT_MEMBER void leave(int32_t span) const {
        SIMT_UNROLL
        for (int32_t n = 0; n < n_columns; ++n) {
            SIMT_UNROLL
            for (int32_t j = 0; j < 2; ++j) {
                const int32_t row = row_of_column(n, j);
                float l = l_[n][j];
                SIMT_UNROLL
                for (int32_t step = 4; step < 32; step *= 2) {
                    l += simt::shuffle_xor(l, step);
                }
                if (row >= a_.n_rows()) {
                    continue;
                }
                const int64_t state = a_.state_of(span, head_, row);
                if (g_ == 0) {
                    a_.partial_m[state] = m_[n][j];
                    a_.partial_l[state] = l;
                }
                SIMT_UNROLL
                for (int32_t t = 0; t < n_steps; ++t) {
                    a_.partial_o[state * head_dim + 16 * t + g_] = o_[t][n][j];
                    a_.partial_o[state * head_dim + 16 * t + 8 + g_] = o_[t][n][2 + j];
                }
            }
        }
    }

  private:
    static constexpr int32_t n_steps = head_dim / 16;
    static constexpr int32_t n_columns = rows_of_warp / 8;  // eights of query rows

    // Row of the warp's column 8 n + 2 q + j, as the head counts them.
    SIMT_MEMBER int32_t row_of_column(int32_t n, int32_t j) const {
        return first_row_ + simt::warp() * rows_of_warp + 8 * n + 2 * q_ + j;
    }

    SIMT_MEMBER void multiply(const tile_place & p, int32_t turn) {
        const int32_t lane = simt::lane();
        if constexpr (k_bits == bits_by_class) {
            if (chunk_at(a_, p.chunk).k.block_bytes != 0 && stage_.keys().another_group()) {
                take_levels();
            }
        }
        float s[2][n_columns][4];
        SIMT_UNROLL
        for (int32_t i = 0; i < 2; ++i) {
            SIMT_UNROLL
            for (int32_t n = 0; n < n_columns; ++n) {
                SIMT_UNROLL
                for (int32_t j = 0; j < 4; ++j) {
                    s[i][n][j] = 0.0f;
                }
            }
        }
        SIMT_UNROLL_2
        for (int32_t t = 0; t < n_steps; ++t) {
            uint32_t b[n_columns / 2][4];
            load_queries(t, b);
            SIMT_UNROLL
            for (int32_t i = 0; i < 2; ++i) {
                uint32_t a[4];
                const int32_t token = 16 * i + lane / 8 % 2 * 8 + lane % 8;
                simt::load_matrices(a, memory_.k[turn] + piece_of<2 * head_dim>(token, 2 * t + lane / 16));
                SIMT_UNROLL
                for (int32_t n = 0; n < n_columns; ++n) {
                    simt::mma(s[i][n], a, b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
                }
            }
        }
        hide(p, s);
        uint32_t weights[2][n_columns][2];
        SIMT_UNROLL
        for (int32_t n = 0; n < n_columns; ++n) {
            soften(n, s[0][n], s[1][n]);
            SIMT_UNROLL
            for (int32_t i = 0; i < 2; ++i) {
                weights[i][n][0] = simt::transpose(simt::to_halves(s[i][n][0], s[i][n][1]));
                weights[i][n][1] = simt::transpose(simt::to_halves(s[i][n][2], s[i][n][3]));
            }
        }
        const bool sealed = chunk_at(a_, p.chunk).v.block_bytes != 0;
        SIMT_UNROLL
        for (int32_t t = 0; t < n_steps; ++t) {
            SIMT_UNROLL
            for (int32_t i = 0; i < 2; ++i) {
                uint32_t a[4];
                if (sealed) {
                    const int32_t channel = 16 * t + lane / 8 % 2 * 8 + lane % 8;
                    simt::load_matrices(a, memory_.v[turn] + piece_of<2 * kv_tile_tokens>(channel, 2 * i + lane / 16));
                } else {
                    const int32_t token = 16 * i + lane / 16 * 8 + lane % 8;
                    simt::load_matrices_transposed(
                        a, memory_.v[turn] + piece_of<2 * head_dim>(token, 2 * t + lane / 8 % 2));
                }
                SIMT_UNROLL
                for (int32_t n = 0; n < n_columns; ++n) {
                    simt::mma(o_[t][n], a, weights[i][n][0], weights[i][n][1]);
                }
            }
        }
    }

    // Channels 16 t and up of the warp's queries. b: rows 16 i + 0 ... 7: b0, b1; + 8 ... 15: b0, b1.
    SIMT_MEMBER void load_queries(int32_t t, uint32_t (&b)[n_columns / 2][4]) const {
        const int32_t lane = simt::lane();
        SIMT_UNROLL
        for (int32_t i = 0; i < n_columns / 2; ++i) {
            const int32_t row = simt::warp() * rows_of_warp + 16 * i + lane / 16 * 8 + lane % 8;
            simt::load_matrices(b[i], memory_.q + piece_of<2 * head_dim>(row, 2 * t + lane / 8 % 2));
        }
    }

    // What the levels of a group of keys in classes of width add to the scores of the warp's rows.
    SIMT_MEMBER void take_levels() {
        float x[n_columns][4] = {};
        SIMT_UNROLL_2
        for (int32_t t = 0; t < n_steps; ++t) {
            uint32_t a[4];
            stage_.keys().levels(t, a);
            uint32_t b[n_columns / 2][4];
            load_queries(t, b);
            SIMT_UNROLL
            for (int32_t n = 0; n < n_columns; ++n) {
                simt::mma(x[n], a, b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
            }
        }
        simt::sync_warp();  // the last group's are no longer read
        SIMT_UNROLL
        for (int32_t n = 0; n < n_columns; ++n) {
            SIMT_UNROLL
            for (int32_t j = 0; j < 2; ++j) {
                const float both = x[n][j] + simt::shuffle_xor(x[n][j], 4);  // lanes of g 0 and 1: upper and lower
                if (g_ == 0) {
                    memory_.keys.offset[simt::warp() * rows_of_warp + 8 * n + 2 * q_ + j] = both;
                }
            }
        }
        simt::sync_warp();
    }

    // Scores into their unit, and those of tokens a row does not see out of sight.
    SIMT_MEMBER void hide(const tile_place & p, float (&s)[2][n_columns][4]) const {
        const bool open = p.chunk == a_.n_chunks + 1;
        const bool whole = !open && p.begin == 0 && p.end == kv_tile_tokens;
        SIMT_UNROLL
        for (int32_t n = 0; n < n_columns; ++n) {
            SIMT_UNROLL
            for (int32_t j = 0; j < 2; ++j) {
                const int32_t of_block = simt::warp() * rows_of_warp + 8 * n + 2 * q_ + j;
                const float power = memory_.power[of_block];
                float offset = 0.0f;
                if constexpr (k_bits == bits_by_class) {
                    offset = chunk_at(a_, p.chunk).k.block_bytes != 0 ? memory_.keys.offset[of_block] : 0.0f;
                }
                const int32_t seen = open ? open_tokens_of(a_, row_of_column(n, j)) - p.first : kv_tile_tokens;
                SIMT_UNROLL
                for (int32_t i = 0; i < 4; ++i) {
                    float & x = s[i / 2][n][i % 2 * 2 + j];
                    const int32_t token = 16 * (i / 2) + 8 * (i % 2) + g_;
                    x = whole || (token >= p.begin && token < p.end && token < seen)
                            ? (k_bits == bits_by_class ? x + offset : x) * power
                            : -INFINITY;
                }
            }
        }
    }

    SIMT_MEMBER void soften(int32_t n, float (&low)[4], float (&high)[4]) {
        float factor[2];
        SIMT_UNROLL
        for (int32_t j = 0; j < 2; ++j) {
            float top = simt::larger(simt::larger(low[j], low[2 + j]), simt::larger(high[j], high[2 + j]));
            SIMT_UNROLL
            for (int32_t step = 4; step < 32; step *= 2) {
                top = simt::larger(top, simt::shuffle_xor(top, step));
            }
            const float m = simt::larger(m_[n][j], top);
            factor[j] = simt::exp2(m_[n][j] - m);
            m_[n][j] = m;
            float sum = 0.0f;
            SIMT_UNROLL
            for (int32_t half = 0; half < 2; ++half) {
                low[2 * half + j] = simt::exp2(low[2 * half + j] - m);
                high[2 * half + j] = simt::exp2(high[2 * half + j] - m);
                sum += low[2 * half + j] + high[2 * half + j];
            }
            l_[n][j] = l_[n][j] * factor[j] + sum;
        }
        if (simt::ballot(factor[0] != 1.0f || factor[1] != 1.0f) != 0) {
            SIMT_UNROLL
            for (int32_t t = 0; t < n_steps; ++t) {
                SIMT_UNROLL
                for (int32_t j = 0; j < 4; ++j) {
                    o_[t][n][j] *= factor[j % 2];
                }
            }
        }
    }

    const device_attention & a_;
    memory & memory_;
    tile_stage<head_dim, k_bits, v_bits> stage_;
    int32_t head_;
    int32_t first_row_;
    int32_t g_;
    int32_t q_;
    float m_[n_columns][2] = {{no_score, no_score}, {no_score, no_score}, {no_score, no_score}, {no_score, no_score}};
    float l_[n_columns][2] = {};
    float o_[n_steps][n_columns][4] = {};  // channels 16 t + g (0, 1) and + 8 (2, 3), rows as row_of_column
};

// Grid: x: tiles of 128 rows, y: kv heads, z: spans.
template <int32_t head_dim, int32_t k_bits, int32_t v_bits>
SIMT_KERNEL void SIMT_BOUNDS(rows_threads, 2) attend_rows_kernel(const SIMT_PARAM device_attention a) {
    auto & memory = *simt::as<rows_memory<head_dim, k_bits, v_bits>>(simt::shared());
    const int32_t first_row = simt::block_x() * rows_of_block;
    rows_block<head_dim, k_bits, v_bits> mine(a, memory, simt::block_y(), first_row);
    // Open tokens behind those the last row sees are left out.
    const int32_t last_row = first_row + rows_of_block < a.n_rows() ? first_row + rows_of_block - 1 : a.n_rows() - 1;
    const int64_t n_tiles = a.open_tile() + kv_ceil_div(open_tokens_of(a, last_row), kv_tile_tokens);
    mine.run(n_tiles * simt::block_z() / a.n_spans, n_tiles * (simt::block_z() + 1) / a.n_spans);
    mine.leave(simt::block_z());
}

}  // namespace livekv::device
