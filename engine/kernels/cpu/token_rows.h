#pragma once

// Keys whose tokens have a scale and a minimum each (kv_block.h, version 4), and blocks of a codebook (version 7), a
// tile of tokens at a time as floats. Internal linkage.

#include "kernels/cpu/channel_rows.h"

namespace livekv {
namespace {

// Tokens of a block that a tile has.
inline int32_t tokens_of_tile(const block_reader & block, int32_t tile) {
    const int32_t left = block.n_tokens() - tile * kv_tile_tokens;
    return left < kv_tile_tokens ? left : kv_tile_tokens;
}

// f(token of the tile, channel, code) for each code of a tile, in whatever order.
template <typename F>
inline void each_code(const block_reader & block, kv_side side, int32_t tile, int32_t d, const channel_scratch & s,
                      F f) {
    const int32_t n = tokens_of_tile(block, tile);
    const bool key = side == kv_side::key;
    const int32_t n_beside = key ? d / 4 : block.value_quads(tile);  // bricks from one run of 16 to the next
    const int32_t n_runs = key ? kv_ceil_div(n, 16) : kv_ceil_div(d, 16);
    const uint8_t * const bricks = key ? block.key_bricks(tile) : block.value_bricks(tile);
    for (int32_t run = 0; run < n_runs; ++run) {  // at most 16 * d codes at a time
        const uint8_t * codes = bricks + static_cast<size_t>(run * n_beside) * 8 * static_cast<size_t>(block.bits());
        if (block.bits() < 8) {
            lanes::unpack(codes, static_cast<size_t>(n_beside), block.bits(), 0, 0, s.codes);
            codes = s.codes;
        }
        const int32_t n_here = key ? (n - run * 16 < 16 ? n - run * 16 : 16) : (d - run * 16 < 16 ? d - run * 16 : 16);
        for (int32_t beside = 0; beside < n_beside; ++beside) {
            const uint8_t * const brick = codes + beside * 64;
            for (int32_t i = 0; i < 4 * n_here; ++i) {
                const int32_t t = key ? run * 16 + i / 4 : beside * 4 + i % 4;
                const int32_t c = key ? beside * 4 + i % 4 : run * 16 + i / 4;
                if (t < n) {
                    f(t, c, brick[i]);
                }
            }
        }
    }
}

// A tile of a block, token after token: rows [kv_tile_tokens, stride]; of tokens beyond the block's whatever comes.
inline void token_rows(const block_reader & block, kv_side side, int32_t tile, int32_t d, const channel_scratch & s,
                       float * rows, size_t stride) {
    const int32_t first = tile * kv_tile_tokens;
    const auto n = static_cast<size_t>(tokens_of_tile(block, tile));
    float scales[kv_tile_tokens];
    float minima[kv_tile_tokens];
    lanes::to_f32(block.token_scales(first, 0), scales, n);
    lanes::to_f32(block.token_minima(first, 0), minima, n);
    each_code(block, side, tile, d, s, [&](int32_t t, int32_t c, uint8_t code) {
        rows[static_cast<size_t>(t) * stride + static_cast<size_t>(c)] =
            minima[t] + scales[t] * static_cast<float>(code);
    });
}

// The same of a block with a codebook: looked up one by one, then what is kept exactly is written over it.
inline void codebook_rows(const block_reader & block, kv_side side, int32_t tile, int32_t d, const channel_scratch & s,
                          float * rows, size_t stride) {
    float levels[16];
    lanes::to_f32(block.levels(), levels, size_t{1} << block.bits());
    const bool key = side == kv_side::key;
    const int32_t first = key ? 0 : tile * kv_tile_tokens;
    const auto n_ranges = static_cast<size_t>(key ? d : tokens_of_tile(block, tile));
    float middles[kv_tile_tokens];
    float halves[kv_tile_tokens];
    float * const middle = key ? s.middles : middles;
    float * const half = key ? s.scales : halves;
    lanes::to_f32(block.middles(first), middle, n_ranges);
    lanes::to_f32(block.half_ranges(first), half, n_ranges);
    each_code(block, side, tile, d, s, [&](int32_t t, int32_t c, uint8_t code) {
        const int32_t i = key ? c : t;
        rows[static_cast<size_t>(t) * stride + static_cast<size_t>(c)] = middle[i] + half[i] * levels[code];
    });
    const block_reader::key_outliers apart = block.key_outliers_of(tile);
    for (int32_t i = 0; i < apart.n; ++i) {
        const uint16_t place = apart.places[i];
        lanes::to_f32(apart.values + i, rows + static_cast<size_t>(place >> 11) * stride + (place & 0x7ff), 1);
    }
}

// The same of a block of any version that is read so.
inline void float_rows(const block_reader & block, kv_side side, int32_t tile, int32_t d, const channel_scratch & s,
                       float * rows, size_t stride) {
    if (block.has_channels()) {
        return channel_rows(block, tile, d, s, rows, stride);
    }
    if (block.has_codebook()) {
        return codebook_rows(block, side, tile, d, s, rows, stride);
    }
    token_rows(block, side, tile, d, s, rows, stride);
}

}  // namespace
}  // namespace livekv
