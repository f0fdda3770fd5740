#pragma once

// The types with a scale for every 32 inputs: q4_0, q4_1, q5_0, q5_1 and q8_0.
//
//   file    f16 scale | f16 minimum (_1) | bit 4 of all (q5), 32 bits | 16 bytes: inputs i and i + 16; or 32 of 8 bits
//   part    codes | f16 scales [16] | f16 minima [16] (_1)
//
// Without minima a weight is scale * (u - middle): the minimum is -middle * scale.

#include "kernels/weights/tile.h"

namespace livekv {
namespace {

template <int32_t width, bool has_minimum>
struct weights_of_32 {
    static constexpr int32_t bits = width;
    static constexpr int32_t span = 32;
    static constexpr int32_t shared = 32;  // inputs with one scale
    static constexpr size_t file_bytes = 2 + (has_minimum ? 2 : 0) + static_cast<size_t>(width) * 4;
    static constexpr size_t head_bytes = 0;
    static constexpr size_t number_bytes = has_minimum ? 64 : 32;
    static constexpr float middle = width == 4 ? 8.0f : width == 5 ? 16.0f : 128.0f;

    static uint32_t code(const uint8_t * block, int32_t i) {
        const uint8_t * u = block + (has_minimum ? 4 : 2);
        if (width == 8) {
            return u[i] ^ 0x80u;  // signed in the file
        }
        uint32_t above = 0;
        if (width == 5) {
            std::memcpy(&above, u, 4);
            above = (above >> i & 1u) << 4;
            u += 4;
        }
        return (u[i % 16] >> (i < 16 ? 0 : 4) & 15u) | above;
    }

    static void put_numbers(const uint8_t * block, int32_t output, uint8_t * /* head */, uint8_t * numbers,
                            int32_t /* part */) {
        put_f16(numbers, output, block);
        if (has_minimum) {
            put_f16(numbers + 32, output, block + 2);
        }
    }

    template <typename L>
    static weight_grid<L> grid(const uint8_t * /* head */, const uint8_t * numbers, int32_t output, int32_t /* at */) {
        const auto scale = L::load_f16(numbers + 2 * output);
        if constexpr (has_minimum) {
            return {scale, L::load_f16(numbers + 32 + 2 * output)};
        } else {
            return {scale, L::mul(scale, L::set(-middle))};
        }
    }
};

using q4_0_weights = weights_of_32<4, false>;
using q4_1_weights = weights_of_32<4, true>;
using q5_0_weights = weights_of_32<5, false>;
using q5_1_weights = weights_of_32<5, true>;
using q8_0_weights = weights_of_32<8, false>;

}  // namespace
}  // namespace livekv
