#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kv/kv_quant.h"

namespace livekv {

// Keys whose channels have widths of their own (kv_block.h, version 2). An error of a key's channel costs a score what
// the queries make of it, so bits go where they take most off the sum over channels of
//
//   q2_c min(var_c, span_c / (12 (2^b - 1)^2)),   q2_c var_c without a bit,
//
// where q2_c is the mean of the square of channel c of the queries, and var_c and span_c are means over the groups of
// the channel's variance and of the square of its range.

constexpr int32_t widest_class = 6;  // that is chosen; 8 bits would lose more to rounded queries than they win

// What is chosen by: [head_dim] each.
struct channel_costs {
    std::span<const float> q2;
    std::span<const float> variance;
    std::span<const float> span;
};

// Channels by falling q2_c var_c; each four of them start without a bit, and as long as some are left, the quad whose
// error falls most a bit gets more, until the widths sum up to width_sum: from 2 a quad to widest_class. Costs that are
// no numbers count as 0.
key_classes choose_classes(const channel_costs & costs, int32_t width_sum);

// The levels minimum + scale * u, u = 0 ... 2^bits - 1, over [low, high]; both are f16 numbers, minimum <= low. Where
// bits is 0, minimum alone, the mean.
struct class_grid {
    float scale;
    float minimum;
    float top;

    class_grid(float low, float high, float mean, int32_t bits);

    // Half to even.
    int32_t code(float x) const;

    float level(int32_t code) const { return minimum + scale * static_cast<float>(code); }

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
};

// Of n entries, n > 0, from the lowest and the highest, and the sum of what each is above the lowest and of its
// squares; the range is cut to +-bound.
inline channel_range range_of(float low, float high, float sum, float squares, size_t n, float bound) {
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

// What is known of the queries that keys are sealed for.
struct query_moments {
    std::span<const float> q2;  // [head_dim] mean squares
    std::span<const float>
        means;  // [n, head_dim] mean queries, finite, for error feedback (key_feedback.h); empty: none
};

// The specification of sealing by class: as seal_keys, with scale_method ema_clipped or range.
sealed_chunk seal_keys_by_class(const kv_method & method, const key_statistics & statistics,
                                const query_moments & queries, std::span<const float> chunk, int64_t head_dim,
                                int64_t n_sinks);

}  // namespace livekv
