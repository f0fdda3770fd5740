#pragma once

// f16 rows of keys and values, sinks and the open chunk, in attention of a few rows. Internal linkage.

#include "kernels/cpu/step_scratch.h"

namespace livekv {
namespace {

// n of a segment's f16 keys or values from the tile's first on, widened: s.rows [n, d32]. A head's are a few lines of
// each token's row, which the processor does not see coming: the next tile's are asked for, a token at a time because
// many requests at once get lost.
inline void load_rows(const attention_args & args, int32_t head, const uint16_t * from, int32_t tile, int32_t n,
                      const step_scratch & s) {
    const size_t d = static_cast<size_t>(args.head_dim);
    const size_t stride = static_cast<size_t>(args.n_head_kv) * d;
    const uint16_t * row = from + static_cast<size_t>(tile) * tile_tokens * stride + static_cast<size_t>(head) * d;
    for (int32_t t = 0; t < n; ++t, row += stride) {
        for (size_t c = 0; c < d; c += 32) {
            __builtin_prefetch(row + tile_tokens * stride + c);
        }
        float * const to = s.row(s.rows, t);
        lanes::to_f32(row, to, d);
        for (size_t c = d; c < s.d32; ++c) {
            to[c] = 0.0f;
        }
    }
}

// scores [row ..., tile_tokens] of the n tokens in s.rows, two at a time; of others they are left as they come.
template <int32_t n_rows>
inline void row_scores(const step_scratch & s, int32_t row, int32_t n, float * scores) {
    for (int32_t t = 0; t < n; t += 2) {
        f32 sum[2][4];
        for (int32_t r = 0; r < 4; ++r) {
            sum[0][r] = sum[1][r] = lanes::set(0.0f);
        }
        for (size_t c = 0; c < s.d32; c += lanes::n) {
            const f32 k[2] = {lanes::load(s.row(s.rows, t) + c), lanes::load(s.row(s.rows, t + 1) + c)};
            for (int32_t r = 0; r < n_rows; ++r) {
                const f32 q = lanes::load(s.row(s.q, row + r) + c);
                sum[0][r] = lanes::fma(q, k[0], sum[0][r]);
                sum[1][r] = lanes::fma(q, k[1], sum[1][r]);
            }
        }
        lanes::sum_4(sum[0], s.s_of + 4 * t);
        lanes::sum_4(sum[1], s.s_of + 4 * t + 4);
    }
    for (int32_t t = 0; t < tile_tokens; t += n_pair * lanes::n) {
        f32 columns[4][n_pair];
        lanes::columns_4(s.s_of + 4 * t, columns);
        for (int32_t r = 0; r < n_rows; ++r) {
            for (int32_t v = 0; v < n_pair; ++v) {
                lanes::store(scores + (row + r) * tile_tokens + t + v * lanes::n, columns[r][v]);
            }
        }
    }
}

// The same of keys in columns, of all tokens of a tile.
template <int32_t n_rows>
inline void column_scores(const step_scratch & s, int32_t d, int32_t row, float * scores) {
    for (int32_t t = 0; t < tile_tokens; t += n_pair * lanes::n) {
        f32 sum[n_rows][n_pair];
        for (int32_t r = 0; r < n_rows; ++r) {
            sum[r][0] = sum[r][1] = lanes::set(0.0f);
        }
        for (int32_t c = 0; c < d; ++c) {
            const float * const x = s.channels.x + c * tile_tokens + t;
            const f32 k[n_pair] = {lanes::load(x), lanes::load(x + lanes::n)};
            for (int32_t r = 0; r < n_rows; ++r) {
                const f32 q = lanes::set(s.row(s.q, row + r)[c]);
                sum[r][0] = lanes::fma(q, k[0], sum[r][0]);
                sum[r][1] = lanes::fma(q, k[1], sum[r][1]);
            }
        }
        for (int32_t r = 0; r < n_rows; ++r) {
            for (int32_t v = 0; v < n_pair; ++v) {
                lanes::store(scores + (row + r) * tile_tokens + t + v * lanes::n, sum[r][v]);
            }
        }
    }
}

// o [row ..., d32] += p [row ..., tile_tokens] . s.rows [n, d32].
template <int32_t n_rows>
inline void add_rows(const step_scratch & s, int32_t row, int32_t n, const float * p) {
    for (size_t c = 0; c < s.d32; c += n_pair * lanes::n) {
        f32 sum[n_rows][n_pair];
        for (int32_t r = 0; r < n_rows; ++r) {
            sum[r][0] = sum[r][1] = lanes::set(0.0f);
        }
        for (int32_t t = 0; t < n; ++t) {
            const float * const v = s.row(s.rows, t) + c;
            const f32 pair[n_pair] = {lanes::load(v), lanes::load(v + lanes::n)};
            for (int32_t r = 0; r < n_rows; ++r) {
                const f32 weight = lanes::set(p[(row + r) * tile_tokens + t]);
                sum[r][0] = lanes::fma(weight, pair[0], sum[r][0]);
                sum[r][1] = lanes::fma(weight, pair[1], sum[r][1]);
            }
        }
        for (int32_t r = 0; r < n_rows; ++r) {
            float * const o = s.row(s.o, row + r) + c;
            lanes::reorder(sum[r]);
            lanes::store(o, lanes::add(lanes::load(o), sum[r][0]));
            lanes::store(o + lanes::n, lanes::add(lanes::load(o + lanes::n), sum[r][1]));
        }
    }
}

}  // namespace
}  // namespace livekv
