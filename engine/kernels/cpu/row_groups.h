#pragma once

// What row_values.h does, of values whose tokens have a scale and a minimum for each group of channels (kv_block.h,
// version 6). Internal linkage.

#include "kernels/cpu/row_products.h"

namespace livekv {
namespace {

// A grid's weights, s.scores times its scales, rounded into s.p8, with what a step of them is; what minima and the
// middles of codes add to each of its channels goes to offset.
inline void weigh_grid(const block_reader & block, int32_t tile, int32_t n, int32_t grid, const scratch_map & s,
                       f32 * step, f32 * offset) {
    const int32_t first = tile * tile_tokens;
    const int32_t n_quads = block.value_quads(tile);
    const float middle = static_cast<float>(1 << (block.bits() - 1));
    lanes::to_f32(block.token_scales(first, grid), s.scales, static_cast<size_t>(n));
    lanes::to_f32(block.token_minima(first, grid), s.minima, static_cast<size_t>(n));
    for (int32_t t = n; t < 4 * n_quads; ++t) {
        s.scales[t] = 0.0f;
    }
    for (int32_t v = 0; v < n_vec; ++v) {
        const float * const column = s.scores + v * lanes::n;
        f32 largest = lanes::set(1e-30f);
        f32 sum = lanes::set(0.0f);
        for (int32_t t = 0; t < n; ++t) {
            const f32 p = lanes::load(column + t * n_rows_tile);
            largest = lanes::max(largest, lanes::mul(p, lanes::set(s.scales[t])));
            sum = lanes::fma(p, lanes::set(s.minima[t] + middle * s.scales[t]), sum);
        }
        offset[v] = sum;
        step[v] = lanes::mul(largest, lanes::set(1.0f / 255.0f));
        const f32 inverse = lanes::div(lanes::set(255.0f), largest);
        for (int32_t quad = 0; quad < n_quads; ++quad) {
            lanes::i32 whole[4];
            for (int32_t i = 0; i < 4; ++i) {
                const int32_t t = 4 * quad + i;
                const f32 scaled = lanes::mul(inverse, lanes::set(s.scales[t]));
                whole[i] = lanes::round(lanes::mul(lanes::load(column + t * n_rows_tile), scaled));
            }
            lanes::store_bytes(s.p8[0] + (quad * n_rows_tile + v * lanes::n) * 4, whole[0], whole[1], whole[2],
                               whole[3]);
        }
    }
}

// o [head_dim, rows] += s.scores . v over the n tokens of one tile of a block of up to 5 bits.
__attribute__((noinline)) inline void group_values(const block_reader & block, int32_t tile, int32_t n,
                                                   int32_t head_dim, const scratch_map & s, float * o) {
    const int32_t n_quads = block.value_quads(tile);
    const int32_t quads_at_once = block.bits() == 5 ? 4 : 8;
    const int32_t n_sixteens = kv_ceil_div(head_dim, 16);
    lanes::unpack(block.value_bricks(tile), static_cast<size_t>(n_sixteens * n_quads), block.bits(), 0,
                  1 << (block.bits() - 1), s.codes);
    f32 step[n_vec];
    f32 offset[n_vec];
    for (int32_t sixteen = 0; sixteen < n_sixteens; ++sixteen) {
        if (sixteen % 2 == 0) {
            weigh_grid(block, tile, n, sixteen / 2, s, step, offset);
        }
        const int32_t n_channels = head_dim - sixteen * 16 < 16 ? head_dim - sixteen * 16 : 16;
        float * const to = o + sixteen * 16 * n_rows_tile;
        for (int32_t i = 0; i < n_channels * n_vec; ++i) {
            lanes::store(to + i * lanes::n, lanes::add(lanes::load(to + i * lanes::n), offset[i % n_vec]));
        }
        for (int32_t quad = 0; quad < n_quads; quad += quads_at_once) {
            const int32_t n_now = n_quads - quad < quads_at_once ? n_quads - quad : quads_at_once;
            multiply_add_bytes<true>(s.codes + (sixteen * n_quads + quad) * 64, 64, n_channels, n_now,
                                     s.p8[0] + quad * 4 * n_rows_tile, step, to);
        }
    }
}

}  // namespace
}  // namespace livekv
