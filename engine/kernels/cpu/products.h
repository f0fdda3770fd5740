#pragma once

// Products with packed weights, in terms of a level's lanes; kernels/products.h says what they are.

#include <algorithm>

#include "kernels/products.h"
#include "kernels/weights/each_type.h"

// Plain lanes are loops themselves: unrolling the loops around them too takes the compiler minutes.
#if defined(__AVX2__)
#define LIVEKV_UNROLL _Pragma("GCC unroll 8")
#define LIVEKV_INLINE [[gnu::always_inline]] inline
#else
#define LIVEKV_UNROLL
#define LIVEKV_INLINE inline
#endif

namespace livekv {
namespace {

// n_rows rows [n_in], stride floats apart, as at most rows_a_tile packed ones.
void pack_rows(const float * x, size_t stride, int64_t n_in, int64_t n_rows, uint8_t * to) {
    constexpr int32_t n_vectors = part_inputs / lanes::n;
    const size_t n = static_cast<size_t>(n_rows);
    for (size_t r = 0; r < n; ++r) {
        const float * from = x + r * stride;
        uint8_t * part = to;
        for (int64_t i = 0; i < n_in; i += part_inputs, part += packed_part_bytes * n) {
            lanes::f32 v[n_vectors];
            auto top = lanes::set(0.0f);
            auto finite = lanes::set(0.0f);  // 0 times a number, NaN when one of them is none
            for (int32_t k = 0; k < n_vectors; ++k) {
                v[k] = lanes::load(from + i + k * lanes::n);
                top = lanes::max(top, lanes::abs(v[k]));
                finite = lanes::fma(v[k], lanes::set(0.0f), finite);
            }
            const float largest = lanes::largest(top);
            const float scale = largest / 127.0f + lanes::sum(finite);
            const auto inverse = lanes::set(largest > 0.0f ? 127.0f / largest : 0.0f);
            lanes::i32 u[n_vectors];
            float sums[2] = {0.0f, 0.0f};
            for (int32_t k = 0; k < n_vectors; ++k) {
                u[k] = lanes::round(lanes::mul(v[k], inverse));
                sums[2 * k / n_vectors] += lanes::sum(lanes::to_float(u[k]));
            }
            uint8_t bytes[part_inputs];
            lanes::store_32_bytes(bytes, u);
            for (size_t quad = 0; quad < 8; ++quad) {
                std::memcpy(part + 4 * (quad * n + r), bytes + 4 * quad, 4);
            }
            const float numbers[4] = {scale, (sums[0] + sums[1]) * scale, sums[0] * scale, sums[1] * scale};
            for (size_t k = 0; k < 4; ++k) {
                std::memcpy(part + 4 * ((8 + k) * n + r), numbers + k, 4);
            }
        }
    }
}

// Brick j of a part for the outputs of one vector, from `output` on.
template <int32_t bits>
LIVEKV_INLINE lanes::bytes take_brick(const uint8_t * codes, int32_t j, int32_t output) {
    const uint8_t * at = codes + 4 * output;
    if constexpr (bits == 8) {
        return lanes::load_bytes(at + 64 * j);
    } else {
        const auto low = lanes::field(lanes::load_bytes(at + 64 * (j / 2)), 4 * (j % 2), 15);
        const uint8_t * above = at + code_bytes(4);
        if constexpr (bits == 5) {
            return lanes::join(low, lanes::field(lanes::load_bytes(above), j - 4, 16));
        } else if constexpr (bits == 6) {
            return lanes::join(low, lanes::field(lanes::load_bytes(above + 64 * (j / 4)), 2 * (j % 4) - 4, 48));
        } else {
            return low;
        }
    }
}

// Bricks whose dot products a sum holds: with 16 bits, 2 * 127 * (2^bits - 1) times so many must stay below 2^15.
template <int32_t bits>
constexpr int32_t bricks_a_sum = !lanes::sums_of_16_bits || bits == 4 ? 8
                                 : bits == 5                          ? 4
                                 : bits == 6                          ? 2
                                                                      : 0;

// Of n_rows packed rows (stride words apart) the dot products with `shared` inputs of a part, from brick `first` on.
template <typename W, int32_t n_rows>
LIVEKV_INLINE void dot_bricks(const uint8_t * codes, int32_t first, int32_t output, const uint8_t * words,
                              size_t stride, lanes::f32 * total) {
    constexpr int32_t n_bricks = W::shared / 4;
    constexpr int32_t n_run = std::min(n_bricks, bricks_a_sum<W::bits>);
    const auto word = [&](int32_t j, int32_t r) {
        return lanes::set_bytes(words + 4 * (stride * static_cast<size_t>(j) + static_cast<size_t>(r)));
    };
    lanes::dot_sum sums[n_rows];
    lanes::i32 whole[n_rows];  // below 2^24: floats hold them
    if constexpr (n_run > 0) {
        LIVEKV_UNROLL
        for (int32_t run = 0; run < n_bricks; run += n_run) {
            for (auto & sum : sums) {
                sum = lanes::dot_zero();
            }
            LIVEKV_UNROLL
            for (int32_t j = first + run; j < first + run + n_run; ++j) {
                const auto brick = take_brick<W::bits>(codes, j, output);
                LIVEKV_UNROLL
                for (int32_t r = 0; r < n_rows; ++r) {
                    sums[r] = lanes::dot(sums[r], brick, word(j, r));
                }
            }
            LIVEKV_UNROLL
            for (int32_t r = 0; r < n_rows; ++r) {
                const lanes::i32 sum = lanes::dot_i32(sums[r], 1);
                whole[r] = run == 0 ? sum : lanes::add_i32(whole[r], sum);
            }
        }
    } else {  // eight bits, in halves: sums of 16 bits hold those of a part
        lanes::dot_sum above[n_rows];
        for (int32_t r = 0; r < n_rows; ++r) {
            sums[r] = above[r] = lanes::dot_zero();
        }
        LIVEKV_UNROLL
        for (int32_t j = first; j < first + n_bricks; ++j) {
            const auto brick = take_brick<8>(codes, j, output);
            const auto low = lanes::field(brick, 0, 15);
            const auto high = lanes::field(brick, 4, 15);
            LIVEKV_UNROLL
            for (int32_t r = 0; r < n_rows; ++r) {
                const auto four = word(j, r);
                sums[r] = lanes::dot(sums[r], low, four);
                above[r] = lanes::dot(above[r], high, four);
            }
        }
        LIVEKV_UNROLL
        for (int32_t r = 0; r < n_rows; ++r) {
            whole[r] = lanes::add_i32(lanes::dot_i32(sums[r], 1), lanes::dot_i32(above[r], 16));
        }
    }
    LIVEKV_UNROLL
    for (int32_t r = 0; r < n_rows; ++r) {
        total[r] = lanes::to_float(whole[r]);
    }
}

// What one part adds to sums of n_rows rows: acc [n_rows] of the outputs of one vector, from `output` on. head, codes:
// of the strip; words: the rows' part, stride words apart.
template <typename W, int32_t n_rows>
LIVEKV_INLINE void add_part(const uint8_t * head, const uint8_t * codes, int32_t output, const uint8_t * words,
                            size_t stride, lanes::f32 * acc) {
    const uint8_t * row_numbers = words + 32 * stride;
    LIVEKV_UNROLL
    for (int32_t i = 0; i < part_inputs / W::shared; ++i) {
        lanes::f32 total[n_rows] = {};
        dot_bricks<W, n_rows>(codes, i * (W::shared / 4), output, words, stride, total);
        const weight_grid<lanes> grid = W::template grid<lanes>(head, codes + code_bytes(W::bits), output, i);
        const size_t which = W::shared == 32 ? 1 : 2 + static_cast<size_t>(i);
        LIVEKV_UNROLL
        for (int32_t r = 0; r < n_rows; ++r) {
            const auto scale = lanes::mul(grid.scale, lanes::set_word(row_numbers + 4 * r));
            const auto sum = lanes::set_word(row_numbers + 4 * (which * stride + static_cast<size_t>(r)));
            acc[r] = lanes::fma(total[r], scale, acc[r]);
            acc[r] = lanes::fma(grid.minimum, sum, acc[r]);
        }
    }
}

// n_rows of a tile of packed rows (of_tile of them) times one strip: out [n_rows][16], ld floats apart. full: the tile
// has rows_a_tile. Then offsets in it are constants, and the strip is read once for each vector of outputs, whose sums
// stay in registers; else once. cold: the strip comes from memory. Where each byte is used so often that the
// processor's own prefetching falls behind, it is asked for here.
template <typename W, int32_t n_rows, bool full>
void multiply_strip(const uint8_t * strip, bool cold, int64_t n_in, const uint8_t * rows, size_t of_tile, float * out,
                    size_t ld) {
    constexpr size_t ahead = 4096;
    constexpr int32_t n_vectors = full ? 1 : strip_outputs / lanes::n;
    const size_t stride = full ? static_cast<size_t>(rows_a_tile) : of_tile;
    for (int32_t output = 0; output < strip_outputs; output += n_vectors * lanes::n) {
        lanes::f32 acc[n_vectors][n_rows];
        for (auto & of_vector : acc) {
            for (auto & sum : of_vector) {
                sum = lanes::set(0.0f);
            }
        }
        const uint8_t * at = strip;
        const uint8_t * part = rows;
        for (int64_t tile = 0; tile < n_in / W::span; ++tile) {
            const uint8_t * head = at;
            at += W::head_bytes;
            for (int32_t p = 0; p < W::span / part_inputs; ++p) {
                if (n_rows == lanes::product_rows && cold && output == 0) {
                    for (size_t line = 0; line < code_bytes(W::bits) + W::number_bytes; line += 64) {
                        __builtin_prefetch(at + ahead + line, 0, 2);
                    }
                }
                for (int32_t v = 0; v < n_vectors; ++v) {
                    add_part<W, n_rows>(head, at, output + v * lanes::n, part, stride, acc[v]);
                }
                at += code_bytes(W::bits) + W::number_bytes;
                part += packed_part_bytes * stride;
            }
        }
        for (int32_t r = 0; r < n_rows; ++r) {
            for (int32_t v = 0; v < n_vectors; ++v) {
                lanes::store(out + static_cast<size_t>(r) * ld + output + v * lanes::n, acc[v][r]);
            }
        }
    }
}

// The rows left of a tile, as many at once as there is a kernel for.
template <typename W, int32_t n, bool full>
void multiply_rows(const uint8_t * strip, bool cold, int64_t n_in, const uint8_t * rows, int64_t first, int64_t stride,
                   float * out, size_t ld) {
    for (; stride - first >= n; first += n, out += n * ld) {
        multiply_strip<W, n, full>(strip, cold && first == 0, n_in, rows + 4 * first, static_cast<size_t>(stride), out,
                                   ld);
    }
    if constexpr (n > 1 && !full) {
        if (first < stride) {
            multiply_rows<W, n / 2, full>(strip, cold, n_in, rows, first, stride, out, ld);
        }
    }
}

static_assert(rows_a_tile % lanes::product_rows == 0);

// out [n_rows][n_out], ld floats apart: columns 16 * first_strip ... of strips and rows packed by pack_rows.
void multiply(const packed_matrix & w, int64_t first_strip, int64_t n_strips, const uint8_t * rows, int64_t n_rows,
              float * out, size_t ld) {
    with_weights(w.type, [&](auto type) {
        using W = decltype(type);
        const size_t strip_bytes = w.strip_bytes();
        for (int64_t s = first_strip; s < first_strip + n_strips; ++s) {
            const uint8_t * strip = w.strips + static_cast<size_t>(s) * strip_bytes;
            const int64_t n_here = w.n_out - 16 * s < 16 ? w.n_out - 16 * s : 16;
            const uint8_t * tile = rows;
            for (int64_t r = 0; r < n_rows; r += rows_a_tile) {
                const int64_t n = n_rows - r < rows_a_tile ? n_rows - r : rows_a_tile;
                float * to = out + static_cast<size_t>(r) * ld + 16 * s;
                constexpr int32_t at_once = lanes::product_rows;
                const auto work = n == rows_a_tile ? multiply_rows<W, at_once, true> : multiply_rows<W, at_once, false>;
                if (n_here == 16) {
                    work(strip, r == 0, w.n_in, tile, 0, n, to, ld);
                } else {
                    float all[rows_a_tile * 16];
                    work(strip, r == 0, w.n_in, tile, 0, n, all, 16);
                    for (int64_t k = 0; k < n; ++k) {
                        std::memcpy(to + static_cast<size_t>(k) * ld, all + 16 * k,
                                    static_cast<size_t>(n_here) * sizeof(float));
                    }
                }
                tile += packed_row_bytes(w.n_in, n);
            }
        }
    });
}

}  // namespace
}  // namespace livekv

#undef LIVEKV_UNROLL
#undef LIVEKV_INLINE
