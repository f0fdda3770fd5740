#pragma once

// A thread's scratch for attention of a few rows (attention_step.h), and what its parts share. Internal linkage.

#include "kernels/cpu/row_products.h"

namespace livekv {
namespace {

constexpr int32_t step_rows = n_rows_tile;
constexpr int32_t rows_at_once = 4;                 // that one unpacked brick serves
constexpr int32_t n_tile = tile_tokens / lanes::n;  // vectors that hold a number for each token of a tile
constexpr int32_t n_pair = 2;                       // vectors that hold lanes::n_bricks bricks side by side

struct step_scratch {
    float * q;          // [step_rows, d32] queries times scale, in units of ln 2
    float * q_of;       // [step_rows / 4, d32, 4] the same, rows side by side, for outliers
    float * scores[2];  // [step_rows, tile_tokens] of this tile and the next, later the softmax weights
    float * s_of;       // [tile_tokens, 4] what outliers add to scores, or the weights
    float * o;          // [step_rows, d32] results, each 32 channels in the order of lanes::n_bricks bricks
    float * o_of;       // [step_rows / 4, d32, 4] what outliers have added to results
    float * rows;       // [tile_tokens, d32] of f16 keys or values, or of a tile's outliers
    float * scales;     // [d32]
    float * centres;    // [d32]
    float * q_ordered;  // [step_rows, d32] queries in the order of a block's classes, as the next two
    float * minima;     // [d32]
    float * middles;    // [d32] of the codes
    float * step;       // [step_rows, d32 / 32] of the rounded queries
    float * p_step;     // [step_rows] of the rounded weights
    float * o_groups;   // [step_rows, d32 / 32, lanes::n] what grids of groups have added, to be summed over lanes
    uint8_t * q8[2];    // [step_rows, d32] rounded queries, and what rounding left, 254 times finer
    uint8_t * p8[2];    // [step_rows, tile_tokens] rounded weights, and what rounding left, 255 times finer
    channel_scratch channels;
    size_t d32;  // head_dim rounded up to 32
    size_t bytes = 0;

    step_scratch(void * memory, int32_t head_dim) : d32(kv_align(static_cast<size_t>(head_dim), 32)) {
        uint8_t * at = static_cast<uint8_t *>(memory);
        const auto take = [&](size_t n) {
            uint8_t * p = at ? at + bytes : nullptr;
            bytes += kv_align(n, 64);
            return p;
        };
        const auto floats = [&](size_t n) { return reinterpret_cast<float *>(take(n * sizeof(float))); };
        q = floats(step_rows * d32);
        q_of = floats(step_rows * d32);
        s_of = floats(4 * tile_tokens);
        o = floats(step_rows * d32);
        o_of = floats(step_rows * d32);
        rows = floats(tile_tokens * d32);
        scales = floats(d32);
        centres = floats(d32);
        q_ordered = floats(step_rows * d32);
        minima = floats(d32);
        middles = floats(d32);
        step = floats(step_rows * d32 / 32);
        p_step = floats(step_rows);
        o_groups = floats(step_rows * d32 / 32 * lanes::n);
        for (int32_t i = 0; i < 2; ++i) {
            scores[i] = floats(step_rows * tile_tokens);
            q8[i] = take(step_rows * d32);
            p8[i] = take(step_rows * tile_tokens);
        }
        channels.place(d32, floats);
    }

    // Of row r, where rows lie side by side.
    float * beside(float * x, int32_t r) const { return x + static_cast<size_t>(r / 4) * 4 * d32 + r % 4; }
    float * row(float * x, int32_t r) const { return x + static_cast<size_t>(r) * d32; }
};

// n a multiple of 16: whole vectors, because a library call costs more than these few.
inline void clear(float * x, size_t n) {
    for (size_t i = 0; i < n; i += lanes::n) {
        lanes::store(x + i, lanes::set(0.0f));
    }
}

// f<n_rows>(row) for each group of rows_at_once rows, or the few that are left.
template <typename F>
inline void each_few_rows(int32_t n_rows, F f) {
    for (int32_t row = 0; row < n_rows; row += rows_at_once) {
        switch (n_rows - row) {
            case 1:
                f.template operator()<1>(row);
                break;
            case 2:
                f.template operator()<2>(row);
                break;
            case 3:
                f.template operator()<3>(row);
                break;
            default:
                f.template operator()<rows_at_once>(row);
        }
    }
}

// f<bits>() for a block's bits.
template <typename F>
inline void with_bits(int32_t bits, F f) {
    switch (bits) {
        case 2:
            return f.template operator()<2>();
        case 3:
            return f.template operator()<3>();
        case 4:
            return f.template operator()<4>();
        case 5:
            return f.template operator()<5>();
        default:
            return f.template operator()<8>();
    }
}

}  // namespace
}  // namespace livekv
