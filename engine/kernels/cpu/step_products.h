#pragma once

// Products of packed bricks, whose tokens or channels are the lanes, with the bytes of a few rows: the work most of
// attention over blocks consists of. Internal linkage.

#include "kernels/cpu/step_scratch.h"

namespace livekv {
namespace {

// What a sum of dot products may hold at every level (lanes_generic.h): so many bricks of four things to sum over.
template <int32_t bits, bool codes_signed>
constexpr int32_t quads_at_once = !lanes::sums_of_16_bits                    ? 8
                                  : bits == 6                                ? 2
                                  : bits == 5 || (bits == 8 && codes_signed) ? 4
                                                                             : 8;

// Asks for n_quads bricks, lanes::n_bricks side by side: into the second cache, because the first has too few requests
// to wait for memory with.
template <int32_t bits, int32_t n_quads>
inline void fetch_bricks(const uint8_t * ahead) {
    for (int32_t i = 0; i < n_quads * 8 * bits * lanes::n_bricks; i += 64) {
        __builtin_prefetch(ahead + i, 0, 2);
    }
}

// Adds up to rows_at_once rows' sums over n_quads bricks, for lanes::n_bricks of them side by side:
// total [n_rows][n_pair] += step[row] * codes . bytes. to_next: bytes to the second brick; bytes: [row][n_quads][4],
// rows byte_stride apart.
template <int32_t bits, int32_t n_rows, bool codes_signed>
inline void brick_products(const uint8_t * bricks, size_t to_next, int32_t n_quads, int32_t plane, int32_t bias,
                           const uint8_t * bytes, size_t byte_stride, const float * step, size_t step_stride,
                           float factor, f32 (*total)[n_pair]) {
    lanes::dot_sum sum[n_rows][n_pair];
    for (int32_t r = 0; r < n_rows; ++r) {
        for (int32_t v = 0; v < n_pair; ++v) {
            sum[r][v] = lanes::dot_zero();
        }
    }
    for (int32_t quad = 0; quad < n_quads; ++quad) {
        lanes::bytes codes[n_pair];
        lanes::unpack_bricks<bits>(bricks + quad * 8 * bits, to_next, plane, bias, codes);
        for (int32_t r = 0; r < n_rows; ++r) {
            const lanes::bytes x = lanes::set_bytes(bytes + static_cast<size_t>(r) * byte_stride + 4 * quad);
            for (int32_t v = 0; v < n_pair; ++v) {
                sum[r][v] = codes_signed ? lanes::dot(sum[r][v], x, codes[v]) : lanes::dot(sum[r][v], codes[v], x);
            }
        }
    }
    for (int32_t r = 0; r < n_rows; ++r) {
        lanes::settle<bits>(sum[r], bias);
        const f32 scale = lanes::set(step[static_cast<size_t>(r) * step_stride] * factor);
        for (int32_t v = 0; v < n_pair; ++v) {
            total[r][v] = lanes::fma(lanes::dot_float(sum[r][v]), scale, total[r][v]);
        }
    }
}

// scores [row ..., tile_tokens] of one tile: offset [n_rows] + codes . rounded queries + s_of, where outliers have it.
// ahead: bricks of another tile, to be fetched meanwhile.
template <int32_t bits, int32_t n_rows>
inline void key_products(const block_reader & block, int32_t tile, int32_t head_dim, const step_scratch & s,
                         int32_t row, const float * offset, bool with_outliers, float * scores, const uint8_t * ahead) {
    constexpr int32_t n_planes = bits == 8 ? 2 : 1;
    constexpr int32_t at_once = quads_at_once<bits, false>;
    const int32_t n_quads = head_dim / 4;
    const int32_t n_sixteens = block.key_sixteens(tile);
    const size_t sixteen_bytes = static_cast<size_t>(n_quads) * 8 * bits;
    const size_t n_steps = s.d32 / 32;
    for (int32_t sixteen = 0; sixteen < n_sixteens; sixteen += lanes::n_bricks) {
        const size_t from = static_cast<size_t>(sixteen) * sixteen_bytes;
        const uint8_t * const bricks = block.key_bricks(tile) + from;
        const size_t to_next = sixteen + 1 < n_sixteens ? sixteen_bytes : 0;
        f32 total[n_rows][n_pair];
        for (int32_t r = 0; r < n_rows; ++r) {
            total[r][0] = total[r][1] = lanes::set(offset[r]);
        }
        for (int32_t quad = 0; quad < n_quads; quad += at_once) {
            const int32_t n = n_quads - quad < at_once ? n_quads - quad : at_once;
            fetch_bricks<bits, at_once>(ahead + from + quad * 8 * bits * lanes::n_bricks);
            for (int32_t i = 0; i < n_planes * n_planes; ++i) {
                const float factor = (i / n_planes == 0 ? 1.0f : 16.0f) * (i % n_planes == 0 ? 1.0f : 1.0f / 254.0f);
                brick_products<bits, n_rows, false>(bricks + quad * 8 * bits, to_next, n, i / n_planes, 0,
                                                    s.q8[i % n_planes] + static_cast<size_t>(row) * s.d32 + 4 * quad,
                                                    s.d32, s.step + static_cast<size_t>(row) * n_steps + quad / 8,
                                                    n_steps, factor, total);
            }
        }
        f32 apart[4][n_pair];
        if (with_outliers) {
            lanes::columns_4(s.s_of + sixteen * 16 * 4, apart);
        }
        for (int32_t r = 0; r < n_rows; ++r) {
            lanes::reorder(total[r]);
            for (int32_t v = 0; v < n_pair; ++v) {
                lanes::store(scores + (row + r) * tile_tokens + sixteen * 16 + v * lanes::n,
                             with_outliers ? lanes::add(total[r][v], apart[r][v]) : total[r][v]);
            }
        }
    }
}

// o [row ..., d32] += rounded weights . codes of one tile, of channels from 16 * first on, up to 16 * last. ahead: as
// above.
template <int32_t bits, int32_t n_rows>
inline void value_products(const block_reader & block, int32_t tile, int32_t first, int32_t last,
                           const step_scratch & s, int32_t row, const uint8_t * ahead) {
    constexpr int32_t n_planes = bits == 8 ? 2 : 1;
    constexpr int32_t at_once = quads_at_once<bits, true>;
    const int32_t n_quads = block.value_quads(tile);
    const size_t sixteen_bytes = static_cast<size_t>(n_quads) * 8 * bits;
    for (int32_t sixteen = first; sixteen < last; sixteen += lanes::n_bricks) {
        const size_t from = static_cast<size_t>(sixteen) * sixteen_bytes;
        const uint8_t * const bricks = block.value_bricks(tile) + from;
        const size_t to_next = sixteen + 1 < last ? sixteen_bytes : 0;
        float * const o = s.row(s.o, row) + sixteen * 16;
        f32 total[n_rows][n_pair];
        for (int32_t r = 0; r < n_rows; ++r) {
            for (int32_t v = 0; v < n_pair; ++v) {
                total[r][v] = lanes::load(o + static_cast<size_t>(r) * s.d32 + v * lanes::n);
            }
        }
        for (int32_t quad = 0; quad < n_quads; quad += at_once) {
            const int32_t n = n_quads - quad < at_once ? n_quads - quad : at_once;
            fetch_bricks<bits, at_once>(ahead + from + quad * 8 * bits * lanes::n_bricks);
            for (int32_t i = 0; i < n_planes * n_planes; ++i) {
                const int32_t bias = n_planes == 1 ? 1 << (bits - 1) : i / n_planes == 0 ? 0 : 8;
                const float factor = (i / n_planes == 0 ? 1.0f : 16.0f) * (i % n_planes == 0 ? 1.0f : 1.0f / 255.0f);
                brick_products<bits, n_rows, true>(bricks + quad * 8 * bits, to_next, n, i / n_planes, bias,
                                                   s.p8[i % n_planes] + row * tile_tokens + 4 * quad,
                                                   size_t{tile_tokens}, s.p_step + row, size_t{1}, factor, total);
            }
        }
        for (int32_t r = 0; r < n_rows; ++r) {
            for (int32_t v = 0; v < n_pair; ++v) {
                lanes::store(o + static_cast<size_t>(r) * s.d32 + v * lanes::n, total[r][v]);
            }
        }
    }
}

}  // namespace
}  // namespace livekv
