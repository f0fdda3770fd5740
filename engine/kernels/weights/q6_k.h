#pragma once

// q6_K: 256 inputs share a scale of scales, each 16 have a signed byte of it.
//
//   file    128 bytes: low four bits | 64 bytes: the two above | signed scales [16] | f16 d. Of each 128 inputs the
//   first
//           64 are in the low halves of 64 bytes, the others in the high ones; of byte i of 32 bits 2 s and 2 s + 1 are
//           of input 32 s + i
//   head    f16 d [16]
//   part    codes | scales of its first 16 inputs [16] | of its others [16]
//
// A weight is d * scale * (u - 32).

#include "kernels/weights/tile.h"

namespace livekv {
namespace {

struct q6_k_weights {
    static constexpr int32_t bits = 6;
    static constexpr int32_t span = 256;
    static constexpr int32_t shared = 16;
    static constexpr size_t file_bytes = 210;
    static constexpr size_t head_bytes = 32;
    static constexpr size_t number_bytes = 32;

    static uint32_t code(const uint8_t * block, int32_t i) {
        const uint8_t * low = block + 64 * (i / 128);
        const uint8_t * above = block + 128 + 32 * (i / 128);
        const int32_t k = i % 128;
        return (low[k % 64] >> (k < 64 ? 0 : 4) & 15u) | (above[k % 32] >> (2 * (k / 32)) & 3u) << 4;
    }

    static void put_numbers(const uint8_t * block, int32_t output, uint8_t * head, uint8_t * numbers, int32_t part) {
        put_f16(head, output, block + 208);
        numbers[output] = block[192 + 2 * part];
        numbers[16 + output] = block[193 + 2 * part];
    }

    // at: 0 or 1, which 16 inputs of the part.
    template <typename L>
    static weight_grid<L> grid(const uint8_t * head, const uint8_t * numbers, int32_t output, int32_t at) {
        const auto scales = reinterpret_cast<const int8_t *>(numbers + 16 * at + output);
        const auto scale = L::mul(L::load_f16(head + 2 * output), L::load_i8(scales));
        return {scale, L::mul(scale, L::set(-32.0f))};
    }
};

}  // namespace
}  // namespace livekv
