#pragma once

// What sealing of keys and of values have in common: what a warp finds out about a line, and how a block is written.
//
// The k largest magnitudes are found as numbers: those of f16 are integers of 15 bits, and the k-th largest is the
// largest T of which at least k are not below. Equal ones are taken from the lowest index on, as everywhere.

#include "kernels/cuda/device_kv.h"
#include "kernels/cuda/simt.h"
#include "kv/kv_grid.h"

namespace livekv::device {

constexpr int32_t seal_threads = 256;
constexpr int32_t seal_warps = seal_threads / simt::warp_size;

// What one warp finds out about a line: a channel's tokens, or a token's channels. value(i): f16 bits; apart: bit i of
// word i / 32 is set for what is stored on its own, [ceil(n / 32)] in shared memory.
template <typename Value>
SIMT_FN void find_outliers(int32_t n, int32_t k, const Value & value, uint32_t * apart) {
    const int32_t lane = simt::lane();
    const int32_t n_words = kv_ceil_div(n, 32);
    const auto count_from = [&](uint32_t least) {
        uint32_t mine = 0;
        for (int32_t i = lane; i < n; i += 32) {
            mine += (value(i) & 0x7fffu) >= least;
        }
        return static_cast<int32_t>(simt::sum_of_warp(mine));
    };
    uint32_t threshold = 0;
    for (uint32_t bit = k > 0 ? 0x4000u : 0u; bit != 0; bit >>= 1) {
        threshold |= count_from(threshold | bit) >= k ? bit : 0u;
    }
    const int32_t n_ties = k > 0 ? k - count_from(threshold + 1) : 0;
    int32_t tied = 0;
    for (int32_t w = 0; w < n_words; ++w) {
        const int32_t i = 32 * w + lane;
        const uint32_t magnitude = i < n ? value(i) & 0x7fffu : 0u;
        const uint32_t ties = simt::ballot(k > 0 && i < n && magnitude == threshold);
        const int32_t before = tied + simt::popcount(ties & ((1u << lane) - 1u));
        const bool taken = k > 0 && i < n && (magnitude > threshold || (magnitude == threshold && before < n_ties));
        const uint32_t word = simt::ballot(taken);
        if (lane == 0) {
            apart[w] = word;
        }
        tied += simt::popcount(ties);
    }
    simt::sync_warp();
}

struct value_range {
    float low;
    float high;
};

// Over entries first ... last - 1 of a line. Those apart, and the first n_zero, are left out (without_apart) or count
// as 0; when nothing is left the range is 0.
template <typename Value>
SIMT_FN value_range range_of(int32_t first, int32_t last, int32_t n_zero, bool without_apart, float start,
                             const Value & value, const uint32_t * apart) {
    value_range r = {start, -start};
    for (int32_t i = first + simt::lane(); i < last; i += 32) {
        const bool is_apart = (apart[i / 32] >> (i % 32) & 1u) != 0 || i < n_zero;
        if (!(without_apart && is_apart)) {
            const float x = is_apart ? 0.0f : simt::to_float(value(i));
            r.low = simt::smaller(r.low, x);
            r.high = simt::larger(r.high, x);
        }
    }
    for (int32_t step = 16; step > 0; step /= 2) {
        r.low = simt::smaller(r.low, simt::shuffle_xor(r.low, step));
        r.high = simt::larger(r.high, simt::shuffle_xor(r.high, step));
    }
    return r.high < r.low ? value_range{0.0f, 0.0f} : r;
}

// A grid's code as the format stores it, and what is left of an outlier beside the level of its code.
SIMT_FN uint32_t stored_code(const kv_grid & g, const kv_block_header & h, float x) {
    return static_cast<uint32_t>(g.code(x) + (h.has_centres ? 0 : 1 << (h.bits - 1)));
}
SIMT_FN uint16_t outlier_rest(const kv_grid & g, const kv_block_header & h, uint16_t scale, float x) {
    const int32_t mid = 1 << (h.bits - 1);
    const int32_t centre = h.has_centres ? mid - g.zero : 0;
    const int32_t u = static_cast<int32_t>(stored_code(g, h, 0.0f));
    return f32_to_f16_finite(x - simt::to_float(scale) * static_cast<float>(u - mid + centre));
}

template <typename T>
SIMT_FN void put(uint8_t * block, size_t at, size_t i, T x) {
    *simt::as<T>(block + at + i * sizeof(T)) = x;
}

SIMT_FN void write_header(const kv_block_header & h, uint8_t * block) {
    const auto * from = reinterpret_cast<const uint8_t *>(&h);
    for (size_t i = static_cast<size_t>(simt::thread()); i < sizeof(h); i += seal_threads) {
        block[i] = from[i];
    }
}
// Bytes first ... last - 1.
SIMT_FN void clear_bytes(uint8_t * block, size_t first, size_t last) {
    for (size_t i = first + static_cast<size_t>(simt::thread()); i < last; i += seal_threads) {
        block[i] = 0;
    }
}

// The header, and zeros where sections leave room.
SIMT_FN void write_frame(const kv_block_header & h, const kv_block_map & m, uint8_t * block) {
    write_header(h, block);
    const bool listed = h.side == kv_side::key && h.n_outliers > 0;
    const size_t index_end = m.index + static_cast<size_t>(m.index_bytes) * static_cast<size_t>(m.n_outlying);
    if (listed) {
        clear_bytes(block, index_end, m.tiles);
    }
    const size_t rows = h.side == kv_side::key ? static_cast<size_t>(kv_ceil_div(h.n_tokens, 16)) * (h.head_dim / 4)
                                               : static_cast<size_t>(kv_ceil_div(h.head_dim, 16)) *
                                                     static_cast<size_t>(kv_ceil_div(h.n_tokens, 4));
    clear_bytes(block, m.centres + (h.has_centres ? static_cast<size_t>(m.n_scales) : 0), m.codes);
    clear_bytes(block, m.codes + rows * static_cast<size_t>(m.brick_bytes), m.bytes);
}

}  // namespace livekv::device
