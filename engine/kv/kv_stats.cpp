#include "kv/kv_stats.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "error.h"
#include "kv/kv_ema.h"

namespace livekv {

key_statistics::key_statistics(const kv_method & method, int64_t head_dim)
    : method_(method),
      high_(static_cast<size_t>(head_dim)),
      low_(static_cast<size_t>(head_dim)),
      bound_(static_cast<size_t>(head_dim), std::numeric_limits<float>::infinity()) {}

void key_statistics::update(std::span<const float> dense) {
    LIVEKV_ASSERT(!dense.empty() && dense.size() % high_.size() == 0);
    const bool signs_apart = method_.scale_method == kv_method::scale::ema_minmax;
    std::vector<float> high(high_.size());
    std::vector<float> low(high_.size());
    for (size_t c = 0; c < high.size(); ++c) {
        high[c] = low[c] = signs_apart ? dense[c] : 0.0f;
        for (size_t i = c; i < dense.size(); i += high.size()) {
            high[c] = std::max(high[c], dense[i]);
            low[c] = std::min(low[c], dense[i]);
        }
    }
    update(high, low);
}

void key_statistics::update(std::span<const float> high, std::span<const float> low) {
    for (size_t c = 0; c < high_.size(); ++c) {
        const channel_ema e = ema_after(method_, {high_[c], low_[c], bound_[c]}, high[c], low[c]);
        high_[c] = e.high;
        low_[c] = e.low;
        bound_[c] = e.bound;
    }
}

std::vector<float> key_statistics::state() const {
    std::vector<float> all = high_;
    if (method_.scale_method == kv_method::scale::ema_minmax) {
        all.insert(all.end(), low_.begin(), low_.end());
    }
    return all;
}

void key_statistics::set_state(std::span<const float> state) {
    LIVEKV_ASSERT(state.size() == state_floats(method_, static_cast<int64_t>(high_.size())));
    const auto end_of_high = state.begin() + static_cast<int64_t>(high_.size());
    high_.assign(state.begin(), end_of_high);
    if (end_of_high != state.end()) {
        low_.assign(end_of_high, state.end());
    }
}

std::vector<int32_t> largest_entries(const float * values, int64_t n, int64_t stride, int32_t k) {
    std::vector<int32_t> order(static_cast<size_t>(n));
    std::iota(order.begin(), order.end(), 0);
    const auto magnitude = [&](int32_t i) { return std::fabs(values[i * stride]); };
    std::partial_sort(order.begin(), order.begin() + k, order.end(), [&](int32_t a, int32_t b) {
        return magnitude(a) != magnitude(b) ? magnitude(a) > magnitude(b) : a < b;
    });
    order.resize(static_cast<size_t>(k));
    std::sort(order.begin(), order.end());
    return order;
}

}  // namespace livekv
