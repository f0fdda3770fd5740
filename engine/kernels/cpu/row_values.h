#pragma once

// Results of rows side by side over a tile of sealed values (attention_rows.h). Internal linkage.

#include "kernels/cpu/row_products.h"

namespace livekv {
namespace {

// o [head_dim, rows] += s.scores . v over the n tokens of one tile of a block. Not inlined: GCC 12 then keeps fewer
// sums in registers, and prefill takes 2 % longer with AVX2.
__attribute__((noinline)) inline void block_values(const block_reader & block, int32_t tile, int32_t n,
                                                   int32_t head_dim, const scratch_map & s, float * o) {
    const int32_t first = tile * tile_tokens;
    const int32_t n_quads = block.value_quads(tile);
    const int32_t n_stored = block.n_tokens() - first < tile_tokens ? block.n_tokens() - first : tile_tokens;
    const int8_t * centres = block.value_centres(first);
    const bool has_minima = block.has_tokens();
    lanes::to_f32(block.value_scales(first), s.scales, static_cast<size_t>(n_stored));
    float middles[tile_tokens] = {};  // of the grids, in steps; where they have minima, what it stands for
    if (has_minima) {
        block.token_middles(first, n_stored, s.scales, middles, lanes::to_f32);
    }
    for (int32_t t = 0; centres && t < n; ++t) {
        middles[t] = static_cast<float>(centres[t]);
    }
    f32 step[n_vec];
    for (int32_t v = 0; v < n_vec; ++v) {
        const float * column = s.scores + v * lanes::n;
        f32 largest = lanes::set(1e-30f);
        f32 offset = lanes::load(s.v_offset + v * lanes::n);
        for (int32_t t = 0; t < n; ++t) {
            const f32 w = lanes::mul(lanes::load(column + t * n_rows_tile), lanes::set(s.scales[t]));
            largest = lanes::max(largest, w);
            if (centres) {
                offset = lanes::fma(w, lanes::set(middles[t]), offset);
            } else if (has_minima) {
                offset = lanes::fma(lanes::load(column + t * n_rows_tile), lanes::set(middles[t]), offset);
            }
        }
        lanes::store(s.v_offset + v * lanes::n, offset);
        step[v] = lanes::mul(largest, lanes::set(1.0f / 255.0f));
        const f32 inverse = lanes::div(lanes::set(255.0f), largest);
        for (int32_t quad = 0; quad < n_quads; ++quad) {
            lanes::i32 whole[4];
            lanes::i32 rest[4] = {};
            for (int32_t i = 0; i < 4; ++i) {
                const int32_t t = 4 * quad + i;
                const f32 scaled = lanes::mul(inverse, lanes::set(t < n ? s.scales[t] : 0.0f));
                const f32 x = lanes::mul(lanes::load(column + t * n_rows_tile), scaled);
                if (block.n_planes() == 2) {  // the whole part rounds down, so that the rest is positive too
                    whole[i] = lanes::round(lanes::max(lanes::sub(x, lanes::set(0.5f)), lanes::set(0.0f)));
                    rest[i] = lanes::round(
                        lanes::min(lanes::mul(lanes::max(lanes::sub(x, lanes::to_float(whole[i])), lanes::set(0.0f)),
                                              lanes::set(255.0f)),
                                   lanes::set(255.0f)));
                } else {
                    whole[i] = lanes::round(x);
                }
            }
            lanes::store_bytes(s.p8[0] + (quad * n_rows_tile + v * lanes::n) * 4, whole[0], whole[1], whole[2],
                               whole[3]);
            if (block.n_planes() == 2) {
                lanes::store_bytes(s.p8[1] + (quad * n_rows_tile + v * lanes::n) * 4, rest[0], rest[1], rest[2],
                                   rest[3]);
            }
        }
    }
    const int32_t quads_at_once = block.bits() == 5 || block.bits() == 8 ? 4 : 8;
    const int32_t n_sixteens = kv_ceil_div(head_dim, 16);
    for (int32_t plane = 0; plane < block.n_planes(); ++plane) {
        const int32_t bias = block.n_planes() == 1 ? 1 << (block.bits() - 1) : plane == 0 ? 0 : 8;
        lanes::unpack(block.value_bricks(tile), static_cast<size_t>(n_sixteens * n_quads), block.bits(), plane, bias,
                      s.codes);
        for (int32_t sixteen = 0; sixteen < n_sixteens; ++sixteen) {
            const int32_t n_channels = head_dim - sixteen * 16 < 16 ? head_dim - sixteen * 16 : 16;
            for (int32_t quad = 0; quad < n_quads; quad += quads_at_once) {
                const int32_t n_now = n_quads - quad < quads_at_once ? n_quads - quad : quads_at_once;
                for (int32_t part = 0; part < block.n_planes(); ++part) {
                    const f32 factor = lanes::set((plane == 0 ? 1.0f : 16.0f) * (part == 0 ? 1.0f : 1.0f / 255.0f));
                    const f32 scaled[n_vec] = {lanes::mul(step[0], factor), lanes::mul(step[1], factor)};
                    multiply_add_bytes<true>(s.codes + (sixteen * n_quads + quad) * 64, 64, n_channels, n_now,
                                             s.p8[part] + quad * 4 * n_rows_tile, scaled,
                                             o + sixteen * 16 * n_rows_tile);
                }
            }
        }
    }
    const int32_t n_apart = n * block.n_outliers();
    const uint8_t * const channels = block.value_channels(first);
    lanes::to_f32(block.value_outliers(first), s.rows, static_cast<size_t>(n_apart));
    for (int32_t i = 0; i < n_apart; ++i) {
        add_outlier(o + block.channel(channels, i) * n_rows_tile, s.scores + i / block.n_outliers() * n_rows_tile,
                    s.rows[i]);
    }
}

}  // namespace
}  // namespace livekv
