#include "kv/kv_guided.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <sstream>
#include <utility>

#include "error.h"

namespace livekv {

namespace {

constexpr double least_spread = 1e-8;
constexpr double rounding = 1e-9;  // of a share times a count

int64_t third_of(int64_t layer, int64_t n_layer) {
    return layer < 3 * n_layer / 10 ? 0 : layer < 7 * n_layer / 10 ? 1 : 2;
}

int64_t n_wanted(double share, int64_t n_chunk, int64_t n_safe) {
    const int64_t n = static_cast<int64_t>(std::floor(share * static_cast<double>(n_chunk) + rounding));
    return std::max({n, int64_t{1}, n_safe});
}

// The tokens, best first; of equal scores the one that comes first.
std::vector<int32_t> by_score(const std::vector<float> & score) {
    std::vector<int32_t> order(score.size());
    std::iota(order.begin(), order.end(), 0);
    std::ranges::stable_sort(
        order, [&](int32_t a, int32_t b) { return score[static_cast<size_t>(a)] > score[static_cast<size_t>(b)]; });
    return order;
}

std::vector<int32_t> best_tokens(const guided_scores & scores, double share, int64_t n_chunk) {
    const std::vector<uint8_t> & safe = scores.is_protected;
    const int64_t n_safe = std::count(safe.begin(), safe.end(), uint8_t{1});
    int64_t left = n_wanted(share, n_chunk, n_safe) - n_safe;
    std::vector<int32_t> kept;
    for (const int32_t i : by_score(scores.score)) {
        if (safe[static_cast<size_t>(i)] || left-- > 0) {
            kept.push_back(i);
        }
    }
    return kept;
}

std::vector<int32_t> best_bits(const guided_scores & scores, const std::vector<uint8_t> & bits, double share,
                               int64_t n_chunk) {
    const std::vector<int32_t> order = by_score(scores.score);
    double room = share * static_cast<double>(n_chunk) + rounding;
    std::vector<int32_t> kept;
    for (const int32_t i : order) {
        const size_t at = static_cast<size_t>(i);
        const double cost = static_cast<double>(bits[at]) / 8.0;
        if (scores.is_protected[at] || cost <= room) {
            kept.push_back(i);
            room -= cost;
        }
    }
    if (kept.empty()) {
        kept.assign(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(std::max<size_t>(1, order.size() / 10)));
    }
    return kept;
}

bool is_width(int32_t bits) {
    constexpr std::array widths = {16, 8, 5, 4, 3, 2};
    return std::ranges::find(widths, bits) != widths.end();
}

template <typename... Parts>
guided_method::fault fault_of(const char * option, const Parts &... parts) {
    std::ostringstream why;
    (why << ... << parts);
    return {option, why.str()};
}

}  // namespace

std::optional<guided_method::fault> guided_method::first_fault() const {
    for (const auto & [name, weight] : {std::pair{"alpha", alpha}, {"beta", beta}, {"gamma", gamma}}) {
        if (!(weight >= 0.0 && weight <= 1.0)) {
            return fault_of(name, weight, " is not in 0..1");
        }
    }
    if (!(theta_m <= theta_h)) {
        return fault_of("theta_m", theta_m, " is more than theta-h, ", theta_h);
    }
    for (size_t i = 0; i < bits.size(); ++i) {
        if (!is_width(bits[i]) && !(i == 2 && bits[i] == 0)) {
            return fault_of("level_bits", bits[i], " is not one of 16, 8, 5, 4, 3, 2; the last may be 0");
        }
        if (i > 0 && bits[i] > bits[i - 1]) {
            return fault_of("level_bits", bits[i], " is more than ", bits[i - 1], " of the level above");
        }
    }
    constexpr std::array names = {"early_ratio", "middle_ratio", "later_ratio"};
    for (size_t i = 0; i < shares.size(); ++i) {
        if (!(shares[i] > 0.0 && shares[i] <= 1.0)) {
            return fault_of(names[i], shares[i], " is not in (0, 1]");
        }
        if (i > 0 && shares[i] > shares[i - 1]) {
            return fault_of(names[i], shares[i], " is more than the ", shares[i - 1], " of earlier layers");
        }
    }
    if (budget == budget_of::bits && propagates != propagation::cache) {
        return fault_of("budget", "bits are counted with propagate cache only");
    }
    return {};
}

double guided_place::layer_weight() const {
    return n_layer == 1 ? 1.0 : 1.0 - 0.5 * static_cast<double>(layer) / static_cast<double>(n_layer - 1);
}

double guided_place::share(const guided_method & method) const {
    return method.propagates == guided_method::propagation::off
               ? 1.0
               : method.shares[static_cast<size_t>(third_of(layer, n_layer))];
}

bool guided_place::lets_go(const guided_method & method) const {
    return method.propagates == guided_method::propagation::layers &&
           (layer == 0 || third_of(layer, n_layer) != third_of(layer - 1, n_layer));
}

bool guided_place::is_safe(const guided_method & method, int64_t position) const {
    const int64_t after_guide = position - guide_first;
    return method.protects && (position < method.sink_tokens || (after_guide >= 0 && after_guide < n_guide) ||
                               position >= n_prompt - method.keep_last);
}

guided_place guided_place_of(const guided_method & method, int64_t layer, int64_t n_layer, int64_t n_prompt) {
    LIVEKV_ASSERT(layer >= 0 && layer < n_layer && n_prompt >= 1);
    guided_place place{layer, n_layer, n_prompt};
    place.n_guide = method.guide_tokens > 0 ? method.guide_tokens : std::clamp<int64_t>(n_prompt / 5, 1, 128);
    if (place.n_guide > n_prompt) {
        fail("guide-tokens: ", place.n_guide, " are more than the prompt's ", n_prompt);
    }
    place.guide_first = method.guide == guided_method::guide_at::last ? n_prompt - place.n_guide : 0;
    return place;
}

void guided_range::add(std::span<const float> attention) {
    for (const float a : attention) {
        low = n == 0.0 ? a : std::min(low, a);
        high = n == 0.0 ? a : std::max(high, a);
        n += 1.0;
        sum += a;
        squares += static_cast<double>(a) * a;
    }
}

guided_scores guided_scores_of(const guided_method & method, const guided_place & place, const guided_range & range,
                               std::span<const int64_t> positions, std::span<const float> attention) {
    LIVEKV_ASSERT(positions.size() == attention.size());
    const bool minmax = method.normalized == guided_method::norm::minmax;
    const double mean = range.n > 0.0 ? range.sum / range.n : 0.0;
    const double deviation = range.n > 0.0 ? std::sqrt(std::max(0.0, range.squares / range.n - mean * mean)) : 0.0;
    const double from = minmax ? range.low : mean;
    const double spread = minmax ? static_cast<double>(range.high) - range.low : deviation;
    const double weight = place.layer_weight();
    const double prompt = static_cast<double>(place.n_prompt);
    guided_scores out;
    out.relevance = std::min(1.0, static_cast<double>(place.n_guide) / prompt);
    for (size_t i = 0; i < positions.size(); ++i) {
        const double hat = spread > least_spread ? (attention[i] - from) / spread : 0.0;
        const double bias =
            place.n_prompt > 1 ? std::log(static_cast<double>(positions[i]) + 1.0) / std::log(prompt) : 0.0;
        const double s = method.alpha * hat * weight + method.beta * bias + method.gamma * out.relevance;
        out.attention_hat.push_back(static_cast<float>(hat));
        out.position_bias.push_back(static_cast<float>(bias));
        out.score.push_back(static_cast<float>(s));
        out.label.push_back(s >= method.theta_h ? 2 : s >= method.theta_m ? 1 : 0);
        out.is_protected.push_back(place.is_safe(method, positions[i]));
    }
    return out;
}

guided_bits guided_bits_of(const guided_method & method, const guided_place & place, const guided_scores & scores,
                           std::span<const int64_t> positions, int64_t n_chunk) {
    std::vector<uint8_t> wanted;
    for (size_t i = 0; i < positions.size(); ++i) {
        const int32_t of_label = method.bits[2 - scores.label[i]];
        const int32_t bits = scores.is_protected[i] ? std::max(of_label, method.bits[1]) : of_label;
        wanted.push_back(static_cast<uint8_t>(positions[i] < method.n_exact() ? 16 : bits));
    }
    const double share = place.share(method);
    guided_bits out;
    if (method.propagates == guided_method::propagation::off) {
        out.kept.resize(positions.size());
        std::iota(out.kept.begin(), out.kept.end(), 0);
    } else {
        out.kept = method.budget == guided_method::budget_of::tokens ? best_tokens(scores, share, n_chunk)
                                                                     : best_bits(scores, wanted, share, n_chunk);
        std::ranges::sort(out.kept);
    }
    out.bits.resize(positions.size());
    for (const int32_t i : out.kept) {
        out.bits[static_cast<size_t>(i)] = wanted[static_cast<size_t>(i)];
    }
    return out;
}

int64_t n_best_tokens(const guided_method & method, const guided_place & place, int64_t first, int64_t n, int64_t n_in,
                      bool last_too) {
    int64_t n_safe = 0;
    for (int64_t i = 0; i < n; ++i) {
        n_safe += place.is_safe(method, first + i) || (last_too && i + 1 == n);
    }
    return std::min(n_in, n_wanted(place.share(method), n, n_safe));
}

void join_small_levels(const guided_method & method, std::span<const uint8_t> fixed, std::span<uint8_t> bits) {
    LIVEKV_ASSERT(fixed.size() == bits.size());
    for (size_t level = method.bits.size() - 1; level > 0; --level) {
        const int32_t narrow = method.bits[level];
        const int32_t wider = method.bits[level - 1];
        if (narrow == 0 || narrow == wider) {
            continue;
        }
        const auto is_of = [&](size_t i) { return !fixed[i] && bits[i] == narrow; };
        int64_t n = 0;
        for (size_t i = 0; i < bits.size(); ++i) {
            n += is_of(i);
        }
        for (size_t i = 0; n < method.min_class && i < bits.size(); ++i) {
            bits[i] = is_of(i) ? static_cast<uint8_t>(wider) : bits[i];
        }
    }
}

int32_t guided_grid::code(float x, int32_t bits) const {
    const float top = static_cast<float>((1 << bits) - 1);
    return scale > 0.0f ? static_cast<int32_t>(std::clamp(std::nearbyint((x - low) / scale), 0.0f, top)) : 0;
}

guided_grid guided_grid_of(const float * x, size_t n, size_t stride, int32_t bits) {
    float low = n > 0 ? x[0] : 0.0f;
    float high = low;
    for (size_t i = 1; i < n; ++i) {
        low = std::min(low, x[i * stride]);
        high = std::max(high, x[i * stride]);
    }
    return {low, (high - low) / static_cast<float>((1 << bits) - 1)};
}

}  // namespace livekv
