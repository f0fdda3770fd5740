#pragma once

// Prefill: many query rows. A block of threads takes 128 rows of a kv head, 32 a warp, over a span of the context, tile
// by tile of 32 tokens. A tile's codes become halves in shared memory once for all four warps, outliers are written
// over them there, and while one tile is multiplied the next one's codes are on their way; exact rows are copied as
// they are. Products as in attend_step.cuh, tokens and channels in their natural order.
//
//   shared memory    queries  [128, head_dim]        f16, 16-byte pieces exchanged within a row (swizzle)
//                    keys     [2][32, head_dim]      f16, likewise
//                    values   [2] sealed: [head_dim, 32], exact: [32, head_dim]
//                    power    [128]                  of the scaled queries

#include "kernels/cuda/fragment.cuh"
#include "kernels/cuda/query.cuh"

namespace livekv::device {

constexpr int32_t rows_warps = 4;
constexpr int32_t rows_threads = rows_warps * simt::warp_size;
constexpr int32_t rows_of_warp = 32;
constexpr int32_t rows_of_block = rows_warps * rows_of_warp;

// Byte offset of 16-byte piece i of row r, rows of n bytes: what eight consecutive rows have at the same place lies in
// different banks.
template <int32_t row_bytes>
SIMT_FN int32_t piece_of(int32_t r, int32_t i) {
    constexpr int32_t n_pieces = row_bytes / 16;
    const int32_t turn = n_pieces >= 8 ? r % 8 : r / (8 / n_pieces) % n_pieces;
    return r * row_bytes + 16 * (i ^ turn);
}

template <int32_t head_dim>
struct rows_memory {
    static constexpr int32_t row_bytes = 2 * head_dim;
    static constexpr int32_t token_bytes = 2 * kv_tile_tokens;

    alignas(128) uint8_t q[rows_of_block * row_bytes];
    alignas(128) uint8_t k[2][kv_tile_tokens * row_bytes];
    alignas(128) uint8_t v[2][kv_tile_tokens * row_bytes];
    float power[rows_of_block];
};

// One side of one tile on its way into shared memory: the codes this thread unpacks.
template <int32_t head_dim, int32_t bits>
class tile_stager {
  public:
    // A lane's share: bricks warp, warp + 4, ... of the tile's, row pair lane / 4 of bricks lane % 4 of each four.
    static constexpr int32_t n_parts = head_dim / 16 * 2 / rows_warps;

    // Keys: four bricks of 16 tokens by 16 channels; values: four of 16 channels by 16 tokens. part: 0 ... 2 head_dim /
    // 16
    SIMT_MEMBER void load_keys(const device_side & s, const uint8_t * block, int32_t first) {
        SIMT_UNROLL
        for (int32_t i = 0; i < n_parts; ++i) {
            const int32_t part = simt::warp() + rows_warps * i;
            const int32_t sixteen = first / 16 + part % 2;
            const size_t brick =
                static_cast<size_t>(sixteen) * (head_dim / 4) + static_cast<size_t>(part / 2 * 4 + simt::lane() % 4);
            parts_[i] = 16 * sixteen < s.n_stored
                            ? brick_part<bits>::load(block + s.codes + brick * (8 * bits), simt::lane() / 4)
                            : brick_part<bits>::zeros();
        }
    }
    SIMT_MEMBER void load_values(const device_side & s, const uint8_t * block, int32_t first) {
        const int32_t tile = first / kv_tile_tokens;
        const int32_t n_quads = kv_value_tile_quads(s.n_stored, tile);
        const uint8_t * const codes = block + s.codes + kv_value_tile_brick(head_dim, tile) * (8 * bits);
        SIMT_UNROLL
        for (int32_t i = 0; i < n_parts; ++i) {
            const int32_t part = simt::warp() + rows_warps * i;
            const int32_t quad = part % 2 * 4 + simt::lane() % 4;
            parts_[i] = quad < n_quads
                            ? brick_part<bits>::load(codes + (part / 2 * n_quads + quad) * (8 * bits), simt::lane() / 4)
                            : brick_part<bits>::zeros();
        }
    }

    // keys: [32, head_dim] of the tile.
    SIMT_MEMBER void write_keys(const device_side & s, const uint8_t * block, int32_t first, uint8_t * keys) const {
        const int32_t g = simt::lane() / 4;
        SIMT_UNROLL
        for (int32_t i = 0; i < n_parts; ++i) {
            const int32_t part = simt::warp() + rows_warps * i;
            const int32_t channel = part / 2 * 16 + simt::lane() % 4 * 4;
            write(parts_[i], g, key_grid_of(s, block, first / s.group * head_dim + channel),
                  keys + piece_of<2 * head_dim>(part % 2 * 16 + g, channel / 8) + channel % 8 * 2,
                  keys + piece_of<2 * head_dim>(part % 2 * 16 + g + 8, channel / 8) + channel % 8 * 2);
        }
    }
    // values: [head_dim, 32] of the tile.
    SIMT_MEMBER void write_values(const device_side & s, const uint8_t * block, int32_t first, uint8_t * values) const {
        const int32_t g = simt::lane() / 4;
        SIMT_UNROLL
        for (int32_t i = 0; i < n_parts; ++i) {
            const int32_t part = simt::warp() + rows_warps * i;
            const int32_t token = part % 2 * 16 + simt::lane() % 4 * 4;
            const value_scales four = value_scales_of(s, block, first + token);
            write(parts_[i], g, grid_of(four.scales, four.centres),
                  values + piece_of<2 * kv_tile_tokens>(part / 2 * 16 + g, token / 8) + token % 8 * 2,
                  values + piece_of<2 * kv_tile_tokens>(part / 2 * 16 + g + 8, token / 8) + token % 8 * 2);
        }
    }

  private:
    SIMT_MEMBER static void write(const brick_part<bits> & part, int32_t g, const simt::four_words & grid,
                                  uint8_t * row, uint8_t * row_8) {
        uint32_t a[4];
        part.centred(g, a);
        scaled(a, grid);
        const auto natural = [](uint32_t even, uint32_t odd) {  // columns 0 2 | 1 3 to 0 1 | 2 3
            return simt::two_words{{simt::bytes_of(even, odd, 0x5410u), simt::bytes_of(even, odd, 0x7632u)}};
        };
        *simt::as<simt::two_words>(row) = natural(a[0], a[2]);
        *simt::as<simt::two_words>(row_8) = natural(a[1], a[3]);
    }

    brick_part<bits> parts_[n_parts];
};

template <int32_t head_dim, int32_t k_bits, int32_t v_bits>
class rows_block {
  public:
    SIMT_MEMBER rows_block(const device_attention & a, rows_memory<head_dim> & memory, int32_t head, int32_t first_row)
        : a_(a), memory_(memory), head_(head), first_row_(first_row), g_(simt::lane() / 4), q_(simt::lane() % 4) {
        for (int32_t i = 0; i < rows_of_warp; ++i) {
            const int32_t r = simt::warp() * rows_of_warp + i;
            float x[head_dim / 32];
            const float power = scaled_query<head_dim>(a, head, first_row + r, x);
            SIMT_UNROLL
            for (int32_t j = 0; j < head_dim / 32; ++j) {
                const int32_t c = simt::lane() + 32 * j;
                *simt::as<uint16_t>(memory.q + piece_of<2 * head_dim>(r, c / 8) + c % 8 * 2) = simt::to_half(x[j]);
            }
            if (simt::lane() == 0) {
                memory.power[r] = power;
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
        load(p, 0);
        write(p, 0);
        for (int64_t tile = first; tile < last; ++tile) {
            const int32_t turn = static_cast<int32_t>(tile - first) % 2;
            simt::wait_copies();
            simt::sync();  // this tile is there, and nobody reads the one before it any more
            write_outliers(p, turn);
            tile_place next = p;
            if (tile + 1 < last) {
                chunk = chunk_of_next(a_, tile + 1, chunk);
                next = place_in(chunk_at(a_, chunk), chunk, tile + 1);
                load(next, turn ^ 1);
            }
            multiply(p, turn);
            if (tile + 1 < last) {
                write(next, turn ^ 1);
            }
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

    SIMT_MEMBER void load(const tile_place & p, int32_t turn) {
        const device_chunk & c = chunk_at(a_, p.chunk);
        if (c.k.block_bytes == 0) {
            copy_rows(c.k, p, memory_.k[turn]);
        } else {
            k_.load_keys(c.k, block_of(c.k, head_), p.first);
        }
        if (c.v.block_bytes == 0) {
            copy_rows(c.v, p, memory_.v[turn]);
        } else {
            v_.load_values(c.v, block_of(c.v, head_), p.first);
        }
    }
    SIMT_MEMBER void write(const tile_place & p, int32_t turn) {
        const device_chunk & c = chunk_at(a_, p.chunk);
        if (c.k.block_bytes != 0) {
            k_.write_keys(c.k, block_of(c.k, head_), p.first, memory_.k[turn]);
        }
        if (c.v.block_bytes != 0) {
            v_.write_values(c.v, block_of(c.v, head_), p.first, memory_.v[turn]);
        }
    }

    SIMT_MEMBER void copy_rows(const device_side & s, const tile_place & p, uint8_t * to) const {
        for (int32_t i = simt::thread(); i < kv_tile_tokens * (head_dim / 8); i += rows_threads) {
            const int32_t t = i / (head_dim / 8);
            const int32_t piece = i % (head_dim / 8);
            const bool there = t < p.end;
            simt::copy_16(to + piece_of<2 * head_dim>(t, piece),
                          row_of(a_, s, head_, there ? p.first + t : p.first, 8 * piece), there);
        }
    }

    // Outliers are added to what their codes stand for.
    SIMT_MEMBER void write_outliers(const tile_place & p, int32_t turn) {
        const device_chunk & c = chunk_at(a_, p.chunk);
        const bool k_apart = c.k.block_bytes != 0 && c.k.n_outliers > 0;
        const bool v_apart = c.v.block_bytes != 0 && c.v.n_outliers > 0;
        const auto add = [](uint8_t * at, uint16_t x) {
            auto * const h = simt::as<uint16_t>(at);
            *h = simt::to_half(simt::to_float(*h) + simt::to_float(x));
        };
        if (k_apart) {
            const uint8_t * const block = block_of(c.k, head_);
            const outlier_span span = key_outliers_of(c.k, block, p.first / kv_tile_tokens);
            for (uint32_t i = span.first + static_cast<uint32_t>(simt::thread()); i < span.last; i += rows_threads) {
                const int32_t place = static_cast<int32_t>(outlier_place_at(c.k, block, i));
                const int32_t channel = place & 0x7ff;
                add(memory_.k[turn] + piece_of<2 * head_dim>(place >> 11, channel / 8) + channel % 8 * 2,
                    outlier_at(c.k, block, i));
            }
        }
        if (v_apart) {
            const uint8_t * const block = block_of(c.v, head_);
            const int32_t each = c.v.n_outliers;
            const int32_t n = c.v.n_stored - p.first < kv_tile_tokens ? c.v.n_stored - p.first : kv_tile_tokens;
            for (int32_t i = simt::thread(); i < n * each; i += rows_threads) {
                const int32_t t = i / each;
                const uint32_t at = static_cast<uint32_t>(p.first * each + i);
                const int32_t channel = static_cast<int32_t>(outlier_place_at(c.v, block, at));
                add(memory_.v[turn] + piece_of<2 * kv_tile_tokens>(channel, t / 8) + t % 8 * 2,
                    outlier_at(c.v, block, at));
            }
        }
        if (k_apart || v_apart) {
            simt::sync();
        }
    }

    SIMT_MEMBER void multiply(const tile_place & p, int32_t turn) {
        const int32_t lane = simt::lane();
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
            uint32_t b[n_columns / 2][4];  // rows 16 i + 0 ... 7: b0, b1; + 8 ... 15: b0, b1
            SIMT_UNROLL
            for (int32_t i = 0; i < n_columns / 2; ++i) {
                const int32_t row = simt::warp() * rows_of_warp + 16 * i + lane / 16 * 8 + lane % 8;
                simt::load_matrices(b[i], memory_.q + piece_of<2 * head_dim>(row, 2 * t + lane / 8 % 2));
            }
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

    // Scores into their unit, and those of tokens a row does not see out of sight.
    SIMT_MEMBER void hide(const tile_place & p, float (&s)[2][n_columns][4]) const {
        const bool open = p.chunk == a_.n_chunks + 1;
        const bool whole = !open && p.begin == 0 && p.end == kv_tile_tokens;
        SIMT_UNROLL
        for (int32_t n = 0; n < n_columns; ++n) {
            SIMT_UNROLL
            for (int32_t j = 0; j < 2; ++j) {
                const float power = memory_.power[simt::warp() * rows_of_warp + 8 * n + 2 * q_ + j];
                const int32_t seen = open ? open_tokens_of(a_, row_of_column(n, j)) - p.first : kv_tile_tokens;
                SIMT_UNROLL
                for (int32_t i = 0; i < 4; ++i) {
                    float & x = s[i / 2][n][i % 2 * 2 + j];
                    const int32_t token = 16 * (i / 2) + 8 * (i % 2) + g_;
                    x = whole || (token >= p.begin && token < p.end && token < seen) ? x * power : -INFINITY;
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
    rows_memory<head_dim> & memory_;
    int32_t head_;
    int32_t first_row_;
    int32_t g_;
    int32_t q_;
    tile_stager<head_dim, k_bits> k_;
    tile_stager<head_dim, v_bits> v_;
    float m_[n_columns][2] = {{no_score, no_score}, {no_score, no_score}, {no_score, no_score}, {no_score, no_score}};
    float l_[n_columns][2] = {};
    float o_[n_steps][n_columns][4] = {};  // channels 16 t + g (0, 1) and + 8 (2, 3), rows as row_of_column
};

// Grid: x: tiles of 128 rows, y: kv heads, z: spans.
template <int32_t head_dim, int32_t k_bits, int32_t v_bits>
SIMT_KERNEL void SIMT_BOUNDS(rows_threads, 2) attend_rows_kernel(const SIMT_PARAM device_attention a) {
    auto & memory = *simt::as<rows_memory<head_dim>>(simt::shared());
    const int32_t first_row = simt::block_x() * rows_of_block;
    rows_block<head_dim, k_bits, v_bits> mine(a, memory, simt::block_y(), first_row);
    // Open tokens behind those the last row sees are left out.
    const int32_t last_row = first_row + rows_of_block < a.n_rows() ? first_row + rows_of_block - 1 : a.n_rows() - 1;
    const int64_t n_tiles = a.open_tile() + kv_ceil_div(open_tokens_of(a, last_row), kv_tile_tokens);
    mine.run(n_tiles * simt::block_z() / a.n_spans, n_tiles * (simt::block_z() + 1) / a.n_spans);
    mine.leave(simt::block_z());
}

}  // namespace livekv::device
