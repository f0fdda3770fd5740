// Scores of policy finch as the engine adds them up, tile by tile over f16 rows before RoPE, beside the scalar
// reference.

#include <algorithm>
#include <cmath>
#include <random>

#include "check.h"
#include "kernels/key_weights.h"
#include "kv/f16.h"
#include "kv/finch_layer.h"

using namespace livekv;

namespace {

struct layer_rows {
    int64_t n;           // columns
    int64_t n_question;  // behind them
    int64_t n_head;
    int64_t n_head_kv = 2;
    int64_t d;
    rope_params rope;
    std::vector<uint16_t> k;  // [n + n_question, n_head_kv, d], before RoPE
    std::vector<float> q;     // [n_question, n_head, d], before RoPE

    layer_rows(int64_t n_columns, int64_t of_question, int64_t group, int64_t head_dim, rope_order order, float spread)
        : n(n_columns), n_question(of_question), n_head(2 * group), d(head_dim) {
        rope.n_rot = d;
        rope.order = order;
        std::mt19937 rng(static_cast<uint32_t>(n + 1000 * group + head_dim));
        std::normal_distribution<float> normal(0.0f, spread);
        for (int64_t i = 0; i < (n + n_question) * n_head_kv * d; ++i) {
            k.push_back(f32_to_f16(normal(rng)));
        }
        for (int64_t i = 0; i < n_question * n_head * d; ++i) {
            q.push_back(normal(rng));
        }
    }

    // The keys in segments of up to so many tokens.
    std::vector<kv_segment> segments(int64_t most) const {
        std::vector<kv_segment> all;
        for (int64_t first = 0; first < n + n_question; first += most) {
            kv_segment & s = all.emplace_back();
            s.first = first;
            s.n_tokens = static_cast<int32_t>(std::min(most, n + n_question - first));
            s.k_rows = k.data() + first * n_head_kv * d;
        }
        return all;
    }

    // Rows of one side, heads first.
    std::vector<float> keys(int64_t first, int64_t count) const {
        std::vector<float> by_head;
        for (int64_t h = 0; h < n_head_kv; ++h) {
            for (int64_t i = 0; i < count * d; ++i) {
                by_head.push_back(f16_to_f32(k[static_cast<size_t>(((first + i / d) * n_head_kv + h) * d + i % d)]));
            }
        }
        return by_head;
    }

    std::vector<float> reference(const finch_method & method) const {
        std::vector<float> by_head;
        for (int64_t h = 0; h < n_head; ++h) {
            for (int64_t p = 0; p < n_question; ++p) {
                const auto from = q.begin() + (p * n_head + h) * d;
                by_head.insert(by_head.end(), from, from + d);
            }
        }
        finch_layer layer(method, {n_head, n_head_kv, d}, rope, n, n_question);
        const std::vector<float> of_question = keys(n, n_question);
        const std::vector<float> columns = keys(0, n);
        return layer.add({by_head, of_question, columns, columns}).score;
    }

    std::vector<float> scores(const finch_method & method, int64_t most) const {
        std::vector<float> turned = q;
        std::vector<rope_angle> angles(static_cast<size_t>(d / 2));
        std::vector<float> factors;
        for (int64_t p = 0; p < n_question; ++p) {
            rope_angles(rope, n + p, angles);
            factors.push_back(method.row_factor(n, n_question, p));
            for (int64_t h = 0; h < n_head; ++h) {
                rope_turn(rope, angles,
                          std::span(turned).subspan(static_cast<size_t>((p * n_head + h) * d), static_cast<size_t>(d)));
            }
        }
        const std::vector<kv_segment> all = segments(most);
        const rope_tiles tiles(rope);
        const float scale = 1.0f / std::sqrt(static_cast<float>(d));
        const last_queries queries = {turned.data(), n_question, n_head, n_head_kv, d, scale, factors};
        std::vector<float> sum(static_cast<size_t>(n));
        for (int64_t h = 0; h < n_head; ++h) {
            std::vector<float> one(static_cast<size_t>(n), 7.0f);
            sum_key_weights(best_cpu_kernels(), queries, all, &tiles.turns(), h, 1, one);
            for (size_t i = 0; i < one.size(); ++i) {
                sum[i] += one[i];
            }
        }
        return sum;
    }
};

}  // namespace

TEST(scores_are_those_of_the_reference) {
    for (const int64_t n : {1, 3, 31, 33, 100, 333}) {
        for (const int64_t n_question : {1, 5, 40}) {
            for (const int64_t group : {1, 3, 8}) {
                for (const auto order : {rope_order::normal, rope_order::neox}) {
                    for (const float spread : {0.5f, 3.0f}) {  // weights that are much alike, and some that have all
                        const int64_t d = group == 3 ? 128 : 64;
                        const finch_method method = {100, n_question != 5};
                        IN("n=", n, " question=", n_question, " group=", group, " spread=", spread);
                        const layer_rows rows(n, n_question, group, d, order, spread);
                        const std::vector<float> expected = rows.reference(method);
                        const float largest = *std::ranges::max_element(expected);
                        for (const int64_t most : {7, 32, 1000}) {
                            const std::vector<float> made = rows.scores(method, most);
                            CHECK_EQ(made.size(), expected.size());
                            for (size_t i = 0; i < made.size(); ++i) {
                                CHECK(std::fabs(made[i] - expected[i]) <= 1e-5f * largest);
                            }
                        }
                    }
                }
            }
        }
    }
}

TEST(a_tile_is_turned_as_its_tokens_are) {
    for (const auto order : {rope_order::normal, rope_order::neox}) {
        rope_params rope;
        rope.order = order;
        rope.n_rot = 24;  // of 32 channels
        rope.attn_factor = 1.25f;
        const rope_tiles tiles(rope);
        std::vector<rope_angle> angles(12);
        for (const int64_t position : {0, 1, 31, 32, 1000, 1000003}) {
            IN("position=", position);
            std::mt19937 rng(3);
            std::normal_distribution<float> normal;
            std::vector<float> tile(32 * 32);
            for (float & x : tile) {
                x = normal(rng);
            }
            std::vector<float> expected = tile;
            for (size_t t = 0; t < 32; ++t) {
                std::vector<float> head(32);
                for (size_t c = 0; c < 32; ++c) {
                    head[c] = tile[c * 32 + t];
                }
                rope_angles(rope, position + static_cast<int64_t>(t), angles);
                rope_turn(rope, angles, head);
                for (size_t c = 0; c < 32; ++c) {
                    expected[c * 32 + t] = head[c];
                }
            }
            turn_tile(tiles.turns(), position, tile);
            for (size_t i = 0; i < tile.size(); ++i) {
                CHECK(std::fabs(tile[i] - expected[i]) < 3e-6f);
            }
        }
    }
}

TEST(of_equal_scores_the_lower_columns_are_kept) {
    const std::vector<float> score(40, 0.25f);
    CHECK(finch_best(score, 4) == (std::vector<int32_t>{0, 1, 2, 3}));
    CHECK(finch_best(std::vector<float>{1.0f, 2.0f, 1.0f, 2.0f}, 3) == (std::vector<int32_t>{0, 1, 3}));
    CHECK(finch_best(score, 0).empty());
    CHECK_EQ(finch_best(score, 40).size(), 40u);
}

TEST_MAIN
