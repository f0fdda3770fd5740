#include "kv/kv_stats.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "error.h"

namespace livekv {

int32_t kv_method::n_outliers(int64_t n) const {
    return outlier_ratio > 0.0 ? std::max(1, static_cast<int32_t>(static_cast<double>(n) * outlier_ratio)) : 0;
}

key_statistics::key_statistics(const kv_method & method, int64_t head_dim)
    : method_(method), head_dim_(head_dim), high_(static_cast<size_t>(head_dim)), low_(static_cast<size_t>(head_dim)) {}

float key_statistics::moved(float mu, float seen) const {
    const float alpha = static_cast<float>(method_.ema_alpha);
    const float clipped = std::min(seen, static_cast<float>(method_.clip_factor) * mu);
    return (1.0f - alpha) * mu + alpha * clipped;
}

void key_statistics::update(std::span<const float> dense) {
    LIVEKV_ASSERT(!dense.empty() && dense.size() % static_cast<size_t>(head_dim_) == 0);
    const bool signs_apart = method_.scale_method == kv_method::scale::ema_minmax;
    for (size_t c = 0; c < high_.size(); ++c) {
        float high = signs_apart ? dense[c] : 0.0f;
        float low = signs_apart ? dense[c] : 0.0f;
        for (size_t i = c; i < dense.size(); i += high_.size()) {
            high = std::max(high, signs_apart ? dense[i] : std::fabs(dense[i]));
            low = std::min(low, signs_apart ? dense[i] : 0.0f);
        }
        high_[c] = n_chunks_ == 0 ? high : moved(high_[c], high);
        low_[c] = n_chunks_ == 0 ? low : -moved(-low_[c], -low);
    }
    ++n_chunks_;
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
