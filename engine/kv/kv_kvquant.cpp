#include "kv/kv_kvquant.h"

#include <algorithm>
#include <cmath>

#include "error.h"

namespace livekv {

namespace {

constexpr int64_t most_steps = 10000;  // of k-means; a layer's numbers take some hundreds

}  // namespace

kvquant_range kvquant_quantiles(std::span<float> x) {
    LIVEKV_ASSERT(!x.empty());
    const auto n = static_cast<double>(x.size());
    const auto n_beyond = static_cast<ptrdiff_t>(std::nearbyint(kvquant_share_beyond * (n - 1.0)));
    const auto low = x.begin() + n_beyond;
    const auto high = x.end() - 1 - n_beyond;
    std::nth_element(x.begin(), low, x.end());
    if (high > low) {
        std::nth_element(low + 1, high, x.end());  // what is at low stays there
    }
    return {*low, *high};
}

std::vector<kvquant_range> kvquant_channel_ranges(std::span<const float> x, int64_t head_dim) {
    const auto d = static_cast<size_t>(head_dim);
    const size_t n = x.size() / d;
    std::vector<float> column(n);
    std::vector<kvquant_range> ranges;
    for (size_t c = 0; c < d; ++c) {
        for (size_t t = 0; t < n; ++t) {
            column[t] = x[t * d + c];
        }
        ranges.push_back(kvquant_quantiles(column));
    }
    return ranges;
}

std::vector<kvquant_range> kvquant_token_ranges(std::span<const float> x, int64_t n_head, int64_t head_dim) {
    const auto d = static_cast<size_t>(head_dim);
    const auto heads = static_cast<size_t>(n_head);
    const size_t n = x.size() / d / heads;
    std::vector<float> token(heads * d);
    std::vector<kvquant_range> ranges;
    for (size_t t = 0; t < n; ++t) {
        for (size_t h = 0; h < heads; ++h) {
            std::ranges::copy(x.subspan((h * n + t) * d, d), token.begin() + static_cast<ptrdiff_t>(h * d));
        }
        ranges.push_back(kvquant_quantiles(token));
    }
    return ranges;
}

std::vector<float> kvquant_codebook(std::span<const float> x, int32_t bits) {
    LIVEKV_ASSERT(!x.empty() && bits >= kvquant_min_bits && bits <= kvquant_max_bits);
    std::vector<float> sorted(x.begin(), x.end());
    std::ranges::sort(sorted);
    std::vector<double> sums = {0.0};  // of the first i numbers
    sums.reserve(sorted.size() + 1);
    for (const float y : sorted) {
        sums.push_back(sums.back() + y);
    }
    const size_t k = size_t{1} << bits;
    std::vector<float> codebook;
    for (size_t i = 0; i < k; ++i) {
        codebook.push_back(sorted[(2 * i + 1) * sorted.size() / (2 * k)]);
    }
    std::vector<size_t> ends;  // of the numbers that entry i has, in their order
    for (int64_t step = 0; step < most_steps; ++step) {
        std::vector<size_t> now;
        for (size_t i = 0; i + 1 < k; ++i) {
            const double between = 0.5 * (static_cast<double>(codebook[i]) + codebook[i + 1]);
            const auto end = std::ranges::upper_bound(sorted, between, {}, [](float y) { return double{y}; });
            now.push_back(static_cast<size_t>(end - sorted.begin()));
        }
        now.push_back(sorted.size());
        if (now == ends) {
            break;
        }
        ends = std::move(now);
        size_t from = 0;
        for (size_t i = 0; i < k; ++i) {
            if (ends[i] > from) {  // else the entry stays where it is
                codebook[i] = static_cast<float>((sums[ends[i]] - sums[from]) / static_cast<double>(ends[i] - from));
                from = ends[i];
            }
        }
    }
    return codebook;
}

uint8_t kvquant_code(std::span<const float> codebook, float y) {
    size_t nearest = 0;
    for (size_t i = 1; i < codebook.size(); ++i) {
        if (std::abs(y - codebook[i]) < std::abs(y - codebook[nearest])) {
            nearest = i;
        }
    }
    return static_cast<uint8_t>(nearest);
}

kvquant_tokens kvquant_quantize(std::span<const float> x, int64_t head_dim, std::span<const kvquant_range> ranges,
                                bool by_channel, std::span<const float> codebook, int64_t n_exact) {
    const auto d = static_cast<size_t>(head_dim);
    LIVEKV_ASSERT(ranges.size() == (by_channel ? d : x.size() / d));
    kvquant_tokens out;
    for (size_t i = 0; i < x.size(); ++i) {
        const kvquant_range & range = ranges[by_channel ? i % d : i / d];
        const bool exact = i / d < static_cast<size_t>(n_exact) || !range.contains(x[i]);
        const uint8_t code = exact ? uint8_t{0} : kvquant_code(codebook, range.normalized(x[i]));
        out.outlier.push_back(exact);
        out.codes.push_back(code);
        out.reconstruction.push_back(exact ? x[i] : range.middle() + range.half() * codebook[code]);
    }
    return out;
}

}  // namespace livekv
