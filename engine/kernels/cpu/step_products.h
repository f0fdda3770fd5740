#pragma once

// What attention of a few rows is made of (attention_step.h): products of packed bricks, whose 16 tokens or channels
// are the lanes, with the bytes of a few rows, and a thread's scratch. Internal linkage.

#include "kernels/cpu/row_products.h"

namespace livekv {
namespace {

constexpr int32_t step_rows = 8;
constexpr int32_t rows_at_once = 4;                 // that one unpacked brick serves
constexpr int32_t n_brick = 64 / (4 * lanes::n);    // vectors that hold a brick
constexpr int32_t n_tile = tile_tokens / lanes::n;  // vectors that hold a number for each token of a tile

// Sums for up to rows_at_once rows over n_quads bricks of 16 things each: to [row][16] += step[row] * codes . bytes.
// bytes: [row][n_quads][4], rows byte_stride apart; to: rows to_stride apart.
template <int32_t bits, int32_t n_rows, bool codes_signed>
inline void brick_products(const uint8_t * bricks, int32_t n_quads, int32_t plane, int32_t bias, const uint8_t * bytes,
                           size_t byte_stride, const float * step, size_t step_stride, float factor, float * to,
                           size_t to_stride) {
    lanes::dot_sum sum[n_rows][n_brick];
    for (int32_t r = 0; r < n_rows; ++r) {
        for (int32_t v = 0; v < n_brick; ++v) {
            sum[r][v] = lanes::dot_zero();
        }
    }
    for (int32_t quad = 0; quad < n_quads; ++quad) {
        lanes::bytes codes[n_brick];
        lanes::unpack_brick<bits>(bricks + quad * 8 * bits, plane, bias, codes);
        for (int32_t r = 0; r < n_rows; ++r) {
            const lanes::bytes x = lanes::set_bytes(bytes + static_cast<size_t>(r) * byte_stride + 4 * quad);
            for (int32_t v = 0; v < n_brick; ++v) {
                sum[r][v] = codes_signed ? lanes::dot(sum[r][v], x, codes[v]) : lanes::dot(sum[r][v], codes[v], x);
            }
        }
    }
    for (int32_t r = 0; r < n_rows; ++r) {
        const f32 scale = lanes::set(step[static_cast<size_t>(r) * step_stride] * factor);
        for (int32_t v = 0; v < n_brick; ++v) {
            float * at = to + static_cast<size_t>(r) * to_stride + v * lanes::n;
            lanes::store(at, lanes::fma(lanes::dot_float(sum[r][v]), scale, lanes::load(at)));
        }
    }
}

template <int32_t bits, bool codes_signed, typename... Args>
inline void brick_products_of(int32_t n_rows, Args... args) {
    switch (n_rows) {
        case 1:
            return brick_products<bits, 1, codes_signed>(args...);
        case 2:
            return brick_products<bits, 2, codes_signed>(args...);
        default:
            return brick_products<bits, rows_at_once, codes_signed>(args...);
    }
}

struct step_map {
    float * q;         // [step_rows, head_dim] queries times scale, in units of ln 2
    float * q_of;      // [head_dim, wide] the same, rows side by side, for outliers
    float * scores;    // [step_rows, tile_tokens], later the softmax weights
    float * s_of;      // [tile_tokens, wide] what outliers add to scores, or the weights
    float * o;         // [step_rows, d16]
    float * o_of;      // [head_dim, wide] what outliers have added to results
    float * rows;      // [tile_tokens, head_dim] of f16 keys or values, or of a tile's outliers
    float * scales;    // [head_dim] or [tile_tokens]
    float * folded;    // [head_dim] one row times the scales
    float * weighted;  // [tile_tokens] one row's weights times the scales
    float * step;      // [step_rows, d / 32]
    float * p_step;    // [step_rows]
    uint8_t * q8[2];   // [step_rows, head_dim]
    uint8_t * p8[2];   // [step_rows, tile_tokens]
    size_t d16;        // head_dim rounded up to a brick's 16 channels
    size_t d32;        // head_dim rounded up to 32
    size_t bytes = 0;

    step_map(void * memory, int32_t head_dim)
        : d16(kv_align(static_cast<size_t>(head_dim), 16)), d32(kv_align(static_cast<size_t>(head_dim), 32)) {
        uint8_t * at = static_cast<uint8_t *>(memory);
        const auto take = [&](size_t n) {
            uint8_t * p = at ? at + bytes : nullptr;
            bytes += kv_align(n, 64);
            return p;
        };
        const auto floats = [&](size_t n) { return reinterpret_cast<float *>(take(n * sizeof(float))); };
        q = floats(step_rows * d32);
        q_of = floats(step_rows * d32);
        scores = floats(step_rows * tile_tokens);
        s_of = floats(step_rows * tile_tokens);
        o = floats(step_rows * d32);
        o_of = floats(step_rows * d32);
        rows = floats(tile_tokens * d32);
        scales = floats(d32);
        folded = floats(d32);
        weighted = floats(tile_tokens);
        step = floats(step_rows * d32 / 32);
        p_step = floats(step_rows);
        for (int32_t i = 0; i < 2; ++i) {
            q8[i] = take(step_rows * d32);
            p8[i] = take(step_rows * tile_tokens);
        }
    }
};

}  // namespace
}  // namespace livekv
