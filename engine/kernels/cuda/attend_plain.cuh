#pragma once

// Attention in the plainest way, for every head_dim and width of codes: what the fast kernels are compared with, and
// what serves shapes they are not made for. A block of threads takes one query row; a tile's tokens have a thread each
// for the scores, then the channels do.

#include "kernels/cuda/brick.h"
#include "kernels/cuda/query.cuh"

namespace livekv::device {

// What a code stands for, without an outlier.
SIMT_FN float level_at(const device_side & s, bool keys, int32_t head_dim, const uint8_t * block, int32_t t,
                       int32_t c) {
    const kv_place place = keys ? kv_key_place(head_dim, t, c) : kv_value_place(s.n_stored, head_dim, t, c);
    const uint8_t * const brick = block + s.codes + place.brick * static_cast<size_t>(8 * s.bits);
    const uint32_t u = brick_row(brick, s.bits, place.code / 4) >> (8 * (place.code % 4)) & 255u;
    const int32_t i = keys ? t / s.group * head_dim + c : t;
    return simt::to_float(scale_at(block, i)) *
           static_cast<float>(static_cast<int32_t>(u) - (1 << (s.bits - 1)) + centre_at(s, block, i));
}

// q . key t of a block whose channels stand in classes of width.
SIMT_FN float plain_class_score(const device_side & s, int32_t head_dim, const uint8_t * block, int32_t t,
                                const float * q) {
    const uint8_t * brick = block + s.codes + static_cast<size_t>(t / 16) * (8 * s.width_sum);
    const int32_t grid = t / s.group * head_dim;
    float sum = 0.0f;
    for (int32_t first = 0; first < head_dim; first += 4) {
        const int32_t width = block[s.widths + static_cast<uint32_t>(first / 4)];
        const uint32_t codes = width > 0 ? brick_row(brick, width, t % 16) : 0u;
        for (int32_t i = 0; i < 4; ++i) {
            const float level =
                simt::to_float(minimum_at(s, block, grid + first + i)) +
                simt::to_float(scale_at(block, grid + first + i)) * static_cast<float>(codes >> (8 * i) & 255u);
            sum += q[channel_at(s, block, first + i)] * level;
        }
        brick += 8 * width;
    }
    return sum;
}

// q . key t of a head, q [head_dim] in shared memory.
SIMT_FN float plain_score(const device_attention & a, const device_side & s, int32_t head, int32_t t, const float * q) {
    float sum = 0.0f;
    if (s.block_bytes == 0) {
        const uint16_t * const k = row_of(a, s, head, t, 0);
        for (int32_t c = 0; c < a.head_dim; ++c) {
            sum += q[c] * simt::to_float(k[c]);
        }
        return sum;
    }
    const uint8_t * const block = block_of(s, head);
    if (s.has_classes()) {
        return plain_class_score(s, a.head_dim, block, t, q);
    }
    for (int32_t c = 0; c < a.head_dim; ++c) {
        sum += q[c] * level_at(s, true, a.head_dim, block, t, c);
    }
    const outlier_span span = key_outliers_of(s, block, t / kv_tile_tokens);
    for (uint32_t i = span.first; i < span.last; ++i) {
        const uint32_t place = outlier_place_at(s, block, i);
        if (static_cast<int32_t>(place >> 11) == t % kv_tile_tokens) {
            sum += q[place & 0x7ffu] * simt::to_float(outlier_at(s, block, i));
        }
    }
    return sum;
}

SIMT_FN float plain_value(const device_attention & a, const device_side & s, int32_t head, int32_t t, int32_t c) {
    if (s.block_bytes == 0) {
        return simt::to_float(*row_of(a, s, head, t, c));
    }
    const uint8_t * const block = block_of(s, head);
    float x = level_at(s, false, a.head_dim, block, t, c);
    for (uint32_t i = static_cast<uint32_t>(t) * s.n_outliers; i < static_cast<uint32_t>(t + 1) * s.n_outliers; ++i) {
        x += outlier_place_at(s, block, i) == static_cast<uint32_t>(c) ? simt::to_float(outlier_at(s, block, i)) : 0.0f;
    }
    return x;
}

// Grid: x: rows, y: kv heads, z: spans. Shared memory: [2 head_dim + 32] floats.
SIMT_KERNEL void attend_plain_kernel(const SIMT_PARAM device_attention a) {
    auto * const q = simt::as<float>(simt::shared());  // [head_dim]
    float * const o = q + a.head_dim;                  // [head_dim]
    float * const p = o + a.head_dim;                  // [32]
    const int32_t row = simt::block_x();
    const int32_t head = simt::block_y();
    const size_t at = (static_cast<size_t>(row / a.group()) * static_cast<size_t>(a.n_head) +
                       static_cast<size_t>(head * a.group() + row % a.group())) *
                      static_cast<size_t>(a.head_dim);
    for (int32_t c = simt::thread(); c < a.head_dim; c += simt::n_threads()) {
        const float x = a.q[at + static_cast<size_t>(c)] * (a.scale * log2_e);
        q[c] = simt::larger(simt::smaller(x, largest_query), -largest_query);
        o[c] = 0.0f;
    }
    float m = no_score;
    float l = 0.0f;
    const int64_t first = a.n_tiles() * simt::block_z() / a.n_spans;
    const int64_t last = a.n_tiles() * (simt::block_z() + 1) / a.n_spans;
    for (int64_t tile = first; tile < last; ++tile) {
        const int32_t chunk = chunk_of_tile(a, tile);
        const device_chunk & c = chunk_at(a, chunk);
        const tile_place place = place_in(c, chunk, tile);
        const int32_t seen = chunk == a.n_chunks + 1 ? open_tokens_of(a, row) - place.first : kv_tile_tokens;
        simt::sync();
        if (simt::warp() == 0) {
            const int32_t t = simt::lane();
            const bool visible = t >= place.begin && t < place.end && t < seen;
            p[t] = visible ? plain_score(a, c.k, head, place.first + t, q) : -INFINITY;
        }
        simt::sync();
        float top = m;
        for (int32_t t = 0; t < kv_tile_tokens; ++t) {
            top = simt::larger(top, p[t]);
        }
        const float factor = simt::exp2(m - top);
        m = top;
        l *= factor;
        for (int32_t t = 0; t < kv_tile_tokens; ++t) {
            l += simt::exp2(p[t] - m);
        }
        for (int32_t i = simt::thread(); i < a.head_dim; i += simt::n_threads()) {
            float sum = o[i] * factor;
            for (int32_t t = place.begin; t < place.end; ++t) {
                sum += simt::exp2(p[t] - m) * plain_value(a, c.v, head, place.first + t, i);
            }
            o[i] = sum;
        }
    }
    simt::sync();
    const int64_t state = a.state_of(simt::block_z(), head, row);
    for (int32_t c = simt::thread(); c < a.head_dim; c += simt::n_threads()) {
        a.partial_o[state * a.head_dim + c] = o[c];
    }
    if (simt::thread() == 0) {
        a.partial_m[state] = m;
        a.partial_l[state] = l;
    }
}

}  // namespace livekv::device
