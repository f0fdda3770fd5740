#include "kv/kv_quant.h"

#include <algorithm>
#include <cmath>

#include "error.h"

namespace livekv {

namespace {

constexpr float range_epsilon = 1e-6f;  // added to a range, so that one of zero still divides (3-5)

struct grid {
    float scale;
    int32_t zero;  // the code of 0
    int32_t low;   // smallest and largest code
    int32_t high;

    int8_t code(float x) const {
        // nearbyint in the default rounding mode: half to even, as 3-6 asks.
        const float rounded = std::nearbyintf(x / scale) + static_cast<float>(zero);
        return static_cast<int8_t>(std::clamp(rounded, static_cast<float>(low), static_cast<float>(high)));
    }
};

// 3-5 and 3-6: symmetric codes, -(2^(b-1) - 1) to 2^(b-1) - 1.
grid symmetric_grid(float absmax, int32_t bits) {
    const int32_t top = (1 << (bits - 1)) - 1;
    return {(absmax + range_epsilon) / static_cast<float>(top), 0, -top, top};
}

// The ema_minmax variant: codes 0 to 2^b - 1 over [low, high], the zero point among them.
grid asymmetric_grid(float low, float high, int32_t bits) {
    const int32_t top = (1 << bits) - 1;
    const float scale = (high - low + range_epsilon) / static_cast<float>(top);
    const int32_t zero = static_cast<int32_t>(std::nearbyintf(-low / scale));
    return {scale, std::clamp(zero, 0, top), 0, top};
}

// Moves the first n_sinks tokens out of dense, which keeps zeros.
void take_sinks(std::vector<float> & dense, int64_t n_sinks, sealed_chunk & out) {
    const auto end = dense.begin() + n_sinks * out.head_dim;
    out.sinks.assign(dense.begin(), end);
    std::fill(dense.begin(), end, 0.0f);
}

// Moves the k largest of n entries, the first at `at` and each `stride` behind the last, out of dense.
void take_outliers(std::vector<float> & dense, int64_t at, int64_t n, int64_t stride, int32_t k, sealed_chunk & out) {
    for (const int32_t i : largest_entries(dense.data() + at, n, stride, k)) {
        const int64_t position = at + i * stride;
        out.outlier_index.push_back(static_cast<int32_t>(position));
        out.outlier_value.push_back(dense[static_cast<size_t>(position)]);
        dense[static_cast<size_t>(position)] = 0.0f;
    }
}

void sort_outliers(sealed_chunk & out) {
    std::vector<std::pair<int32_t, float>> both;
    for (size_t i = 0; i < out.outlier_index.size(); ++i) {
        both.emplace_back(out.outlier_index[i], out.outlier_value[i]);
    }
    std::sort(both.begin(), both.end());
    for (size_t i = 0; i < both.size(); ++i) {
        out.outlier_index[i] = both[i].first;
        out.outlier_value[i] = both[i].second;
    }
}

sealed_chunk empty_chunk(std::span<const float> chunk, int64_t head_dim, int64_t n_sinks, bool per_channel) {
    LIVEKV_ASSERT(head_dim > 0 && !chunk.empty() && static_cast<int64_t>(chunk.size()) % head_dim == 0);
    sealed_chunk out;
    out.head_dim = head_dim;
    out.n_tokens = static_cast<int64_t>(chunk.size()) / head_dim;
    out.per_channel = per_channel;
    LIVEKV_ASSERT(n_sinks >= 0 && n_sinks <= out.n_tokens);
    return out;
}

void quantize(const std::vector<float> & dense, const std::vector<grid> & grids, bool has_zero, sealed_chunk & out) {
    for (const grid & g : grids) {
        out.scale.push_back(g.scale);
        if (has_zero) {
            out.zero.push_back(static_cast<int8_t>(g.zero));
        }
    }
    out.codes.resize(dense.size());
    const size_t d = static_cast<size_t>(out.head_dim);
    for (size_t i = 0; i < dense.size(); ++i) {
        out.codes[i] = grids[out.per_channel ? i % d : i / d].code(dense[i]);
    }
}

}  // namespace

sealed_chunk seal_keys(const kv_method & method, key_statistics & statistics, std::span<const float> chunk,
                       int64_t head_dim, int64_t n_sinks) {
    sealed_chunk out = empty_chunk(chunk, head_dim, n_sinks, /*per_channel=*/true);
    std::vector<float> dense(chunk.begin(), chunk.end());
    take_sinks(dense, n_sinks, out);
    const int32_t k = method.n_outliers(out.n_tokens);
    for (int64_t c = 0; c < head_dim; ++c) {
        take_outliers(dense, c, out.n_tokens, head_dim, k, out);
    }
    sort_outliers(out);
    statistics.update(dense);
    const bool minmax = method.scale_method == kv_method::scale::ema_minmax;
    std::vector<grid> grids;
    for (size_t c = 0; c < static_cast<size_t>(head_dim); ++c) {
        grids.push_back(minmax ? asymmetric_grid(statistics.low()[c], statistics.high()[c], method.k_bits)
                               : symmetric_grid(statistics.high()[c], method.k_bits));
    }
    quantize(dense, grids, minmax, out);
    return out;
}

sealed_chunk seal_values(const kv_method & method, std::span<const float> chunk, int64_t head_dim, int64_t n_sinks) {
    sealed_chunk out = empty_chunk(chunk, head_dim, n_sinks, /*per_channel=*/false);
    std::vector<float> dense(chunk.begin(), chunk.end());
    take_sinks(dense, n_sinks, out);
    const int32_t k = method.n_outliers(head_dim);
    const bool minmax = method.scale_method == kv_method::scale::ema_minmax;
    std::vector<grid> grids;
    for (int64_t i = 0; i < out.n_tokens; ++i) {
        take_outliers(dense, i * head_dim, head_dim, 1, k, out);
        const auto row = dense.begin() + i * head_dim;
        const auto [low, high] = std::minmax_element(row, row + head_dim);
        grids.push_back(minmax ? asymmetric_grid(*low, *high, method.v_bits)
                               : symmetric_grid(std::max(-*low, *high), method.v_bits));
    }
    quantize(dense, grids, minmax, out);
    return out;
}

std::vector<float> reconstruct(const sealed_chunk & sealed) {
    const size_t d = static_cast<size_t>(sealed.head_dim);
    std::vector<float> x(sealed.codes.size());
    for (size_t i = 0; i < x.size(); ++i) {
        const size_t group = sealed.per_channel ? i % d : i / d;
        const int32_t zero = sealed.zero.empty() ? 0 : sealed.zero[group];
        x[i] = static_cast<float>(sealed.codes[i] - zero) * sealed.scale[group];
    }
    for (size_t i = 0; i < sealed.outlier_index.size(); ++i) {
        x[static_cast<size_t>(sealed.outlier_index[i])] = sealed.outlier_value[i];
    }
    std::copy(sealed.sinks.begin(), sealed.sinks.end(), x.begin());
    return x;
}

}  // namespace livekv
