#include "kv/kv_classes.h"

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>

#include "error.h"
#include "kv/key_feedback.h"

namespace livekv {

namespace {

// A quad's error for each width that can be chosen.
using quad_errors = std::array<double, n_widths_chosen>;

// Numbers of the quads' widths.
std::vector<int32_t> allocate(const std::vector<quad_errors> & errors, int32_t width_sum) {
    std::vector<int32_t> at(errors.size(), 0);
    std::vector<class_raise> next;
    int32_t left = width_sum;
    for (const quad_errors & e : errors) {
        next.push_back(best_raise(e.data(), 0, left));
    }
    while (left > 0) {
        const auto by_rate = [](const class_raise & a, const class_raise & b) { return a.rate < b.rate; };
        const size_t i = static_cast<size_t>(std::max_element(next.begin(), next.end(), by_rate) - next.begin());
        if (next[i].to == 0) {
            break;
        }
        left -= width_chosen(next[i].to) - width_chosen(at[i]);
        at[i] = next[i].to;
        for (size_t k = 0; k < errors.size(); ++k) {
            const bool too_much = width_chosen(next[k].to) - width_chosen(at[k]) > left;
            if (k == i || too_much) {
                next[k] = best_raise(errors[k].data(), at[k], left);
            }
        }
    }
    if (left == 1) {  // all have 0 bits or the most: one has to give a bit for another's first two
        constexpr int32_t last = n_widths_chosen - 1;
        *std::find(at.rbegin(), at.rend(), last) = last - 1;
        *std::find(at.begin(), at.end(), 0) = 1;
    }
    return at;
}

// Of x[0], x[stride], ... (n of them).
channel_range range_over(const float * x, size_t n, size_t stride, float bound) {
    if (n == 0) {
        return {};
    }
    float low = x[0];
    float high = x[0];
    for (size_t i = 1; i < n; ++i) {
        low = std::min(low, x[i * stride]);
        high = std::max(high, x[i * stride]);
    }
    float sum = 0.0f;
    float squares = 0.0f;
    for (size_t i = 0; i < n; ++i) {
        const float above = x[i * stride] - low;
        sum += above;
        squares += above * above;
    }
    return range_of(low, high, sum, squares, n, bound);
}

// A key's codes [d], each channel rounded from where the errors before it have moved it.
void round_with_feedback(const key_feedback & feedback, const std::vector<uint16_t> & order, std::span<const float> key,
                         const class_grid * grids, int16_t * codes) {
    const size_t r = feedback.n_means;
    std::vector<float> sums(r);
    for (size_t i = 0; i < order.size(); ++i) {
        const size_t c = order[i];
        float push = 0.0f;
        for (size_t h = 0; h < r; ++h) {
            push += feedback.gain[i * r + h] * sums[h];
        }
        const int32_t code = grids[c].code(key[c] + push);
        codes[c] = static_cast<int16_t>(code);
        const float error = key[c] - grids[c].level(code);
        for (size_t h = 0; h < r; ++h) {
            sums[h] += feedback.weight[i * r + h] * error;
        }
    }
}

}  // namespace

key_classes choose_classes(const channel_costs & costs, int32_t width_sum) {
    const size_t d = costs.q2.size();
    LIVEKV_ASSERT(d % 4 == 0 && width_sum >= 0 && width_sum <= widest_class * static_cast<int32_t>(d / 4));
    std::vector<channel_cost> cost;
    std::vector<uint16_t> order(d);
    std::iota(order.begin(), order.end(), uint16_t{0});
    for (size_t c = 0; c < d; ++c) {
        cost.emplace_back(costs.q2[c], costs.variance[c], costs.span[c]);
    }
    std::stable_sort(order.begin(), order.end(),
                     [&](uint16_t a, uint16_t b) { return cost[a].whole() > cost[b].whole(); });
    std::vector<quad_errors> errors(d / 4);
    for (size_t i = 0; i < d; ++i) {
        for (int32_t w = 0; w < n_widths_chosen; ++w) {
            errors[i / 4][static_cast<size_t>(w)] += cost[order[i]].of_width(width_chosen(w));
        }
    }
    const std::vector<int32_t> at = allocate(errors, width_sum);
    std::vector<size_t> quads(d / 4);
    std::iota(quads.begin(), quads.end(), size_t{0});
    std::stable_sort(quads.begin(), quads.end(), [&](size_t a, size_t b) { return at[a] > at[b]; });
    key_classes chosen;
    for (const size_t quad : quads) {
        chosen.widths.push_back(static_cast<uint8_t>(width_chosen(at[quad])));
        chosen.order.insert(chosen.order.end(), order.begin() + static_cast<int64_t>(4 * quad),
                            order.begin() + static_cast<int64_t>(4 * quad + 4));
    }
    return chosen;
}

sealed_chunk seal_keys_by_class(const kv_method & method, const key_statistics & statistics,
                                const query_moments & queries, std::span<const float> chunk, int64_t head_dim,
                                int64_t n_sinks) {
    LIVEKV_ASSERT(method.own_range() && static_cast<int64_t>(queries.q2.size()) == head_dim);
    const size_t d = static_cast<size_t>(head_dim);
    const size_t n = chunk.size() / d;
    sealed_chunk out;
    out.n_tokens = static_cast<int64_t>(n);
    out.head_dim = head_dim;
    out.per_channel = true;
    out.group = method.group_of(out.n_tokens);
    const size_t group = static_cast<size_t>(out.group);
    const size_t n_apart = static_cast<size_t>(n_sinks);
    const size_t n_groups = (n + group - 1) / group;
    std::vector<channel_range> ranges(n_groups * d);
    std::vector<float> variance(d);
    std::vector<float> span(d);
    for (size_t g = 0; g < n_groups; ++g) {
        const size_t first = std::min(std::max(g * group, n_apart), n);
        const size_t last = std::max(std::min((g + 1) * group, n), first);
        for (size_t c = 0; c < d; ++c) {
            const bool bounded = method.scale_method == kv_method::scale::ema_clipped;
            const float bound = bounded ? statistics.bound()[c] : std::numeric_limits<float>::infinity();
            const channel_range r = range_over(chunk.data() + first * d + c, last - first, d, bound);
            ranges[g * d + c] = r;
            variance[c] += r.variance;
            span[c] += r.square();
        }
    }
    out.classes = choose_classes({queries.q2, variance, span}, method.width_sum(head_dim));
    std::vector<int32_t> bits(d);
    for (size_t i = 0; i < d; ++i) {
        bits[out.classes.order[i]] = out.classes.widths[i / 4];
    }
    std::vector<class_grid> grids;
    for (size_t i = 0; i < ranges.size(); ++i) {
        const class_grid & g = grids.emplace_back(ranges[i].low, ranges[i].high, ranges[i].mean, bits[i % d]);
        out.scale.push_back(g.scale);
        out.minimum.push_back(g.minimum);
    }
    out.codes.resize(n * d);
    out.sinks.assign(chunk.begin(), chunk.begin() + static_cast<int64_t>(n_apart * d));
    for (size_t i = n_apart * d; i < out.codes.size(); ++i) {
        const class_grid & g = grids[out.scale_index(i)];
        out.codes[i] = static_cast<int16_t>(g.code(chunk[i]));
        out.n_saturated += g.saturates(chunk[i]);
    }
    if (!queries.means.empty()) {
        const key_feedback feedback(queries.q2, queries.means, out.classes.order);
        for (size_t t = n_apart; t < n; ++t) {
            round_with_feedback(feedback, out.classes.order, chunk.subspan(t * d, d), grids.data() + t / group * d,
                                out.codes.data() + t * d);
        }
    }
    return out;
}

}  // namespace livekv
