#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kv/host_device.h"

namespace livekv {

constexpr float range_epsilon = 1e-6f;  // added to a range, so that one of zero still divides (3-5)
constexpr int32_t centre_limit = 127;   // |mid - zero|: the format keeps it in eight bits

// The levels (code - zero) * scale for code = low ... high that one group of values is rounded to.
struct kv_grid {
    float scale;
    int32_t zero;  // the code of 0
    int32_t low;   // smallest and largest code
    int32_t high;

    // Half to even (3-6); the sum is exact, so clamping before or after rounding is the same.
    LIVEKV_HD int32_t code(float x) const {
        const float rounded = std::nearbyintf(x / scale) + static_cast<float>(zero);
        return static_cast<int32_t>(std::clamp(rounded, static_cast<float>(low), static_cast<float>(high)));
    }

    LIVEKV_HD float level(int32_t code) const { return static_cast<float>(code - zero) * scale; }
};

// 3-5 and 3-6: symmetric codes, -(2^(b-1) - 1) to 2^(b-1) - 1.
LIVEKV_HD inline kv_grid symmetric_grid(float absmax, int32_t bits) {
    const int32_t top = (1 << (bits - 1)) - 1;
    return {(absmax + range_epsilon) / static_cast<float>(top), 0, -top, top};
}

// The ema_minmax variant: codes 0 to 2^b - 1 over [low, high], low <= 0 <= high, the zero point among them.
LIVEKV_HD inline kv_grid minmax_grid(float low, float high, int32_t bits) {
    const int32_t top = (1 << bits) - 1;
    const float scale = (high - low + range_epsilon) / static_cast<float>(top);
    const int32_t zero = static_cast<int32_t>(std::nearbyintf(-low / scale));
    return {scale, std::clamp(zero, std::max(0, (top + 1) / 2 - centre_limit), top), 0, top};
}

// Codes 0 to 2^b - 1 over [low, high], which need not hold 0: a key channel with a large mean keeps its fine steps. The
// zero point is a whole number of steps away, and as far as the format can say; a wider step brings it within reach.
LIVEKV_HD inline kv_grid affine_grid(float low, float high, int32_t bits) {
    const int32_t top = (1 << bits) - 1;
    const int32_t mid = 1 << (bits - 1);
    if (bits == 8) {  // no room beside the codes: the range takes 0 in
        low = std::min(low, 0.0f);
        high = std::max(high, 0.0f);
    }
    float scale = (high - low + range_epsilon) / static_cast<float>(top);
    if (bits < 8) {
        const float reach = static_cast<float>(centre_limit - mid);
        scale = std::max(scale, std::max(std::fabs(low), std::fabs(high)) / reach);
    }
    const int32_t zero = static_cast<int32_t>(std::nearbyintf(-low / scale));
    return {scale, std::clamp(zero, mid - centre_limit, mid + centre_limit), 0, top};
}

}  // namespace livekv
