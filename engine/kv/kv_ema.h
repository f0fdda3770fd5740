#pragma once

#include <cmath>
#include <cstdint>

#include "kv/host_device.h"
#include "kv/kv_method.h"
#include "kv/kv_state.h"

namespace livekv {

// A key channel's running statistic (key_statistics says what it is).
struct channel_ema {
    float high;
    float low;
    float bound;
};

LIVEKV_HD inline float ema_moved(const kv_method & method, float mu, float seen) {
    const float alpha = static_cast<float>(method.ema_alpha);
    const float limit = static_cast<float>(method.clip_factor) * mu;
    const float clipped = limit < seen ? limit : seen;
    return (1.0f - alpha) * mu + alpha * clipped;
}

// Moved by a chunk whose dense values lie in [low, high].
LIVEKV_HD inline channel_ema ema_after(const kv_method & method, channel_ema e, float high, float low) {
    const bool signs_apart = method.scale_method == kv_method::scale::ema_minmax;
    const float top = signs_apart || high > -low ? high : -low;
    // A statistic of 0 has seen nothing yet (a chunk of sinks and outliers alone): N times it would be 0 for ever.
    e.bound = e.high != 0.0f ? static_cast<float>(method.clip_factor) * e.high : INFINITY;
    e.high = e.high != 0.0f ? ema_moved(method, e.high, top) : top;
    if (signs_apart) {
        e.low = e.low != 0.0f ? -ema_moved(method, -e.low, -low) : low;
    }
    if (state_is_f16(method)) {
        e.high = f16_number(e.high);
        e.low = f16_number(e.low);
    }
    return e;
}

}  // namespace livekv
