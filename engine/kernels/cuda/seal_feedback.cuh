#pragma once

// Error feedback (key_feedback.h) where keys in classes of width are sealed: the mean queries, the gains and weights
// they give a block's channels, and the codes. The CPU's numbers, summed in its order.

#include "kernels/cuda/device_kv.h"
#include "kernels/cuda/seal_line.cuh"
#include "kv/class_grid.h"
#include "kv/key_feedback.h"
#include "kv/query_square.h"

namespace livekv::device {

// Of each token one query head of a kv head's group, the heads in turn; the first is token `first` of its chunk. Grid:
// x: tokens, y: kv heads. q: f32 [n_tokens, n_head, head_dim]; to: [n_tokens, n_head_kv, head_dim].
SIMT_KERNEL void pack_query_signs_kernel(const float * q, int32_t first, int32_t n_head, int32_t n_head_kv, int32_t d,
                                         uint8_t * to) {
    const int32_t token = simt::block_x();
    const int32_t head = simt::block_y();
    const int32_t group = n_head / n_head_kv;
    const size_t from = static_cast<size_t>(token) * static_cast<size_t>(n_head) +
                        static_cast<size_t>(head * group + (first + token) % group);
    const size_t at = static_cast<size_t>(token) * static_cast<size_t>(n_head_kv) + static_cast<size_t>(head);
    for (int32_t c = simt::thread(); c < d; c += simt::n_threads()) {
        to[at * static_cast<size_t>(d) + static_cast<size_t>(c)] =
            packed_query(q[from * static_cast<size_t>(d) + static_cast<size_t>(c)]);
    }
}

// The mean query over the chunk that closes of each query head that shares a kv head.
SIMT_FN void mean_queries(const device_seal & s, int32_t head) {
    const int32_t d = s.head_dim;
    const int32_t r = s.group();
    const int32_t n_waiting = s.n_tokens - s.n_new;
    const size_t token_row = static_cast<size_t>(s.n_head_kv) * static_cast<size_t>(d);
    const size_t query_row = static_cast<size_t>(s.n_head) * static_cast<size_t>(d);
    for (int32_t i = simt::thread(); i < r * d; i += seal_threads) {
        const int32_t h = i / d;
        const size_t c = static_cast<size_t>(i % d);
        float sum = 0.0f;
        int32_t n = s.n_new;
        for (int32_t t = h; t < n_waiting; t += r, ++n) {
            sum += query_of_packed(s.tail_queries[static_cast<size_t>(t) * token_row +
                                                  static_cast<size_t>(head) * static_cast<size_t>(d) + c]);
        }
        const size_t line = static_cast<size_t>(head * r + h) * static_cast<size_t>(d) + c;
        for (int32_t t = 0; t < s.n_new; ++t) {
            sum += s.q[static_cast<size_t>(t) * query_row + line];
        }
        s.means[line] = n > 0 ? bounded_query(sum / static_cast<float>(n)) : 0.0f;
    }
}

// Gains and weights for a block's order, by one warp: its lanes have the heads, and each of them makes the sums over
// heads.
SIMT_FN void factor_feedback(const device_seal & s, int32_t head, const uint16_t * order) {
    const int32_t d = s.head_dim;
    const int32_t r = s.group();
    const size_t at = static_cast<size_t>(head) * static_cast<size_t>(d) * static_cast<size_t>(r);
    double * const spread = s.spread + static_cast<size_t>(head) * static_cast<size_t>((r + 1) * r);
    double * const toward = spread + r * r;
    for (int32_t i = simt::lane(); i < r * r; i += simt::warp_size) {
        spread[i] = i / r == i % r ? feedback_share / static_cast<double>(r) : 0.0;
    }
    for (int32_t i = d - 1; i >= 0; --i) {
        const int32_t c = order[i];
        float * const mu = s.weight + at + static_cast<size_t>(i * r);
        float * const gain = s.gain + at + static_cast<size_t>(i * r);
        for (int32_t h = simt::lane(); h < r; h += simt::warp_size) {
            mu[h] = s.means[(head * r + h) * d + c];
        }
        simt::sync_warp();
        double squares = 0.0;
        for (int32_t h = 0; h < r; ++h) {
            squares += static_cast<double>(mu[h]) * mu[h];
        }
        for (int32_t h = simt::lane(); h < r; h += simt::warp_size) {
            double sum = 0.0;
            for (int32_t k = 0; k < r; ++k) {
                sum += spread[h * r + k] * mu[k];
            }
            toward[h] = sum;
        }
        simt::sync_warp();
        double variance = feedback_diagonal(s.q2[head * d + c], squares, static_cast<size_t>(r));
        for (int32_t h = 0; h < r; ++h) {
            variance += toward[h] * mu[h];
        }
        const bool seen = variance > 0.0;  // or queries do not see the channel
        for (int32_t h = simt::lane(); h < r; h += simt::warp_size) {
            gain[h] = seen ? feedback_gain(toward[h] / variance) : 0.0f;
        }
        for (int32_t j = simt::lane(); seen && j < r * r; j += simt::warp_size) {
            spread[j] -= toward[j / r] * toward[j % r] / variance;
        }
        simt::sync_warp();
    }
}

// A tile's codes, a thread a token: channel after channel, each rounded from where the errors before it have moved it.
// scales, minima: f16 [d] of the tile's group; sums: [r, 32] in shared memory; codes: [32, d + 4].
SIMT_FN void tile_codes_with_feedback(const device_seal & s, int32_t tile, int32_t head, const uint8_t * block,
                                      const uint16_t * scales, const uint16_t * minima, float * sums, uint8_t * codes) {
    const int32_t d = s.head_dim;
    const int32_t r = s.group();
    const int32_t in_tile = simt::thread();
    if (in_tile >= kv_tile_tokens) {
        return;
    }
    const int32_t t = tile * kv_tile_tokens + in_tile;
    const bool sealed = t >= s.n_sinks && t < s.n_tokens;
    const uint16_t * const order = simt::as<uint16_t>(block + s.k_map.order);
    const size_t at = static_cast<size_t>(head) * static_cast<size_t>(d) * static_cast<size_t>(r);
    const size_t row = static_cast<size_t>(s.n_head_kv) * static_cast<size_t>(d);
    for (int32_t h = 0; h < r; ++h) {
        sums[h * kv_tile_tokens + in_tile] = 0.0f;
    }
    for (int32_t place = 0; place < d; ++place) {
        int32_t code = 0;
        if (sealed) {
            const float * const gain = s.gain + at + static_cast<size_t>(place * r);
            const float * const weight = s.weight + at + static_cast<size_t>(place * r);
            const class_grid grid(simt::to_float(scales[place]), simt::to_float(minima[place]),
                                  block[s.k_map.widths + static_cast<size_t>(place / 4)]);
            const float x = simt::to_float(
                s.k[static_cast<size_t>(t) * row + static_cast<size_t>(head * d) + static_cast<size_t>(order[place])]);
            float push = 0.0f;
            for (int32_t h = 0; h < r; ++h) {
                push += gain[h] * sums[h * kv_tile_tokens + in_tile];
            }
            code = grid.code(x + push);
            const float error = x - grid.level(code);
            for (int32_t h = 0; h < r; ++h) {
                sums[h * kv_tile_tokens + in_tile] += weight[h] * error;
            }
        }
        codes[in_tile * (d + 4) + place] = static_cast<uint8_t>(code);
    }
}

}  // namespace livekv::device
