#pragma once

// What step_values.h does, of values whose tokens have a scale and a minimum for each group of channels (kv_block.h,
// version 6), and how weights are rounded in both. Internal linkage.

#include "kernels/cpu/step_products.h"

namespace livekv {
namespace {

// Weights w times scales to bytes: s.p8 [row ..., tile_tokens] and what a step of them is. largest: [n_rows] of w, in
// lanes.
template <int32_t n_planes, int32_t n_rows>
inline void round_weights(const step_scratch & s, int32_t row, const f32 (*w)[n_tile], const f32 * largest) {
    float top[4];
    float inverse[4];
    lanes::largest_4(largest, top);
    for (int32_t r = 0; r < 4; ++r) {
        s.p_step[row + r] = top[r] * (1.0f / 255.0f);
        inverse[r] = 255.0f / top[r];
    }
    for (int32_t r = 0; r < n_rows; ++r) {
        lanes::i32 whole[n_tile];
        lanes::i32 rest[n_tile] = {};
        for (int32_t v = 0; v < n_tile; ++v) {
            const f32 x = lanes::mul(w[r][v], lanes::set(inverse[r]));
            if (n_planes == 2) {  // the whole part rounds down, so that the rest is positive too
                whole[v] = lanes::round(lanes::max(lanes::sub(x, lanes::set(0.5f)), lanes::set(0.0f)));
                const f32 left = lanes::max(lanes::sub(x, lanes::to_float(whole[v])), lanes::set(0.0f));
                rest[v] = lanes::round(lanes::min(lanes::mul(left, lanes::set(255.0f)), lanes::set(255.0f)));
            } else {
                whole[v] = lanes::round(x);
            }
        }
        lanes::store_32_bytes(s.p8[0] + (row + r) * tile_tokens, whole);
        if (n_planes == 2) {
            lanes::store_32_bytes(s.p8[1] + (row + r) * tile_tokens, rest);
        }
    }
}

// What the grids of row r's groups have added so far: [d32 / 32, lanes::n].
inline float * group_offsets(const step_scratch & s, int32_t r) {
    return s.o_groups + static_cast<size_t>(r) * s.d32 / 32 * lanes::n;
}

// A grid's weights, rounded; what its minima and the middles of codes add is summed exactly. scales: [n_tile], middles
// likewise, what the middle code stands for.
template <int32_t n_rows>
inline void weigh_group(const step_scratch & s, int32_t row, int32_t grid, const f32 * scales, const f32 * middles,
                        const float * p) {
    f32 w[n_rows][n_tile];
    f32 largest[4];
    for (int32_t r = 0; r < 4; ++r) {
        largest[r] = lanes::set(1e-30f);
    }
    for (int32_t r = 0; r < n_rows; ++r) {
        float * const to = group_offsets(s, row + r) + grid * lanes::n;
        f32 offset = lanes::load(to);
        for (int32_t v = 0; v < n_tile; ++v) {
            const f32 weight = lanes::load(p + (row + r) * tile_tokens + v * lanes::n);
            w[r][v] = lanes::mul(weight, scales[v]);
            largest[r] = lanes::max(largest[r], w[r][v]);
            offset = lanes::fma(weight, middles[v], offset);
        }
        lanes::store(to, offset);
    }
    round_weights<1, n_rows>(s, row, w, largest);
}

// Adds p [step_rows, tile_tokens] . values of one tile of a block of up to 5 bits. ahead: as in value_products.
inline void add_groups(const block_reader & block, int32_t tile, int32_t d, const step_scratch & s, int32_t n_rows,
                       const float * p, const uint8_t * ahead) {
    const int32_t first = tile * tile_tokens;
    const int32_t n = block.n_tokens() - first < tile_tokens ? block.n_tokens() - first : tile_tokens;
    const int32_t n_sixteens = kv_ceil_div(d, 16);
    const f32 middle = lanes::set(static_cast<float>(1 << (block.bits() - 1)));
    float numbers[2][tile_tokens];
    for (int32_t grid = 0; 2 * grid < n_sixteens; ++grid) {
        lanes::to_f32_whole(block.token_scales(first, grid), numbers[0], static_cast<size_t>(n));
        lanes::to_f32_whole(block.token_minima(first, grid), numbers[1], static_cast<size_t>(n));
        for (int32_t t = n; t < tile_tokens; ++t) {
            numbers[0][t] = numbers[1][t] = 0.0f;
        }
        f32 scales[n_tile];
        f32 middles[n_tile];
        for (int32_t v = 0; v < n_tile; ++v) {
            scales[v] = lanes::load(numbers[0] + v * lanes::n);
            middles[v] = lanes::fma(scales[v], middle, lanes::load(numbers[1] + v * lanes::n));
        }
        const int32_t to = 2 * grid + 2 < n_sixteens ? 2 * grid + 2 : n_sixteens;
        each_few_rows(n_rows, [&]<int32_t rows>(int32_t row) {
            weigh_group<rows>(s, row, grid, scales, middles, p);
            with_bits(block.bits(),
                      [&]<int32_t bits>() { value_products<bits, rows>(block, tile, 2 * grid, to, s, row, ahead); });
        });
    }
}

// Row r's share, times factor.
inline void scale_groups(const step_scratch & s, int32_t r, float factor) {
    float * const offsets = group_offsets(s, r);
    for (size_t i = 0; i < s.d32 / 32 * lanes::n; i += lanes::n) {
        lanes::store(offsets + i, lanes::mul(lanes::load(offsets + i), lanes::set(factor)));
    }
}

// The same into row r's results, whose channels are in their order.
inline void hand_over_groups(const step_scratch & s, int32_t r) {
    float * const o = s.row(s.o, r);
    for (size_t c = 0; c < s.d32; c += lanes::n) {
        const f32 sum = lanes::set(lanes::sum(lanes::load(group_offsets(s, r) + c / kv_group_channels * lanes::n)));
        lanes::store(o + c, lanes::add(lanes::load(o + c), sum));
    }
}

}  // namespace
}  // namespace livekv
