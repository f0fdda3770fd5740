// Error feedback: what it adds is the triangular factor of what queries cost, it lowers that cost, and queries that are
// no numbers do no harm. (test_key_classes: the fast sealer gives the same bytes.)

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "check.h"
#include "driven_layer.h"
#include "kv/key_feedback.h"
#include "kv/kv_check.h"
#include "kv/kv_classes.h"
#include "kv/kv_pack.h"
#include "policy/query_means.h"
#include "policy/query_squares.h"
#include "random_rows.h"

using namespace livekv;

namespace {

kv_method feedback_method() {
    kv_method m;
    m.k_bits = 3;
    m.key_classes = m.key_feedback = true;
    m.scale_method = kv_method::scale::range;
    m.zero_point = true;
    m.key_group = 128;
    m.outlier_ratio = 0.0;
    return m;
}

// n tokens' queries of r heads with means of their own, f32 [n, r, d].
std::vector<float> random_queries(size_t n, size_t r, size_t d, std::mt19937 & rng) {
    std::normal_distribution<float> normal;
    std::vector<float> means(r * d);
    for (float & x : means) {
        x = 2.0f * normal(rng);
    }
    std::vector<float> q(n * r * d);
    for (size_t i = 0; i < q.size(); ++i) {
        q[i] = means[i % means.size()] + normal(rng);
    }
    return q;
}

struct seen_queries {
    std::vector<float> q2;
    std::vector<float> means;
};

seen_queries seen_of(const std::vector<float> & q, size_t r, size_t d) {
    query_squares squares(static_cast<int64_t>(d), {}, 0);
    query_means means(static_cast<int64_t>(r), static_cast<int64_t>(d));
    for (size_t at = 0; at < q.size(); at += r * d) {
        squares.add(q.data() + at, static_cast<int64_t>(r));
        means.add(q.data() + at);
    }
    return {squares.mean(), means.means()};
}

}  // namespace

TEST(gain_times_weight_is_the_factor_of_what_queries_cost) {
    std::mt19937 rng(1);
    for (const size_t r : {1, 3, 7, 40}) {
        const size_t d = 24;
        IN("heads=", r);
        const seen_queries seen = seen_of(random_queries(200, r, d, rng), r, d);
        std::vector<uint16_t> order(d);
        std::iota(order.begin(), order.end(), uint16_t{0});
        std::shuffle(order.begin(), order.end(), rng);
        const key_feedback feedback(seen.q2, seen.means, order);
        // M in the block's order: q2 on the diagonal, half of what the means say beside it.
        std::vector<double> m(d * d);
        for (size_t i = 0; i < d; ++i) {
            for (size_t j = 0; j < d; ++j) {
                double products = 0.0;
                for (size_t h = 0; h < r; ++h) {
                    products += static_cast<double>(seen.means[h * d + order[i]]) * seen.means[h * d + order[j]];
                }
                m[i * d + j] = i == j ? seen.q2[order[i]] : 0.5 * products / static_cast<double>(r);
            }
        }
        for (size_t c = d; c-- > 0;) {  // row c of U, and what is left of M once channel c is known
            for (size_t j = 0; j < c; ++j) {
                double u = 0.0;
                for (size_t h = 0; h < r; ++h) {
                    u += static_cast<double>(feedback.gain[c * r + h]) * feedback.weight[j * r + h];
                }
                CHECK(std::fabs(u - m[c * d + j] / m[c * d + c]) < 1e-5 * (1.0 + std::fabs(u)));
            }
            for (size_t i = 0; i < c; ++i) {
                for (size_t j = 0; j < c; ++j) {
                    m[i * d + j] -= m[c * d + i] * m[c * d + j] / m[c * d + c];
                }
            }
        }
    }
}

TEST(scores_lose_less) {
    std::mt19937 rng(2);
    const kv_method method = feedback_method();
    for (const size_t r : {1, 4}) {
        for (const int64_t d : {40, 64, 128}) {
            IN("heads=", r, " d=", d);
            const std::vector<float> q = random_queries(300, r, static_cast<size_t>(d), rng);
            const seen_queries seen = seen_of(q, r, static_cast<size_t>(d));
            const std::vector<float> x = random_rows(row_kind::normal, 256, d, rng);
            const key_statistics statistics(method, d);
            const auto cost = [&](std::span<const float> means) {
                const std::vector<float> y =
                    unpack_block(pack_block(block_header(method, kv_side::key, 256, d),
                                            seal_keys_by_class(method, statistics, {seen.q2, means}, x, d, 0))
                                     .data());
                double sum = 0.0;
                for (size_t key = 0; key < x.size(); key += static_cast<size_t>(d)) {
                    for (size_t at = 0; at < q.size(); at += static_cast<size_t>(d) * 17) {
                        double score = 0.0;
                        for (size_t c = 0; c < static_cast<size_t>(d); ++c) {
                            score += static_cast<double>(q[at + c]) * (x[key + c] - y[key + c]);
                        }
                        sum += score * score;
                    }
                }
                return sum;
            };
            CHECK(cost(seen.means) < 0.6 * cost({}));
        }
    }
}

TEST(queries_that_are_no_numbers_or_none_do_no_harm) {
    std::mt19937 rng(3);
    const kv_method method = feedback_method();
    const std::vector<float> x = random_rows(row_kind::normal, 128, 64, rng);
    const key_statistics statistics(method, 64);
    for (const float value : {0.0f, 1e-30f, 1e-20f, 65504.0f, 1e30f, INFINITY, -INFINITY, NAN}) {
        for (const float rest : {0.0f, 1.0f, -1e38f}) {
            IN("value=", value, " rest=", rest);
            std::vector<float> q(3 * 64, rest);
            for (size_t i = 0; i < q.size(); i += 5) {
                q[i] = value;
            }
            const seen_queries seen = seen_of(q, 3, 64);
            for (const float mean : seen.means) {
                CHECK(std::fabs(mean) <= 65504.0f);
            }
            const sealed_chunk sealed = seal_keys_by_class(method, statistics, {seen.q2, seen.means}, x, 64, 0);
            const kv_block_header h = block_header(method, kv_side::key, 128, 64);
            CHECK_EQ(problem_of_block(pack_block(h, sealed).data(), h), "");
            for (size_t i = 0; i < sealed.codes.size(); ++i) {
                CHECK(sealed.codes[i] >= 0 && sealed.codes[i] < 64);
            }
        }
    }
}

// A byte has an eighth of its number's size to round by; over a chunk these roundings cancel.
TEST(what_waited_in_bytes_has_the_same_means) {
    std::mt19937 rng(4);
    for (const int64_t group : {1, 3, 7}) {
        const int64_t d = 16;
        IN("group=", group);
        const std::vector<float> q = random_queries(2000, static_cast<size_t>(group), static_cast<size_t>(d), rng);
        query_means exact(group, d);
        query_means waited(group, d);
        std::vector<uint8_t> row(static_cast<size_t>(d));
        for (int64_t i = 0; i < 2000; ++i) {
            const float * const token = q.data() + i * group * d;
            exact.add(token);
            query_means::pack(token, i, group, d, row.data());
            waited.add_packed(row.data(), i);
        }
        const std::vector<float> a = exact.means();
        const std::vector<float> b = waited.means();
        for (size_t i = 0; i < a.size(); ++i) {
            CHECK(std::fabs(a[i] - b[i]) < 0.3f);  // deviations of 1 over 2000 / 7 tokens: five standard errors
        }
    }
    uint8_t row[4];
    const float odd[4] = {NAN, INFINITY, -1e30f, -0.5f};
    query_means::pack(odd, 0, 1, 4, row);
    CHECK_EQ(row[0], 0);
    CHECK_EQ(row[1], 0x7b);
    CHECK_EQ(row[2], 0xfb);
    CHECK_EQ(row[3], 0xb8);
}

// Whatever passes bring a chunk: its last pass's queries as they are, those before in bytes.
TEST(a_chunk_is_sealed_for_its_own_queries_head_by_head) {
    constexpr int64_t n_head = 6;
    constexpr int64_t group = 3;
    chunk_plan plan = plan_of(0);
    plan.method = feedback_method();
    plan.method.sink_tokens = 0;
    const size_t d = static_cast<size_t>(plan.head_dim);
    std::mt19937 rng(5);
    const std::vector<float> q = random_queries(chunk, n_head, d, rng);
    const cpu_kernels & kernels = best_cpu_kernels();
    for (const std::vector<int64_t> & passes : {std::vector<int64_t>{chunk}, {5, chunk - 5}, {20, 11, 1}}) {
        IN("last pass of ", passes.back());
        kv_layer layer = make_layer(plan, false);
        layer_step step(layer, plan);
        raw_rows passing;
        int64_t done = 0;
        for (const int64_t n : passes) {
            const bool closes = done + n == chunk;
            step.begin(n, closes, true);
            if (step.passes_through()) {
                passing.reserve(static_cast<size_t>(n) * plan.row(), host_memory());
                step.use_rows(passing.k.data(), passing.v.data());
            }
            const query_rows queries = {q.data() + static_cast<size_t>(done * n_head) * d, n_head};
            for (int64_t i = 0; i < n; ++i) {
                CHECK(host_step::store(step, kernels, i, row_of(1, done + i, true, plan.row()).data(),
                                       row_of(1, done + i, false, plan.row()).data()));
                if (!closes) {
                    host_step::keep_queries(step, i, queries);
                }
            }
            for (int64_t job = 0; job < host_step::n_seal_jobs(step); ++job) {
                host_step::seal(step, kernels, job, queries);
            }
            step.commit();
            done += n;
        }
        const int64_t n_waited = chunk - passes.back();
        for (size_t head = 0; head < 2; ++head) {
            std::vector<float> keys;
            query_squares squares(plan.head_dim, {}, 0);
            query_means means(group, plan.head_dim);
            for (int64_t i = 0; i < chunk; ++i) {
                const std::vector<float> row = row_of(1, i, true, plan.row());
                keys.insert(keys.end(), row.begin() + static_cast<int64_t>(head * d),
                            row.begin() + static_cast<int64_t>((head + 1) * d));
                const float * const token = q.data() + (static_cast<size_t>(i * n_head) + head * group) * d;
                if (i < n_waited) {
                    std::vector<uint8_t> bytes(d);
                    query_means::pack(token, i, group, plan.head_dim, bytes.data());
                    squares.add_packed(bytes.data());
                    means.add_packed(bytes.data(), i);
                } else {
                    squares.add(token, group);
                    means.add(token);
                }
            }
            const std::vector<float> q2 = squares.mean();
            const std::vector<float> mu = means.means();
            const key_statistics statistics(plan.method, plan.head_dim);
            const std::vector<uint8_t> block =
                pack_block(block_header(plan.method, kv_side::key, chunk, plan.head_dim),
                           seal_keys_by_class(plan.method, statistics, {q2, mu}, keys, plan.head_dim, 0));
            CHECK_EQ(layer.chunks.front().k.bytes->bytes(), 2 * block.size());
            CHECK(std::memcmp(layer.chunks.front().k.bytes->data() + head * block.size(), block.data(), block.size()) ==
                  0);
        }
    }
}

TEST_MAIN
