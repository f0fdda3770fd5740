#pragma once

// What a channel of keys has whose width is its own (kv_classes.h), on the CPU and on the GPU: its range, the grid its
// entries are rounded to, and what a width would lose.

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kv/f16.h"
#include "kv/host_device.h"

namespace livekv {

constexpr int32_t widest_class = 6;  // that is chosen; 8 bits would lose more to rounded queries than they win

// The widths that are chosen among, by number.
constexpr int32_t n_widths_chosen = 6;
LIVEKV_HD constexpr int32_t width_chosen(int32_t i) {
    return i == 0 ? 0 : i + 1;  // 0, 2, 3, 4, 5, widest_class
}
static_assert(width_chosen(n_widths_chosen - 1) == widest_class, "the last is the widest");

// The levels minimum + scale * u, u = 0 ... 2^bits - 1, over [low, high]; both are f16 numbers, minimum <= low. Where
// bits is 0, minimum alone, the mean.
struct class_grid {
    float scale = 0.0f;
    float minimum = 0.0f;
    float top;

    LIVEKV_HD class_grid(float low, float high, float mean, int32_t bits) : top(static_cast<float>((1 << bits) - 1)) {
        if (bits == 0) {
            minimum = f16_to_f32(f32_to_f16_finite(mean)) + 0.0f;
            return;
        }
        uint16_t least = f32_to_f16_finite(low);
        if (f16_to_f32(least) > low) {  // the next number below: keys come in f16, so it is a cut range's
            least = static_cast<uint16_t>(least == 0 ? 0x8001 : (least & 0x8000) != 0 ? least + 1 : least - 1);
        }
        minimum = f16_to_f32(least) + 0.0f;  // one zero
        const uint16_t step = f32_to_f16_finite((high - minimum) / top);
        scale = f16_to_f32(step == 0 ? uint16_t{1} : step);
    }

    // As one was made before.
    LIVEKV_HD class_grid(float scale_before, float minimum_before, int32_t bits)
        : scale(scale_before), minimum(minimum_before), top(static_cast<float>((1 << bits) - 1)) {}

    // Half to even.
    LIVEKV_HD int32_t code(float x) const {
        const float steps = std::nearbyintf((x - minimum) / (scale > 0x1p-24f ? scale : 0x1p-24f));
        return static_cast<int32_t>(steps > 0.0f ? (steps < top ? steps : top) : 0.0f);  // what is no number: 0
    }

    LIVEKV_HD float level(int32_t code) const { return minimum + scale * static_cast<float>(code); }

    // Beyond what the codes cover. A channel without a bit covers everything.
    bool saturates(float x) const {
        return top > 0.0f && (x < minimum - 0.5f * scale || x > minimum + (top + 0.5f) * scale);
    }
};

// A group's channel: of the entries that are not stored apart.
struct channel_range {
    float low;
    float high;
    float mean;
    float variance;

    LIVEKV_HD float square() const { return (high - low) * (high - low); }
};

// Of n entries, n > 0, from the lowest and the highest, and the sum of what each is above the lowest and of its
// squares; the range is cut to +-bound.
LIVEKV_HD inline channel_range range_of(float low, float high, float sum, float squares, size_t n, float bound) {
    const float each = 1.0f / static_cast<float>(n);
    const float mean = sum * each;
    const float variance = squares * each - mean * mean;
    return {low < -bound  ? -bound
            : low > bound ? bound
                          : low,
            high < -bound  ? -bound
            : high > bound ? bound
                           : high,
            low + mean, variance > 0.0f ? variance : 0.0f};
}

// What a channel costs by its width (kv_classes.h); what is no number costs 0.
struct channel_cost {
    double q2;
    double variance;
    double span;

    LIVEKV_HD channel_cost(float q2_c, float variance_c, float span_c)
        : q2(number_or_0(q2_c)), variance(number_or_0(variance_c)), span(number_or_0(span_c)) {}

    LIVEKV_HD double whole() const { return q2 * variance; }  // without a bit

    LIVEKV_HD double of_width(int32_t bits) const {
        if (bits == 0) {
            return whole();
        }
        const double top = (1 << bits) - 1;
        const double uniform = q2 * span / (12.0 * top * top);
        return uniform < whole() ? uniform : whole();
    }

  private:
    LIVEKV_HD static float number_or_0(float x) { return x >= 0.0f && x <= 3.40282347e+38f ? x : 0.0f; }
};

// A quad's next width.
struct class_raise {
    double rate = -1.0;  // by which the error falls, a bit
    int32_t to = 0;      // number of the width; 0: there is none
};

// The best one for a quad that has width number `at` and these errors, [n_widths_chosen], for at most `left` bits.
LIVEKV_HD inline class_raise best_raise(const double * error, int32_t at, int32_t left) {
    class_raise best;
    for (int32_t to = at + 1; to < n_widths_chosen; ++to) {
        const int32_t cost = width_chosen(to) - width_chosen(at);
        const double rate = (error[at] - error[to]) / cost;
        if (cost <= left && rate > best.rate) {
            best = {rate, to};
        }
    }
    return best;
}

}  // namespace livekv
