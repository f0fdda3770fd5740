#include "kv/kv_fastkv.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace livekv {

namespace {

int64_t share_of(int64_t n, double rate) {
    const auto share = static_cast<int64_t>(static_cast<double>(n) * rate);
    return std::min(n, std::max(share, fastkv_window));
}

// Adds to a [n - n_queries] what one query gives to tokens it sees: the first n_seen of k [n, head_dim].
void add_weights(std::span<const float> q, const float * k, size_t n_seen, float scale, std::span<float> a) {
    std::vector<double> scores(n_seen);
    for (size_t i = 0; i < n_seen; ++i) {
        for (size_t c = 0; c < q.size(); ++c) {
            scores[i] += static_cast<double>(q[c]) * k[i * q.size() + c];
        }
        scores[i] *= scale;
    }
    const double largest = *std::ranges::max_element(scores);
    double sum = 0.0;
    for (double & s : scores) {
        sum += s = std::exp(s - largest);
    }
    for (size_t i = 0; i < a.size(); ++i) {
        a[i] += static_cast<float>(scores[i] / sum);
    }
}

}  // namespace

int64_t fastkv_method::n_kept(int64_t n, bool is_later) const {
    return share_of(n, is_later ? retain_rate / tsp_rate : retain_rate);
}

int64_t fastkv_method::n_going_on(int64_t n) const {
    return share_of(n, tsp_rate);
}

void fastkv_add_pooled(fastkv_method::pooling pool, std::span<const float> a, std::span<float> score) {
    constexpr size_t reach = fastkv_pool / 2;
    for (size_t i = 0; i < a.size(); ++i) {
        const size_t first = i < reach ? 0 : i - reach;
        const std::span<const float> around = a.subspan(first, std::min(a.size(), i + reach + 1) - first);
        score[i] += pool == fastkv_method::pooling::max
                        ? *std::ranges::max_element(around)
                        : std::accumulate(around.begin(), around.end(), 0.0f) / static_cast<float>(fastkv_pool);
    }
}

std::vector<int32_t> fastkv_best(std::span<const float> score, int64_t n, int64_t n_kept) {
    std::vector<int32_t> all(static_cast<size_t>(n));
    std::iota(all.begin(), all.end(), 0);
    const int64_t n_before = n - std::min(n, fastkv_window);
    const int64_t n_best = n_kept - (n - n_before);
    const auto better = [&](int32_t a, int32_t b) {
        const float of_a = score[static_cast<size_t>(a)];
        const float of_b = score[static_cast<size_t>(b)];
        return of_a != of_b ? of_a > of_b : a < b;
    };
    std::nth_element(all.begin(), all.begin() + n_best, all.begin() + n_before, better);
    std::sort(all.begin(), all.begin() + n_best);
    all.erase(all.begin() + n_best, all.begin() + n_before);
    return all;
}

fastkv_choice fastkv_choose(const fastkv_method & method, std::span<const float> q, std::span<const float> k,
                            int64_t n_head, int64_t n_head_kv, int64_t head_dim, float scale, bool is_later) {
    const auto d = static_cast<size_t>(head_dim);
    const size_t n = k.size() / static_cast<size_t>(n_head_kv) / d;
    const size_t n_queries = q.size() / static_cast<size_t>(n_head) / d;
    const size_t n_before = n - n_queries;
    const auto n_tokens = static_cast<int64_t>(n);
    const auto group = static_cast<size_t>(n_head / n_head_kv);
    fastkv_choice made;
    made.score.resize(static_cast<size_t>(n_head_kv) * n_before);
    made.tsp_score.resize(n_before);
    for (size_t head = 0; head < static_cast<size_t>(n_head_kv); ++head) {
        const std::span<float> score = std::span(made.score).subspan(head * n_before, n_before);
        for (size_t of_group = 0; of_group < group; ++of_group) {
            std::vector<float> a(n_before);
            for (size_t i = 0; i < n_queries; ++i) {
                const std::span<const float> query = q.subspan(((head * group + of_group) * n_queries + i) * d, d);
                add_weights(query, k.data() + head * n * d, n_before + i + 1, scale, a);
            }
            fastkv_add_pooled(method.pool, a, score);
        }
        for (size_t i = 0; i < n_before; ++i) {
            made.tsp_score[i] += score[i];
        }
        made.kept.push_back(fastkv_best(score, n_tokens, method.n_kept(n_tokens, is_later)));
    }
    made.going_on = fastkv_best(made.tsp_score, n_tokens, method.n_going_on(n_tokens));
    return made;
}

}  // namespace livekv
