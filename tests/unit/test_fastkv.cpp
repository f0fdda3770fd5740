// Scores of policy fastkv as the engine adds them up, tile by tile over f16 rows, beside the scalar reference.

#include <cmath>
#include <random>

#include "check.h"
#include "kernels/key_weights.h"
#include "kv/f16.h"
#include "kv/kv_fastkv.h"

using namespace livekv;

namespace {

struct layer_rows {
    int64_t n;
    int64_t n_head;
    int64_t n_head_kv;
    int64_t d;
    std::vector<uint16_t> k;  // [n, n_head_kv, d]
    std::vector<float> q;     // [window, n_head, d]

    layer_rows(int64_t n_tokens, int64_t group, int64_t head_dim, float spread)
        : n(n_tokens), n_head(2 * group), n_head_kv(2), d(head_dim) {
        std::mt19937 rng(static_cast<uint32_t>(n + 1000 * group + head_dim));
        std::normal_distribution<float> normal(0.0f, spread);
        for (int64_t i = 0; i < n * n_head_kv * d; ++i) {
            k.push_back(f32_to_f16(normal(rng)));
        }
        for (int64_t i = 0; i < std::min(n, fastkv_window) * n_head * d; ++i) {
            q.push_back(normal(rng));
        }
    }

    // The keys in segments of up to so many tokens.
    std::vector<kv_segment> segments(int64_t most) const {
        std::vector<kv_segment> all;
        for (int64_t first = 0; first < n; first += most) {
            kv_segment & s = all.emplace_back();
            s.first = first;
            s.n_tokens = static_cast<int32_t>(std::min(most, n - first));
            s.k_rows = k.data() + first * n_head_kv * d;
        }
        return all;
    }

    fastkv_choice reference(const fastkv_method & method) const {
        std::vector<float> by_head_q;
        std::vector<float> by_head_k;
        for (int64_t h = 0; h < n_head; ++h) {
            for (int64_t i = 0; i < std::min(n, fastkv_window); ++i) {
                const auto from = q.begin() + (i * n_head + h) * d;
                by_head_q.insert(by_head_q.end(), from, from + d);
            }
        }
        for (int64_t h = 0; h < n_head_kv; ++h) {
            for (int64_t i = 0; i < n * d; ++i) {
                by_head_k.push_back(f16_to_f32(k[static_cast<size_t>((i / d * n_head_kv + h) * d + i % d)]));
            }
        }
        return fastkv_choose(method, by_head_q, by_head_k, n_head, n_head_kv, d, scale(), false);
    }

    float scale() const { return 1.0f / std::sqrt(static_cast<float>(d)); }

    // All heads', [n_head_kv, n - window].
    std::vector<float> scores(fastkv_method::pooling pool, int64_t most) const {
        const std::vector<kv_segment> all = segments(most);
        const last_queries queries = {q.data(), std::min(n, fastkv_window), n_head, n_head_kv, d, scale()};
        const auto n_before = static_cast<size_t>(n - queries.n);
        const auto group = static_cast<size_t>(n_head / n_head_kv);
        std::vector<float> out(static_cast<size_t>(n_head_kv) * n_before);
        for (int64_t h = 0; h < n_head_kv; ++h) {
            std::vector<float> a(group * n_before, 7.0f);
            sum_key_weights(best_cpu_kernels(), queries, all, nullptr, h * static_cast<int64_t>(group),
                            static_cast<int64_t>(group), a);
            for (size_t g = 0; g < group; ++g) {
                fastkv_add_pooled(pool, std::span(a).subspan(g * n_before, n_before),
                                  std::span(out).subspan(static_cast<size_t>(h) * n_before, n_before));
            }
        }
        return out;
    }
};

}  // namespace

TEST(scores_are_those_of_the_reference) {
    for (const int64_t n : {1, 3, 8, 9, 31, 41, 100, 333}) {
        for (const int64_t group : {1, 2, 3, 4, 8}) {
            for (const int64_t d : {64, 128}) {
                for (const float spread : {0.5f, 3.0f}) {  // weights that are much alike, and some that have all
                    for (const auto pool : {fastkv_method::pooling::max, fastkv_method::pooling::avg}) {
                        IN("n=", n, " group=", group, " d=", d, " spread=", spread);
                        const layer_rows rows(n, group, d, spread);
                        const fastkv_choice expected = rows.reference({0.2, 0.4, pool});
                        double largest = 0.0;
                        for (const float s : expected.score) {
                            largest = std::max(largest, static_cast<double>(s));
                        }
                        for (const int64_t most : {7, 32, 1000}) {
                            const std::vector<float> made = rows.scores(pool, most);
                            CHECK_EQ(made.size(), expected.score.size());
                            for (size_t i = 0; i < made.size(); ++i) {
                                CHECK(std::fabs(made[i] - expected.score[i]) <= 1e-5 * largest);
                            }
                        }
                    }
                }
            }
        }
    }
}

TEST(of_equal_scores_the_lower_positions_are_kept) {
    const std::vector<float> score(92, 0.25f);
    const std::vector<int32_t> best = fastkv_best(score, 100, 13);
    CHECK(best == (std::vector<int32_t>{0, 1, 2, 3, 4, 92, 93, 94, 95, 96, 97, 98, 99}));
    CHECK(fastkv_best({}, 3, 3) == (std::vector<int32_t>{0, 1, 2}));
    CHECK(fastkv_best(std::span(score).first(1), 9, 8) == (std::vector<int32_t>{1, 2, 3, 4, 5, 6, 7, 8}));
}

TEST(shares_are_rounded_down_and_never_below_the_window) {
    const fastkv_method method;
    CHECK_EQ(method.n_kept(201, false), 20);
    CHECK_EQ(method.n_kept(40, false), 8);
    CHECK_EQ(method.n_kept(3, false), 3);
    CHECK_EQ(method.n_going_on(201), 40);
    CHECK_EQ(method.n_kept(40, true), 20);
    CHECK_EQ((fastkv_method{0.5, 0.2}.n_kept(40, true)), 40);
}

TEST_MAIN
