#pragma once

// What attention of rows side by side is made of (attention_rows.h): the exponential, a thread's scratch, and products
// of numbers broadcast from one side with rows in lanes on the other, in floats and in bytes. Internal linkage.

#include "kernels/cpu/channel_rows.h"
#include "kernels/cpu/rotate_rows.h"
#include "kernels/cpu/token_rows.h"

namespace livekv {
namespace {

constexpr int32_t n_vec = 2;  // vectors of rows
constexpr int32_t n_rows_tile = n_vec * lanes::n;
constexpr int32_t tile_tokens = kv_tile_tokens;
constexpr float log2_e = 1.4426950408889634f;
constexpr float hidden_score = -1e30f;  // below any score: see load_queries
constexpr float largest_query = 1e15f;  // so that no score, product or sum overflows

// 2^x for x <= 0; 0, or less than 2^-125, below -125. Polynomial of degree 5 on [0, 1], 1 at 0, of least largest
// relative error: 1e-7.
inline f32 exp2_negative(f32 x) {
    const f32 r = lanes::fraction(x);
    f32 p = lanes::set(1.8671301e-3f);
    p = lanes::fma(p, r, lanes::set(9.0170303e-3f));
    p = lanes::fma(p, r, lanes::set(5.5799913e-2f));
    p = lanes::fma(p, r, lanes::set(2.4016445e-1f));
    p = lanes::fma(p, r, lanes::set(6.9315131e-1f));
    p = lanes::fma(p, r, lanes::set(1.0f));
    return lanes::times_pow2(p, x);
}

// Where everything lies in a thread's scratch; sizes depend on head_dim alone.
struct scratch_map {
    float * q;         // [head_dim, rows] queries times scale, in units of ln 2
    float * scores;    // [tile_tokens, rows], later the softmax weights
    float * rows;      // [tile_tokens, head_dim] of f16 keys or values, or of a tile's outliers
    float * scales;    // [head_dim] or [tile_tokens]
    float * minima;    // [head_dim] of keys in classes of width
    float * offset;    // [rows] what the middles of the key grids add to every score of a key group
    float * step;      // [head_dim / 32, rows] of the rounded queries
    float * v_offset;  // [rows] what the middles of the value grids have added to every channel
    uint8_t * q8[2];   // [head_dim / 4, rows, 4] rounded queries, and what rounding left, 254 times finer
    uint8_t * p8[2];   // [tile_tokens / 4, rows, 4] rounded weights, and what rounding left, 255 times finer
    uint8_t * codes;   // bricks of one tile, a byte a code
    channel_scratch channels;
    size_t bytes;

    scratch_map(void * memory, int32_t head_dim) {
        const size_t d = kv_align(static_cast<size_t>(head_dim), 32);
        uint8_t * at = static_cast<uint8_t *>(memory);
        bytes = 0;
        const auto take = [&](size_t n) {
            uint8_t * p = at ? at + bytes : nullptr;
            bytes += kv_align(n, 64);
            return p;
        };
        const auto floats = [&](size_t n) { return reinterpret_cast<float *>(take(n * sizeof(float))); };
        q = floats(d * n_rows_tile);
        scores = floats(static_cast<size_t>(tile_tokens) * n_rows_tile);
        rows = floats(tile_tokens * d);
        scales = floats(d > tile_tokens ? d : tile_tokens);
        minima = floats(d);
        offset = floats(n_rows_tile);
        step = floats(d / 32 * n_rows_tile);
        v_offset = floats(n_rows_tile);
        for (int32_t i = 0; i < 2; ++i) {
            q8[i] = take(d * n_rows_tile);
            p8[i] = take(static_cast<size_t>(tile_tokens) * n_rows_tile);
        }
        codes = take(tile_tokens * d);
        channels.place(d, floats);
    }
};

// f16 keys or values of tokens from `first` on, widened: s.rows [n, head_dim].
inline void load_rows(const attention_args & args, int32_t head, const uint16_t * from, int32_t first, int32_t n,
                      const scratch_map & s) {
    const size_t d = static_cast<size_t>(args.head_dim);
    const size_t stride = static_cast<size_t>(args.n_head_kv) * d;
    for (int32_t t = 0; t < n; ++t) {
        lanes::to_f32(from + static_cast<size_t>(first + t) * stride + static_cast<size_t>(head) * d,
                      s.rows + static_cast<size_t>(t) * d, d);
    }
}

// to [rows] += from [rows] * value
inline void add_outlier(float * to, const float * from, float value) {
    for (int32_t v = 0; v < n_vec; ++v) {
        lanes::store(to + v * lanes::n,
                     lanes::fma(lanes::set(value), lanes::load(from + v * lanes::n), lanes::load(to + v * lanes::n)));
    }
}

// c [n_i, rows] += sum over j < n_j of a[i * a_i + j * a_j] b[j, rows].
inline void multiply_add(const float * a, size_t a_i, size_t a_j, int32_t n_i, int32_t n_j, const float * b,
                         float * c) {
    constexpr int32_t at_once = 4;
    int32_t i = 0;
    for (; i + at_once <= n_i; i += at_once, a += at_once * a_i, c += at_once * n_rows_tile) {
        f32 sum[at_once][n_vec];
        for (int32_t k = 0; k < at_once; ++k) {
            for (int32_t v = 0; v < n_vec; ++v) {
                sum[k][v] = lanes::load(c + k * n_rows_tile + v * lanes::n);
            }
        }
        for (int32_t j = 0; j < n_j; ++j) {
            const f32 b0 = lanes::load(b + j * n_rows_tile);
            const f32 b1 = lanes::load(b + j * n_rows_tile + lanes::n);
            for (int32_t k = 0; k < at_once; ++k) {
                const f32 x = lanes::set(a[static_cast<size_t>(k) * a_i + static_cast<size_t>(j) * a_j]);
                sum[k][0] = lanes::fma(x, b0, sum[k][0]);
                sum[k][1] = lanes::fma(x, b1, sum[k][1]);
            }
        }
        for (int32_t k = 0; k < at_once; ++k) {
            for (int32_t v = 0; v < n_vec; ++v) {
                lanes::store(c + k * n_rows_tile + v * lanes::n, sum[k][v]);
            }
        }
    }
    for (; i < n_i; ++i, a += a_i, c += n_rows_tile) {
        for (int32_t v = 0; v < n_vec; ++v) {
            f32 sum = lanes::load(c + v * lanes::n);
            for (int32_t j = 0; j < n_j; ++j) {
                sum = lanes::fma(lanes::set(a[static_cast<size_t>(j) * a_j]),
                                 lanes::load(b + j * n_rows_tile + v * lanes::n), sum);
            }
            lanes::store(c + v * lanes::n, sum);
        }
    }
}

// The same in integers, for n_i a multiple of 4, over quads of j: c [n_i, rows] += step [rows] * sum of codes times
// bytes. codes: 4 bytes for (i, quad) at i * 4 + quad * quad_bytes; bytes: [n_quads, rows, 4]. codes_signed says which
// of the two is.
template <bool codes_signed>
inline void multiply_add_bytes(const uint8_t * codes, size_t quad_bytes, int32_t n_i, int32_t n_quads,
                               const uint8_t * bytes, const f32 * step, float * c) {
    constexpr int32_t at_once = 4;
    for (int32_t i = 0; i < n_i; i += at_once, codes += 4 * at_once, c += at_once * n_rows_tile) {
        lanes::dot_sum sum[at_once][n_vec];
        for (int32_t k = 0; k < at_once; ++k) {
            for (int32_t v = 0; v < n_vec; ++v) {
                sum[k][v] = lanes::dot_zero();
            }
        }
        for (int32_t quad = 0; quad < n_quads; ++quad) {
            const lanes::bytes b0 = lanes::load_bytes(bytes + quad * 4 * n_rows_tile);
            const lanes::bytes b1 = lanes::load_bytes(bytes + quad * 4 * n_rows_tile + 4 * lanes::n);
            for (int32_t k = 0; k < at_once; ++k) {
                const lanes::bytes x = lanes::set_bytes(codes + static_cast<size_t>(quad) * quad_bytes + 4 * k);
                sum[k][0] = codes_signed ? lanes::dot(sum[k][0], b0, x) : lanes::dot(sum[k][0], x, b0);
                sum[k][1] = codes_signed ? lanes::dot(sum[k][1], b1, x) : lanes::dot(sum[k][1], x, b1);
            }
        }
        for (int32_t k = 0; k < at_once; ++k) {
            for (int32_t v = 0; v < n_vec; ++v) {
                float * at = c + k * n_rows_tile + v * lanes::n;
                lanes::store(at, lanes::fma(lanes::dot_float(sum[k][v]), step[v], lanes::load(at)));
            }
        }
    }
}

}  // namespace
}  // namespace livekv
