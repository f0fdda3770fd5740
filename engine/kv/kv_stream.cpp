#include "kv/kv_stream.h"

#include <algorithm>
#include <cmath>

#include "error.h"

namespace livekv {

namespace {

constexpr float least_range = 1e-8f;

float scale_of(float range, int32_t bits) {
    return bits < 16 ? std::max(range, least_range) / static_cast<float>((1 << (bits - 1)) - 1) : 0.0f;
}

std::vector<float> absmax_of(std::span<const float> chunk, size_t d, size_t n_units) {
    std::vector<float> channels(d);
    for (size_t first = 0; first < chunk.size(); first += d) {
        for (size_t c = 0; c < d; ++c) {
            const float x = std::fabs(chunk[first + c]);
            channels[c] = x > channels[c] ? x : channels[c];
        }
    }
    std::vector<float> units(n_units);
    for (size_t c = 0; c < d; ++c) {
        float & unit = units[c * n_units / d];
        unit = std::max(unit, channels[c]);
    }
    return units;
}

}  // namespace

stream_units stream_units_of(const stream_method & method, std::span<const float> chunk, int64_t head_dim,
                             std::span<const float> before, int64_t index) {
    const size_t n_units = static_cast<size_t>(method.units(head_dim));
    LIVEKV_ASSERT(!chunk.empty() && chunk.size() % static_cast<size_t>(head_dim) == 0);
    LIVEKV_ASSERT(head_dim % static_cast<int64_t>(n_units) == 0 && (before.empty() || before.size() == n_units));
    stream_units u;
    u.absmax = absmax_of(chunk, static_cast<size_t>(head_dim), n_units);
    const bool anew = before.empty() || (method.stat_reset > 0 && index % method.stat_reset == 0);
    for (size_t i = 0; i < n_units; ++i) {
        const float m = u.absmax[i];
        const float mu = anew ? m : method.decay * before[i] + (1.0f - method.decay) * m;
        float range = mu;
        float high_range = method.scale_range == stream_method::range::cover ? std::max(mu, m) : mu;
        if (method.scale_range == stream_method::range::own) {
            range = high_range = m;
        }
        u.mu.push_back(mu);
        u.flagged.push_back(method.detects && (m > method.relative * mu || m > method.absolute));
        u.scale.push_back(scale_of(range, method.bits));
        u.high_scale.push_back(scale_of(high_range, method.high_bits));
    }
    return u;
}

streamed_chunk stream_chunk(const stream_method & method, const stream_units & units, std::span<const float> chunk,
                            int64_t head_dim, int64_t n_high) {
    const size_t d = static_cast<size_t>(head_dim);
    const size_t n_units = units.mu.size();
    streamed_chunk out;
    for (size_t i = 0; i < chunk.size(); ++i) {
        const size_t unit = i % d * n_units / d;
        const bool high = static_cast<int64_t>(i / d) < n_high || units.flagged[unit] != 0;
        const int32_t bits = high ? method.high_bits : method.bits;
        const float scale = high ? units.high_scale[unit] : units.scale[unit];
        float code = 0.0f;
        if (bits < 16) {
            const float top = static_cast<float>((1 << (bits - 1)) - 1);
            code = std::clamp(std::nearbyint(chunk[i] / scale), -top - 1.0f, top);
        }
        out.codes.push_back(static_cast<int16_t>(code));
        out.bits.push_back(static_cast<uint8_t>(bits));
        out.reconstruction.push_back(bits < 16 ? code * scale : chunk[i]);
    }
    return out;
}

int64_t stream_high_tokens(const stream_method & method, int64_t position, int64_t n) {
    return std::clamp<int64_t>(method.sink_tokens - position, 0, n);
}

}  // namespace livekv
