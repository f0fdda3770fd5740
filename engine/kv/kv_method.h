#pragma once

#include <algorithm>
#include <cstdint>

#include "kv/host_device.h"

namespace livekv {

// How the livekv policy compresses: the method's constants (README: options). One set for a whole cache.
struct kv_method {
    // What a key scale is made of; values always use their token's own range.
    enum class scale {
        ema_absmax,   // the clipped running maximum mu_t (3-4), one for the chunk: the published method
        ema_minmax,   // the same for the largest and the smallest value apart, with a zero point: published variant
        ema_clipped,  // the group's own range, bounded by clip_factor times the running maximum (v_t of 3-3)
        range,        // the group's own range
    };

    int32_t k_bits = 4;  // of a key's code: 2, 3, 4, 5 or 8
    int32_t v_bits = 4;
    int32_t key_group = 0;        // consecutive tokens that share a key scale, a multiple of 32; 0: the whole chunk
    bool zero_point = false;      // codes over [low, high] instead of [-absmax, absmax]; ema_minmax always has one
    double ema_alpha = 0.1;       // weight of the newest chunk in the running statistic, (0, 1]
    double clip_factor = 4.0;     // a chunk moves the statistic by at most this times its last value, >= 1
    double outlier_ratio = 0.01;  // share of entries stored apart, 0 to 0.1; 0: none
    double v_outlier_ratio = -1;  // of values, where it differs; negative: as keys
    int32_t sink_tokens = 4;      // first tokens of a sequence, kept exact
    scale scale_method = scale::ema_absmax;
    bool key_classes = false;   // keys' channels in classes of width (version 2), chosen by what queries make of them
    bool key_feedback = false;  // with it: rounded by error feedback (key_feedback.h)
    int32_t key_quarters = 0;   // with it: quarters of a bit a key has beyond k_bits, on the average

    LIVEKV_HD bool own_range() const { return scale_method == scale::ema_clipped || scale_method == scale::range; }
    LIVEKV_HD bool has_zero() const { return scale_method == scale::ema_minmax || (zero_point && own_range()); }

    // Tokens that share a key scale in a chunk of n tokens.
    int64_t group_of(int64_t n) const { return own_range() && key_group > 0 ? std::min<int64_t>(key_group, n) : n; }

    // Version 2: the sum of the widths of head_dim channels' quads.
    int32_t width_sum(int64_t head_dim) const {
        return static_cast<int32_t>((head_dim / 4 * (4 * k_bits + key_quarters) + 2) / 4);
    }

    // Entries stored apart of a key channel's n tokens, or of a value's n channels: at least one, unless the ratio is
    // 0.
    int32_t k_outliers(int64_t n) const { return share_of(n, outlier_ratio); }
    int32_t v_outliers(int64_t n) const { return share_of(n, v_outlier_ratio < 0.0 ? outlier_ratio : v_outlier_ratio); }

  private:
    static int32_t share_of(int64_t n, double ratio) {
        return ratio > 0.0 ? std::max(1, static_cast<int32_t>(static_cast<double>(n) * ratio)) : 0;
    }
};

}  // namespace livekv
