#pragma once

// q4_K and q5_K: 256 inputs share a scale of scales and one of minima, each 32 have six bits of either.
//
//   file    f16 d | f16 dmin | 12 bytes: six-bit scales and minima of 8 parts | bit 4 of all (q5_K), byte i: input i of
//           part p in bit p | 128 bytes: parts p and p + 1 in the halves of 32 bytes, p even
//   head    f16 d [16] | f16 dmin [16]
//   part    codes | scales [16] | minima [16], a byte each
//
// A weight is d * scale * u - dmin * minimum.

#include "kernels/weights/tile.h"

namespace livekv {
namespace {

template <int32_t width>
struct weights_of_8_parts {
    static constexpr int32_t bits = width;
    static constexpr int32_t span = 256;
    static constexpr int32_t shared = 32;
    static constexpr size_t file_bytes = 16 + 32 * static_cast<size_t>(width);
    static constexpr size_t head_bytes = 64;
    static constexpr size_t number_bytes = 32;

    static uint32_t code(const uint8_t * block, int32_t i) {
        const int32_t part = i / 32;
        const uint8_t * above = block + 16;
        const uint8_t * low = above + (width == 5 ? 32 : 0);
        const uint32_t u = low[32 * (part / 2) + i % 32] >> (4 * (part % 2)) & 15u;
        return width == 5 ? u | (above[i % 32] >> part & 1u) << 4 : u;
    }

    static void put_numbers(const uint8_t * block, int32_t output, uint8_t * head, uint8_t * numbers, int32_t part) {
        put_f16(head, output, block);
        put_f16(head + 32, output, block + 2);
        // The first four are whole; of the others the upper two bits lie above those.
        const uint8_t * six = block + 4;
        const int32_t p = part % 4;
        uint32_t scale = six[p] & 63u;
        uint32_t minimum = six[p + 4] & 63u;
        if (part >= 4) {
            scale = (six[p + 8] & 15u) | six[p] >> 6 << 4;
            minimum = six[p + 8] >> 4 | six[p + 4] >> 6 << 4;
        }
        numbers[output] = static_cast<uint8_t>(scale);
        numbers[16 + output] = static_cast<uint8_t>(minimum);
    }

    template <typename L>
    static weight_grid<L> grid(const uint8_t * head, const uint8_t * numbers, int32_t output, int32_t /* at */) {
        const auto zero = L::set(0.0f);
        return {L::mul(L::load_f16(head + 2 * output), L::load_u8(numbers + output)),
                L::sub(zero, L::mul(L::load_f16(head + 32 + 2 * output), L::load_u8(numbers + 16 + output)))};
    }
};

using q4_k_weights = weights_of_8_parts<4>;
using q5_k_weights = weights_of_8_parts<5>;

}  // namespace
}  // namespace livekv
