#pragma once

// What is kept of queries (policy/query_squares.h, query_means.h), on the CPU and on the GPU.

#include <cmath>
#include <cstdint>

#include "kv/f16.h"
#include "kv/host_device.h"
#include "kv/kv_state.h"

namespace livekv {

// Of a number that may be none, or too large: a query a model has broken does not break what is stored.
LIVEKV_HD inline double bounded_square(float x) {
    constexpr double largest = 65504.0;
    const double square = static_cast<double>(x) * x;
    return square < largest * largest ? square : largest * largest;
}

// A mean square's root as an f16 number, at most the largest.
LIVEKV_HD inline float f16_root(float mean) {
    const float root = std::sqrt(mean);
    return f16_number(root < 65504.0f ? root : 65504.0f);
}

// The root in a byte: the upper half of an f16 number, rounded.
LIVEKV_HD inline uint8_t packed_root(double mean) {
    const int32_t half = f32_to_f16_finite(static_cast<float>(std::sqrt(mean))) + 0x80;
    return static_cast<uint8_t>(half >> 8 < 0x7b ? half >> 8 : 0x7b);
}
LIVEKV_HD inline double square_of_packed(uint8_t byte) {
    const double root = f16_to_f32(static_cast<uint16_t>(byte << 8));
    return root * root;
}

// Of a query's channel that may be none, or too large for f16.
LIVEKV_HD inline float bounded_query(float x) {
    constexpr float largest = 65504.0f;
    return x >= -largest ? (x < largest ? x : largest) : x < -largest ? -largest : 0.0f;
}

// The channel with its sign in a byte: the upper half of an f16 number, rounded.
LIVEKV_HD inline uint8_t packed_query(float x) {
    const uint16_t half = f32_to_f16_finite(bounded_query(x));
    const int32_t magnitude = ((half & 0x7fff) + 0x80) >> 8;
    return static_cast<uint8_t>((half >> 8 & 0x80) | (magnitude < 0x7b ? magnitude : 0x7b));
}
LIVEKV_HD inline float query_of_packed(uint8_t byte) {
    return f16_to_f32(static_cast<uint16_t>(byte << 8));
}

}  // namespace livekv
