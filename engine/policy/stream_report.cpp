#include "policy/stream_report.h"

#include <algorithm>

namespace livekv {

namespace {

constexpr double told_within = 1e-5;

// Channels, or runs, of one head that a chunk has flagged. before: null: its maxima began with it.
int64_t flagged(const stream_method & m, const float * before, const float * after, int64_t n_units) {
    int64_t n = 0;
    for (int64_t i = 0; m.detects && i < n_units; ++i) {
        const double mu = after[i];
        const double absmax = before ? (mu - m.decay * static_cast<double>(before[i])) / (1.0 - m.decay) : mu;
        const double least = std::min<double>(m.relative * mu, m.absolute);
        n += absmax > least * (1.0 + told_within);
    }
    return n;
}

// Adds a chunk to one side. The states [n_head_kv] are `stride` floats apart, and begin with this side's.
void add_chunk(const stream_method & m, const chunk_plan & plan, const kv_chunk & chunk, const float * before,
               const float * after, size_t stride, kv_stream_side & to) {
    const int64_t n_units = m.units(plan.head_dim);
    const int64_t n_high = std::min(chunk.n_sinks, chunk.n_tokens);
    to.mean = to.largest = 0.0;  // of the newest chunk
    for (int64_t head = 0; head < plan.n_head_kv; ++head) {
        const size_t at = static_cast<size_t>(head) * stride;
        const int64_t n_flagged = flagged(m, before ? before + at : nullptr, after + at, n_units);
        to.n_flagged += n_flagged;
        to.n_units += n_units;
        const int64_t n_high_channels = n_flagged * (plan.head_dim / n_units);
        const int64_t n_rest = chunk.n_tokens - n_high;
        to.n_entries += chunk.n_tokens * plan.head_dim;
        to.code_bits += n_high * plan.head_dim * m.high_bits +
                        n_rest * (n_high_channels * m.high_bits + (plan.head_dim - n_high_channels) * m.bits);
        for (int64_t i = 0; i < n_units; ++i) {
            const double mu = after[at + static_cast<size_t>(i)];
            to.mean += mu / static_cast<double>(n_units * plan.n_head_kv);
            to.largest = std::max(to.largest, mu);
        }
    }
}

}  // namespace

kv_stream_layer stream_report(const chunk_plan & plan, const kv_layer & layer) {
    const stream_plan & stream = *plan.stream;
    const size_t stride = plan.state_floats() / static_cast<size_t>(plan.n_head_kv);
    const size_t v_at = static_cast<size_t>(stream.k.units(plan.head_dim));
    kv_stream_layer report;
    for (size_t i = 0; i < layer.chunks.size(); ++i) {
        const kv_chunk & chunk = layer.chunks[i];
        const bool anew = i == 0 || (stream.k.stat_reset > 0 && i % static_cast<size_t>(stream.k.stat_reset) == 0);
        if (!chunk.state || (!anew && !layer.chunks[i - 1].state)) {
            continue;  // given back behind a window
        }
        const float * const after = chunk.state->as<float>();
        const float * const before = anew ? nullptr : layer.chunks[i - 1].state->as<float>();
        add_chunk(stream.k, plan, chunk, before, after, stride, report.k);
        add_chunk(stream.v, plan, chunk, before ? before + v_at : nullptr, after + v_at, stride, report.v);
        ++report.n_updates;
    }
    return report;
}

}  // namespace livekv
