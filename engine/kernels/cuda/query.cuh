#pragma once

// Queries on their way to the tensor cores, and results on their way back.

#include "kernels/cuda/tiles.cuh"

namespace livekv::device {

constexpr float log2_e = 1.4426950408889634f;
constexpr float no_score = -3e38f;      // of a row that has seen no token
constexpr float largest_query = 1e30f;  // beyond it a score would not be finite

// A power of two such that x / it lies in [1, 2), for 1e-30 <= x <= largest_query.
SIMT_FN float exponent_of(float x) {
    return simt::float_of(simt::bits_of(x) & 0x7f800000u);
}
SIMT_FN float inverse_of_exponent(float power) {
    return simt::float_of((254u << 23) - simt::bits_of(power));
}

// Row r of a head, in units that make a score's exponential one of 2, divided by a power of two so that it fits f16.
// x: this lane's channels, lane + 32 i, [head_dim / 32]; returns the power. All lanes of the warp.
template <int32_t head_dim>
SIMT_FN float scaled_query(const device_attention & a, int32_t head, int32_t row, float (&x)[head_dim / 32]) {
    const int32_t token = row / a.group();
    const int32_t query_head = head * a.group() + row % a.group();
    const float * const q =
        a.q + (static_cast<size_t>(token) * static_cast<size_t>(a.n_head) + static_cast<size_t>(query_head)) * head_dim;
    float top = 1e-30f;
    SIMT_UNROLL
    for (int32_t i = 0; i < head_dim / 32; ++i) {
        x[i] = row < a.n_rows() ? q[simt::lane() + 32 * i] * (a.scale * log2_e) : 0.0f;
        x[i] = simt::larger(simt::smaller(x[i], largest_query), -largest_query);
        top = simt::larger(top, simt::larger(x[i], -x[i]));
    }
    SIMT_UNROLL
    for (int32_t step = 16; step > 0; step /= 2) {
        top = simt::larger(top, simt::shuffle_xor(top, step));
    }
    const float power = exponent_of(top);
    SIMT_UNROLL
    for (int32_t i = 0; i < head_dim / 32; ++i) {
        x[i] *= inverse_of_exponent(power);
    }
    return power;
}

// One row of n channels in shared memory, rotated as rotate_rows does it, by all threads of the block.
SIMT_FN void rotate_shared(float * x, int32_t n, int32_t run) {
    if (run < 2) {
        return;
    }
#if defined(__CUDACC__)
    const float norm = __fdiv_rn(1.0f, __fsqrt_rn(static_cast<float>(run)));
#else
    const float norm = 1.0f / __builtin_sqrtf(static_cast<float>(run));
#endif
    for (int32_t half = 1; half < run; half *= 2) {
        const float factor = half == 1 ? norm : 1.0f;
        simt::sync();
        for (int32_t i = simt::thread(); i < n / run * (run / 2); i += simt::n_threads()) {
            const int32_t first = i / half * (2 * half) + i % half;
            const float a = x[first];
            const float b = x[first + half];
            x[first] = (a + b) * factor;
            x[first + half] = (a - b) * factor;
        }
    }
    simt::sync();
}

constexpr int32_t row_threads = 128;
constexpr int32_t join_threads = 256;
constexpr int32_t join_warps = join_threads / simt::warp_size;

// Largest or sum over the block's threads, the same for all; scratch: [join_warps].
template <typename Join>
SIMT_FN float over_block(float x, float * scratch, const Join & join) {
    for (int32_t step = 16; step > 0; step /= 2) {
        x = join(x, simt::shuffle_xor(x, step));
    }
    simt::sync();
    if (simt::lane() == 0) {
        scratch[simt::warp()] = x;
    }
    simt::sync();
    x = scratch[0];
    for (int32_t w = 1; w < join_warps; ++w) {
        x = join(x, scratch[w]);
    }
    return x;
}

// Floats of shared memory.
LIVEKV_HD inline int32_t join_floats(int32_t n_spans, int32_t head_dim) {
    return join_warps + n_spans + (join_warps + 1) * head_dim;
}

// Joins the spans of each query and takes back the rotation of values. Spans are shared among the warps, so that their
// loads are under way together. Grid: x: n_tokens * n_head.
SIMT_KERNEL void join_spans_kernel(const SIMT_PARAM device_attention a) {
    const int32_t token = simt::block_x() / a.n_head;
    const int32_t query_head = simt::block_x() % a.n_head;
    const int32_t head = query_head / a.group();
    const int32_t row = token * a.group() + query_head % a.group();
    auto * const scratch = simt::as<float>(simt::shared());  // [join_warps]
    float * const weight = scratch + join_warps;             // [n_spans]
    float * const part = weight + a.n_spans;                 // [join_warps, head_dim]
    float * const x = part + join_warps * a.head_dim;        // [head_dim]
    float m = no_score;
    for (int32_t span = simt::thread(); span < a.n_spans; span += join_threads) {
        m = simt::larger(m, a.partial_m[a.state_of(span, head, row)]);
    }
    m = over_block(m, scratch, [](float p, float q) { return simt::larger(p, q); });
    float l = 0.0f;
    for (int32_t span = simt::thread(); span < a.n_spans; span += join_threads) {
        const int64_t i = a.state_of(span, head, row);
        weight[span] = simt::exp2(a.partial_m[i] - m);
        l += a.partial_l[i] * weight[span];
    }
    l = over_block(l, scratch, [](float p, float q) { return p + q; });  // and the weights are there for all
    const float inverse = l > 0.0f ? 1.0f / l : 0.0f;
    for (int32_t first = 0; first < a.head_dim; first += 4 * simt::warp_size) {
        float sum[4] = {};
        SIMT_UNROLL_2
        for (int32_t span = simt::warp(); span < a.n_spans; span += join_warps) {
            const float * const o = a.partial_o + a.state_of(span, head, row) * a.head_dim;
            SIMT_UNROLL
            for (int32_t i = 0; i < 4; ++i) {
                const int32_t c = first + i * simt::warp_size + simt::lane();
                sum[i] += c < a.head_dim ? o[c] * weight[span] : 0.0f;
            }
        }
        SIMT_UNROLL
        for (int32_t i = 0; i < 4; ++i) {
            const int32_t c = first + i * simt::warp_size + simt::lane();
            if (c < a.head_dim) {
                part[simt::warp() * a.head_dim + c] = sum[i];
            }
        }
    }
    simt::sync();
    for (int32_t c = simt::thread(); c < a.head_dim; c += join_threads) {
        float o = 0.0f;
        for (int32_t w = 0; w < join_warps; ++w) {
            o += part[w * a.head_dim + c];
        }
        x[c] = o * inverse;
    }
    simt::sync();
    rotate_shared(x, a.head_dim, a.v_rotation);
    float * const out = a.out + static_cast<size_t>(simt::block_x()) * static_cast<size_t>(a.head_dim);
    for (int32_t c = simt::thread(); c < a.head_dim; c += join_threads) {
        out[c] = x[c];
    }
}

// An entry of a table of chunks, by one warp.
SIMT_KERNEL void put_chunk_kernel(const SIMT_PARAM device_chunk c, device_chunk * to) {
    static_assert(sizeof(device_chunk) % sizeof(uint32_t) == 0);
    for (size_t i = static_cast<size_t>(simt::thread()); i < sizeof(c) / sizeof(uint32_t); i += simt::warp_size) {
        simt::as<uint32_t>(to)[i] = simt::as<uint32_t>(&c)[i];
    }
}

// f32 rows of head_dim, rotated. Grid: x: rows. from and to may be the same.
SIMT_KERNEL void rotate_rows_kernel(const float * from, float * to, int32_t head_dim, int32_t run) {
    auto * const x = simt::as<float>(simt::shared());
    const size_t at = static_cast<size_t>(simt::block_x()) * static_cast<size_t>(head_dim);
    for (int32_t c = simt::thread(); c < head_dim; c += simt::n_threads()) {
        x[c] = from[at + static_cast<size_t>(c)];
    }
    rotate_shared(x, head_dim, run);
    simt::sync();
    for (int32_t c = simt::thread(); c < head_dim; c += simt::n_threads()) {
        to[at + static_cast<size_t>(c)] = x[c];
    }
}

// Grid: x: n_tokens, y: kv heads, z: keys, values.
SIMT_KERNEL void store_rows_kernel(const SIMT_PARAM device_store s) {
    auto * const x = simt::as<float>(simt::shared());
    const size_t token = static_cast<size_t>(simt::block_x());
    const size_t head = static_cast<size_t>(simt::block_y());
    const size_t d = static_cast<size_t>(s.head_dim);
    const device_store::one_side & side = s.sides[simt::block_z()];
    for (int32_t c = simt::thread(); c < s.head_dim; c += simt::n_threads()) {
        x[c] = side.from[token * side.stride + head * d + static_cast<size_t>(c)];
    }
    rotate_shared(x, s.head_dim, side.rotation);
    simt::sync();
    for (int32_t c = simt::thread(); c < s.head_dim; c += simt::n_threads()) {
        const uint16_t h = simt::to_half(x[c]);
        side.to[(token * static_cast<size_t>(s.n_head_kv) + head) * d + static_cast<size_t>(c)] = h;
        if ((h & 0x7c00u) == 0x7c00u) {
            simt::atomic_min(s.bad, static_cast<uint32_t>(simt::block_x()));
        }
    }
}

// Grid: x: rows.
SIMT_KERNEL void check_rows_kernel(const SIMT_PARAM device_rows rows) {
    const float * const row = rows.from + static_cast<size_t>(simt::block_x()) * rows.stride;
    const uint32_t top = simt::bits_of(rows.largest);  // of positive numbers, bits are in the order of values, NaN last
    bool bad = false;
    for (int32_t c = simt::thread(); c < rows.n_values; c += simt::n_threads()) {
        bad |= (simt::bits_of(row[c]) & 0x7fffffffu) > top;
    }
    if (bad) {
        simt::atomic_min(rows.bad, rows.first + static_cast<uint32_t>(simt::block_x()));
    }
}

}  // namespace livekv::device
