#pragma once

// What step_keys.h does, of keys whose channels stand in classes of width. Internal linkage.

#include "kernels/cpu/step_block.h"
#include "kernels/cpu/step_products.h"

namespace livekv {
namespace {

// A block's order: the queries of item_rows rows in it, and the middles of its channels' codes.
inline void enter_classes(const block_reader & block, int32_t d, int32_t n_rows, const step_scratch & s) {
    const uint16_t * const order = block.order();
    for (int32_t row = 0; row < n_rows; row += 4) {
        const float * const from = s.beside(s.q_of, row);
        float * const to = s.row(s.q_ordered, row);
        for (int32_t c = 0; c < d; c += 4) {
            float four[16];  // of four channels the four rows
            for (int32_t i = 0; i < 4; ++i) {
                __builtin_memcpy(four + 4 * i, from + 4 * order[c + i], 4 * sizeof(float));
            }
            lanes::transpose_4(four, 4, to + c, static_cast<int32_t>(s.d32));
        }
        for (int32_t r = 0; r < 4; ++r) {
            for (size_t c = static_cast<size_t>(d); c < s.d32; ++c) {
                to[static_cast<size_t>(r) * s.d32 + c] = 0.0f;
            }
        }
    }
    for (size_t c = 0; c < s.d32; ++c) {
        s.middles[c] = c < static_cast<size_t>(d) ? middle_of(block.widths()[c / 4]) : 0.0f;
    }
}

// As fold_classes in row_classes.h, of n_rows rows from `row` on: q8, step, and offset [n_rows].
template <int32_t n_planes, int32_t n_rows>
inline void fold_class_rows(const step_scratch & s, int32_t row, float * offsets) {
    constexpr size_t n = 32 / lanes::n;
    f32 offset[4];
    f32 largest[4];
    for (int32_t r = 0; r < 4; ++r) {
        offset[r] = lanes::set(0.0f);
    }
    for (size_t first = 0; first < s.d32; first += 32) {
        f32 x[n_rows][n];
        for (int32_t r = 0; r < 4; ++r) {
            largest[r] = lanes::set(1e-30f);
        }
        for (size_t i = 0; i < n; ++i) {
            const size_t c = first + i * lanes::n;
            const f32 scales = lanes::load(s.scales + c);
            const f32 minima = lanes::load(s.minima + c);
            const f32 middles = lanes::load(s.middles + c);
            for (int32_t r = 0; r < n_rows; ++r) {
                const f32 q = lanes::load(s.row(s.q_ordered, row + r) + c);
                x[r][i] = lanes::mul(q, scales);
                largest[r] = lanes::max(largest[r], lanes::abs(x[r][i]));
                offset[r] = lanes::fma(q, minima, lanes::fma(x[r][i], middles, offset[r]));
            }
        }
        float top[4];
        lanes::largest_4(largest, top);
        for (int32_t r = 0; r < n_rows; ++r) {
            const size_t at = static_cast<size_t>(row + r) * s.d32 + first;
            const float step = top[r] * (1.0f / 127.0f);
            s.step[at / 32] = step;
            const f32 inverse = lanes::set(127.0f / top[r]);
            const f32 minus_step = lanes::set(-step);
            lanes::i32 whole[n];
            lanes::i32 rest[n] = {};
            for (size_t i = 0; i < n; ++i) {
                const f32 scaled = lanes::mul(x[r][i], inverse);
                whole[i] = lanes::round(scaled);
                f32 rounded = lanes::to_float(whole[i]);
                const f32 middles = lanes::load(s.middles + first + i * lanes::n);
                if (n_planes == 2) {  // only codes of 8 bits meet the rest
                    const f32 left = lanes::mul(lanes::sub(scaled, rounded), lanes::set(254.0f));
                    rest[i] = lanes::round(lanes::mul(left, lanes::load(s.centres + first + i * lanes::n)));
                    rounded = lanes::fma(lanes::to_float(rest[i]), lanes::set(1.0f / 254.0f), rounded);
                }
                offset[r] = lanes::fma(lanes::mul(rounded, middles), minus_step, offset[r]);
            }
            lanes::store_32_bytes(s.q8[0] + at, whole);
            if (n_planes == 2) {
                lanes::store_32_bytes(s.q8[1] + at, rest);
            }
        }
    }
    lanes::sum_4(offset, offsets);
}

// A group's scales, minima and, in centres, 1 where codes have 8 bits.
inline void load_class_grids(const block_reader & block, int32_t group, int32_t d, const step_scratch & s) {
    lanes::to_f32(block.key_scales(group), s.scales, static_cast<size_t>(d));
    lanes::to_f32(block.key_minima(group), s.minima, static_cast<size_t>(d));
    for (size_t c = static_cast<size_t>(d); c < s.d32; ++c) {
        s.scales[c] = s.minima[c] = 0.0f;
    }
    for (size_t c = 0; block.n_planes() == 2 && c < s.d32; ++c) {
        s.centres[c] = c < static_cast<size_t>(d) && block.widths()[c / 4] == 8 ? 1.0f : 0.0f;
    }
}

// f<bits>() for a class's width; the rest as with_bits.
template <typename F>
inline void with_width(int32_t width, F f) {
    width == 6 ? f.template operator()<6>() : with_bits(width, f);
}

// Sums over quads first ... last - 1, all of one width, for lanes::n_bricks rows of bricks, to_next bytes apart.
template <int32_t bits, int32_t n_rows>
inline void class_products(const uint8_t * bricks, size_t to_next, int32_t first, int32_t last, const step_scratch & s,
                           int32_t row, const uint8_t * ahead, f32 (*total)[n_pair]) {
    constexpr int32_t n_planes = bits == 8 ? 2 : 1;
    constexpr int32_t at_once = quads_at_once<bits, false>;
    const size_t n_steps = s.d32 / 32;
    for (int32_t quad = first, n = 0; quad < last; quad += n) {
        n = quads_of_a_step(quad, last, at_once);
        for (int32_t i = 0; i < n * 8 * bits * lanes::n_bricks; i += 64) {
            __builtin_prefetch(ahead + i, 0, 2);
        }
        for (int32_t i = 0; i < n_planes * n_planes; ++i) {
            const float factor = (i / n_planes == 0 ? 1.0f : 16.0f) * (i % n_planes == 0 ? 1.0f : 1.0f / 254.0f);
            brick_products<bits, n_rows, false>(
                bricks, to_next, n, i / n_planes, 0, s.q8[i % n_planes] + static_cast<size_t>(row) * s.d32 + 4 * quad,
                s.d32, s.step + static_cast<size_t>(row) * n_steps + quad / 8, n_steps, factor, total);
        }
        bricks += n * 8 * bits;
        ahead += n * 8 * bits * lanes::n_bricks;
    }
}

// scores [row ..., tile_tokens] of one tile: offset [n_rows] + codes . rounded queries. ahead: bricks of another tile,
// to be fetched meanwhile.
template <int32_t n_rows>
inline void class_scores(const block_reader & block, int32_t tile, int32_t d, const step_scratch & s, int32_t row,
                         const float * offset, float * scores, const uint8_t * ahead) {
    const int32_t n_sixteens = block.key_sixteens(tile);
    const size_t row_bytes = block.class_row_bytes();
    for (int32_t sixteen = 0; sixteen < n_sixteens; sixteen += lanes::n_bricks) {
        const uint8_t * bricks = block.class_bricks(tile) + static_cast<size_t>(sixteen) * row_bytes;
        const uint8_t * fetched = ahead + static_cast<size_t>(sixteen) * row_bytes;
        const size_t to_next = sixteen + 1 < n_sixteens ? row_bytes : 0;
        f32 total[n_rows][n_pair];
        for (int32_t r = 0; r < n_rows; ++r) {
            total[r][0] = total[r][1] = lanes::set(offset[r]);
        }
        each_class(block.widths(), d / 4, [&](int32_t width, int32_t first, int32_t last) {
            with_width(width, [&]<int32_t bits>() {
                class_products<bits, n_rows>(bricks, to_next, first, last, s, row, fetched, total);
            });
            const size_t n_bytes = static_cast<size_t>(last - first) * 8 * static_cast<size_t>(width);
            bricks += n_bytes;
            fetched += n_bytes * lanes::n_bricks;
        });
        for (int32_t r = 0; r < n_rows; ++r) {
            lanes::reorder(total[r]);
            for (int32_t v = 0; v < n_pair; ++v) {
                lanes::store(scores + (row + r) * tile_tokens + sixteen * 16 + v * lanes::n, total[r][v]);
            }
        }
    }
}

}  // namespace
}  // namespace livekv
