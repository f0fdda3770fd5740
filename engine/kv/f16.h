#pragma once

#include <cstdint>
#include <cstring>

#include "kv/host_device.h"

namespace livekv {

// IEEE 754 binary16 in 16 bits, round to nearest, ties to even; NaN stays NaN, what is too large becomes infinite.

LIVEKV_HD static inline float f16_to_f32(uint16_t h) {
    const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
    const uint32_t exponent = (h >> 10) & 0x1fu;
    const uint32_t fraction = h & 0x3ffu;
    uint32_t bits = 0;
    if (exponent == 0) {  // zero and subnormal: fraction * 2^-24
        const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
        std::memcpy(&bits, &magnitude, sizeof(bits));
    } else if (exponent == 31) {
        bits = 0x7f800000u | (fraction << 13);
    } else {
        bits = ((exponent + 112) << 23) | (fraction << 13);
    }
    bits |= sign;
    float f = 0.0f;
    std::memcpy(&f, &bits, sizeof(f));
    return f;
}

LIVEKV_HD static inline uint16_t f32_to_f16(float f) {
    uint32_t bits = 0;
    std::memcpy(&bits, &f, sizeof(bits));
    const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u) {
        return sign | 0x7e00u;
    }
    if (bits >= 0x477ff000u) {  // rounds beyond the largest finite 65504
        return sign | 0x7c00u;
    }
    if (bits < 0x38800000u) {  // below 2^-14: adding 0.5 leaves the subnormal's bits, rounded, in the lowest places
        float magnitude = 0.0f;
        std::memcpy(&magnitude, &bits, sizeof(magnitude));
        magnitude += 0.5f;
        std::memcpy(&bits, &magnitude, sizeof(bits));
        return sign | static_cast<uint16_t>(bits - 0x3f000000u);
    }
    bits += 0xfffu + ((bits >> 13) & 1u);
    return sign | static_cast<uint16_t>((bits - 0x38000000u) >> 13);
}

// The same for numbers, but the largest finite value instead of an infinite one.
LIVEKV_HD static inline uint16_t f32_to_f16_finite(float f) {
    return f32_to_f16(f > 65504.0f ? 65504.0f : f < -65504.0f ? -65504.0f : f);
}

}  // namespace livekv
