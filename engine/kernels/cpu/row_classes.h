#pragma once

// What row_keys.h does, of keys whose channels stand in classes of width. Internal linkage.

#include "kernels/cpu/row_products.h"

namespace livekv {
namespace {

// Multiplies a group's scales into the queries, in the block's order, and rounds the products. Minima, and what
// rounding took off the middle of each channel's codes, are the same for all tokens and are summed exactly.
inline void fold_classes(const block_reader & block, int32_t group, int32_t d, const scratch_map & s) {
    const uint16_t * const order = block.order();
    const uint8_t * const widths = block.widths();
    const bool two_planes = block.n_planes() == 2;
    lanes::to_f32(block.key_scales(group), s.scales, static_cast<size_t>(d));
    lanes::to_f32(block.key_minima(group), s.minima, static_cast<size_t>(d));
    for (int32_t v = 0; v < n_vec; ++v) {
        const auto query = [&](int32_t c) { return lanes::load(s.q + order[c] * n_rows_tile + v * lanes::n); };
        f32 offset = lanes::set(0.0f);
        for (int32_t first = 0; first < d; first += 32) {
            const int32_t last = first + 32 < d ? first + 32 : d;
            f32 largest = lanes::set(1e-30f);
            for (int32_t c = first; c < last; ++c) {
                const f32 q = query(c);
                const f32 x = lanes::mul(q, lanes::set(s.scales[c]));
                largest = lanes::max(largest, lanes::abs(x));
                offset = lanes::fma(q, lanes::set(s.minima[c]), offset);
                offset = lanes::fma(x, lanes::set(middle_of(widths[c / 4])), offset);
            }
            const f32 inverse = lanes::div(lanes::set(127.0f), largest);
            const f32 step = lanes::mul(largest, lanes::set(1.0f / 127.0f));
            lanes::store(s.step + first / 32 * n_rows_tile + v * lanes::n, step);
            f32 sum = lanes::set(0.0f);
            for (int32_t c = first; c < last; c += 4) {
                const f32 middle = lanes::set(middle_of(widths[c / 4]));
                lanes::i32 whole[4];
                lanes::i32 rest[4] = {};
                for (int32_t i = 0; i < 4; ++i) {
                    const f32 x = lanes::mul(query(c + i), lanes::mul(inverse, lanes::set(s.scales[c + i])));
                    whole[i] = lanes::round(x);
                    f32 rounded = lanes::to_float(whole[i]);
                    if (two_planes && widths[c / 4] == 8) {
                        rest[i] = lanes::round(lanes::mul(lanes::sub(x, rounded), lanes::set(254.0f)));
                        rounded = lanes::fma(lanes::to_float(rest[i]), lanes::set(1.0f / 254.0f), rounded);
                    }
                    sum = lanes::fma(rounded, middle, sum);
                }
                uint8_t * const to = s.q8[0] + (c / 4 * n_rows_tile + v * lanes::n) * 4;
                lanes::store_bytes(to, whole[0], whole[1], whole[2], whole[3]);
                if (two_planes) {
                    lanes::store_bytes(s.q8[1] + (to - s.q8[0]), rest[0], rest[1], rest[2], rest[3]);
                }
            }
            offset = lanes::sub(offset, lanes::mul(step, sum));
        }
        lanes::store(s.offset + v * lanes::n, offset);
    }
}

// scores += codes . rounded queries over one tile.
inline void add_class_scores(const block_reader & block, int32_t tile, int32_t d, const scratch_map & s) {
    for (int32_t half = 0; half < block.key_sixteens(tile); ++half) {
        const uint8_t * bricks = block.class_bricks(tile) + static_cast<size_t>(half) * block.class_row_bytes();
        each_class(block.widths(), d / 4, [&](int32_t width, int32_t first, int32_t last) {
            const int32_t n_planes = width == 8 ? 2 : 1;
            const int32_t at_once = !lanes::sums_of_16_bits ? 8 : width == 5 ? 4 : width == 6 ? 2 : 8;
            for (int32_t plane = 0; plane < n_planes; ++plane) {
                lanes::unpack(bricks, static_cast<size_t>(last - first), width, plane, 0, s.codes);
                for (int32_t quad = first, n = 0; quad < last; quad += n) {
                    n = quads_of_a_step(quad, last, at_once);
                    for (int32_t part = 0; part < n_planes; ++part) {
                        const f32 factor = lanes::set((plane == 0 ? 1.0f : 16.0f) * (part == 0 ? 1.0f : 1.0f / 254.0f));
                        f32 step[n_vec];
                        for (int32_t v = 0; v < n_vec; ++v) {
                            step[v] = lanes::mul(lanes::load(s.step + quad / 8 * n_rows_tile + v * lanes::n), factor);
                        }
                        multiply_add_bytes<false>(s.codes + (quad - first) * 64, 64, 16, n,
                                                  s.q8[part] + quad * 4 * n_rows_tile, step,
                                                  s.scores + half * 16 * n_rows_tile);
                    }
                }
            }
            bricks += static_cast<size_t>(last - first) * 8 * static_cast<size_t>(width);
        });
    }
}

}  // namespace
}  // namespace livekv
