#pragma once

// A matrix of weights as the products read it: 16 outputs side by side, in the order in which they are read.
//
//   matrix   ceil(n_out / 16) strips
//   strip    n_in / span tiles: 16 outputs, all inputs; outputs that are none have scales of 0
//   tile     head, then span / 32 parts; the head has what a type keeps once for 256 inputs, [16 outputs]
//   part     32 inputs: codes, then numbers (scales, and minima where a type has them), [16 outputs]
//   codes    8 bricks of 16 outputs by 4 inputs, unsigned, in planes of 4, 2, 1 or 8 bits
//
// A weight is scale * u + minimum, u its code. Byte 4 * output + input of a plane's 64 bytes holds that place of 8 / w
// bricks, w the plane's width, the first of them lowest. Four bits come first, then what is above them:
//
//   bits   planes                                                 bytes a part
//   4      4 x 64 bytes, two bricks each                                   256
//   5      ... and 64 bytes with bit 4 of all eight                        320
//   6      ... and 2 x 64 bytes with bits 4 and 5, four bricks each        384
//   8      8 x 64 bytes                                                    512
//
// The files beside this one have the types: the file's own layout, and what it says of scales and minima. Internal
// linkage: CPU levels are compiled with them.

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kv/f16.h"

namespace livekv {
namespace {

constexpr int32_t strip_outputs = 16;
constexpr int32_t part_inputs = 32;

constexpr size_t code_bytes(int32_t bits) {  // of a part
    return static_cast<size_t>(strip_outputs) * part_inputs * static_cast<size_t>(bits) / 8;
}

// The codes u of one output's 32 inputs into a part. A word has four of them.
inline void put_codes(uint8_t * codes, int32_t bits, int32_t output, const uint8_t * u) {
    uint32_t words[8];
    std::memcpy(words, u, sizeof(words));
    const auto put = [&](int32_t plane, uint32_t word) { std::memcpy(codes + 64 * plane + 4 * output, &word, 4); };
    if (bits == 8) {
        for (int32_t j = 0; j < 8; ++j) {
            put(j, words[j]);
        }
        return;
    }
    for (int32_t j = 0; j < 8; j += 2) {
        put(j / 2, (words[j] & 0x0f0f0f0fu) | (words[j + 1] & 0x0f0f0f0fu) << 4);
    }
    const int32_t above = bits - 4;  // a plane's width
    const uint32_t mask = above == 1 ? 0x01010101u : 0x03030303u;
    for (int32_t plane = 0; plane < above; ++plane) {
        const int32_t n = 8 / above;
        uint32_t word = 0;
        for (int32_t j = 0; j < n; ++j) {
            word |= (words[n * plane + j] >> 4 & mask) << (above * j);
        }
        put(4 + plane, word);
    }
}

// Numbers of 16 outputs, one after the other.
inline void put_f16(uint8_t * numbers, int32_t output, const uint8_t * from) {
    std::memcpy(numbers + 2 * output, from, 2);
}

// Scales and minima of some outputs, as vectors of a CPU level.
template <typename L>
struct weight_grid {
    typename L::f32 scale;
    typename L::f32 minimum;
};

}  // namespace
}  // namespace livekv
