#include "kv/kv_quant.h"

#include <algorithm>
#include <cmath>

#include "error.h"
#include "kv/kv_grid.h"

namespace livekv {

namespace {

// A chunk taken apart: what is stored on its own, and the dense rest, which holds zeros in their place.
struct split_chunk {
    std::vector<float> dense;  // [n_tokens, head_dim]
    std::vector<bool> apart;   // [n_tokens, head_dim]
    sealed_chunk out;          // with its outliers and sinks
};

split_chunk take_sinks(std::span<const float> chunk, int64_t head_dim, int64_t n_sinks, bool per_channel) {
    LIVEKV_ASSERT(head_dim > 0 && !chunk.empty() && static_cast<int64_t>(chunk.size()) % head_dim == 0);
    split_chunk s;
    s.dense.assign(chunk.begin(), chunk.end());
    s.apart.resize(chunk.size());
    s.out.head_dim = head_dim;
    s.out.n_tokens = static_cast<int64_t>(chunk.size()) / head_dim;
    s.out.per_channel = per_channel;
    LIVEKV_ASSERT(n_sinks >= 0 && n_sinks <= s.out.n_tokens);
    s.out.sinks.assign(chunk.begin(), chunk.begin() + n_sinks * head_dim);
    std::fill_n(s.dense.begin(), n_sinks * head_dim, 0.0f);
    std::fill_n(s.apart.begin(), n_sinks * head_dim, true);
    return s;
}

// Moves the k largest of n entries, the first at `at` and each `stride` behind the last, out of the dense part.
void take_outliers(split_chunk & s, int64_t at, int64_t n, int64_t stride, int32_t k) {
    for (const int32_t i : largest_entries(s.dense.data() + at, n, stride, k)) {
        const size_t position = static_cast<size_t>(at + i * stride);
        s.out.outlier_index.push_back(static_cast<int32_t>(position));
        s.out.outlier_value.push_back(s.dense[position]);
        s.dense[position] = 0.0f;
        s.apart[position] = true;
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

split_chunk split_keys(const kv_method & method, std::span<const float> chunk, int64_t head_dim, int64_t n_sinks) {
    split_chunk s = take_sinks(chunk, head_dim, n_sinks, /*per_channel=*/true);
    for (int64_t c = 0; c < head_dim; ++c) {
        take_outliers(s, c, s.out.n_tokens, head_dim, method.k_outliers(s.out.n_tokens));
    }
    sort_outliers(s.out);
    return s;
}

split_chunk split_values(const kv_method & method, std::span<const float> chunk, int64_t head_dim, int64_t n_sinks) {
    split_chunk s = take_sinks(chunk, head_dim, n_sinks, /*per_channel=*/false);
    for (int64_t i = 0; i < s.out.n_tokens; ++i) {
        take_outliers(s, i * head_dim, head_dim, 1, method.v_outliers(head_dim));
    }
    return s;
}

// The entries that share a grid: n of them, the first at `at`, each `stride` behind the last.
struct group_of_values {
    const split_chunk & s;
    size_t at;
    size_t stride;
    size_t n;

    // Smallest and largest dense entry. With a zero point what is stored apart does not count, else it counts as 0.
    std::pair<float, float> range(bool without_apart) const {
        float low = 0.0f;
        float high = 0.0f;
        bool empty = without_apart;
        for (size_t i = at; i < at + n * stride; i += stride) {
            if (without_apart && s.apart[i]) {
                continue;
            }
            low = empty ? s.dense[i] : std::min(low, s.dense[i]);
            high = empty ? s.dense[i] : std::max(high, s.dense[i]);
            empty = false;
        }
        return {low, high};
    }
};

// The grid over a group's own range, cut to +-bound.
kv_grid own_grid(const kv_method & method, const group_of_values & values, float bound, int32_t bits) {
    auto [low, high] = values.range(method.has_zero());
    low = std::clamp(low, -bound, bound);
    high = std::clamp(high, -bound, bound);
    return method.has_zero() ? affine_grid(low, high, bits) : symmetric_grid(std::max(-low, high), bits);
}

void quantize(const split_chunk & s, const std::vector<kv_grid> & grids, bool has_zero, sealed_chunk & out) {
    for (const kv_grid & g : grids) {
        out.scale.push_back(g.scale);
        if (has_zero) {
            out.zero.push_back(static_cast<int16_t>(g.zero));
        }
    }
    out.codes.resize(s.dense.size());
    for (size_t i = 0; i < s.dense.size(); ++i) {
        const kv_grid & g = grids[out.scale_index(i)];
        out.codes[i] = static_cast<int16_t>(g.code(s.dense[i]));
        const float steps = s.dense[i] / g.scale + static_cast<float>(g.zero);
        out.n_saturated +=
            !s.apart[i] && (steps > static_cast<float>(g.high) + 0.5f || steps < static_cast<float>(g.low) - 0.5f);
    }
}

}  // namespace

void observe_keys(const kv_method & method, key_statistics & statistics, std::span<const float> chunk,
                  int64_t n_sinks) {
    statistics.update(split_keys(method, chunk, static_cast<int64_t>(statistics.high().size()), n_sinks).dense);
}

sealed_chunk seal_keys(const kv_method & method, const key_statistics & statistics, std::span<const float> chunk,
                       int64_t head_dim, int64_t n_sinks) {
    const split_chunk s = split_keys(method, chunk, head_dim, n_sinks);
    sealed_chunk out = s.out;
    out.bits = method.k_bits;
    out.group = method.group_of(out.n_tokens);
    const size_t d = static_cast<size_t>(head_dim);
    const size_t n = static_cast<size_t>(out.n_tokens);
    const size_t group = static_cast<size_t>(out.group);
    std::vector<kv_grid> grids;
    for (size_t first = 0; first < n; first += group) {
        for (size_t c = 0; c < d; ++c) {
            const group_of_values values{s, first * d + c, d, std::min(group, n - first)};
            const float infinite = std::numeric_limits<float>::infinity();
            switch (method.scale_method) {
                case kv_method::scale::ema_absmax:
                    grids.push_back(symmetric_grid(statistics.high()[c], out.bits));
                    break;
                case kv_method::scale::ema_minmax:
                    grids.push_back(minmax_grid(statistics.low()[c], statistics.high()[c], out.bits));
                    break;
                case kv_method::scale::ema_clipped:
                    grids.push_back(own_grid(method, values, statistics.bound()[c], out.bits));
                    break;
                case kv_method::scale::range:
                    grids.push_back(own_grid(method, values, infinite, out.bits));
                    break;
            }
        }
    }
    quantize(s, grids, method.has_zero(), out);
    return out;
}

sealed_chunk seal_values(const kv_method & method, std::span<const float> chunk, int64_t head_dim, int64_t n_sinks) {
    const split_chunk s = split_values(method, chunk, head_dim, n_sinks);
    sealed_chunk out = s.out;
    out.bits = method.v_bits;
    std::vector<kv_grid> grids;
    for (size_t i = 0; i < static_cast<size_t>(out.n_tokens); ++i) {
        const size_t d = static_cast<size_t>(head_dim);
        const group_of_values values{s, i * d, 1, d};
        if (method.scale_method == kv_method::scale::ema_minmax) {
            const auto [low, high] = std::minmax_element(s.dense.begin() + static_cast<int64_t>(i * d),
                                                         s.dense.begin() + static_cast<int64_t>(i * d + d));
            grids.push_back(minmax_grid(*low, *high, out.bits));
        } else {
            grids.push_back(own_grid(method, values, std::numeric_limits<float>::infinity(), out.bits));
        }
    }
    quantize(s, grids, method.has_zero(), out);
    return out;
}

std::vector<float> reconstruct(const sealed_chunk & sealed) {
    std::vector<float> x(sealed.codes.size());
    for (size_t i = 0; i < x.size(); ++i) {
        const size_t group = sealed.scale_index(i);
        const int32_t zero = sealed.zero.empty() ? 0 : sealed.zero[group];
        const float level = sealed.levels.empty() ? static_cast<float>(sealed.codes[i] - zero)
                                                  : sealed.levels[static_cast<size_t>(sealed.codes[i])];
        x[i] = level * sealed.scale[group] + (sealed.minimum.empty() ? 0.0f : sealed.minimum[group]);
    }
    for (size_t i = 0; i < sealed.outlier_index.size(); ++i) {
        x[static_cast<size_t>(sealed.outlier_index[i])] = sealed.outlier_value[i];
    }
    std::copy(sealed.sinks.begin(), sealed.sinks.end(), x.begin());
    return x;
}

}  // namespace livekv
