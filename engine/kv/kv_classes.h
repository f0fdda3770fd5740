#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kv/class_grid.h"
#include "kv/kv_quant.h"

namespace livekv {

// Keys whose channels have widths of their own (kv_block.h, version 2). An error of a key's channel costs a score what
// the queries make of it, so bits go where they take most off the sum over channels of
//
//   q2_c min(var_c, span_c / (12 (2^b - 1)^2)),   q2_c var_c without a bit,
//
// where q2_c is the mean of the square of channel c of the queries, and var_c and span_c are means over the groups of
// the channel's variance and of the square of its range.

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
