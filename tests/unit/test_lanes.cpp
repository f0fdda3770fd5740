// The vector lanes of every CPU level this machine runs give what the plain C++ ones give, number by number: the same
// bits wherever the operation is defined to the last bit, and named bounds for fused multiply-add and for sums. Bytes
// and bricks: test_lanes_bricks.cpp.

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <numeric>

#include "check.h"
#include "kv/f16.h"
#include "lanes/compare.h"

using namespace livekv;

namespace {

const std::vector<float> edges = {
    0.0f,        -0.0f,
    1.0f,        -1.0f,
    0.5f,        1.5f,
    2.5f,        FLT_MAX,
    -FLT_MAX,    FLT_MIN,
    -FLT_MIN,    1e-45f,
    -1e-45f,     FLT_MIN / 2.0f,
    INFINITY,    -INFINITY,
    NAN,         -NAN,
    1e-30f,      -1e30f,
    -2e30f,      0x1.fffffep-1f,
    16777217.0f, 65504.0f,
    -65519.0f,   1.0f + FLT_EPSILON,
};

// Every pair of edges, then random bits; a multiple of n_at_once.
void float_pairs(std::vector<float> & a, std::vector<float> & b) {
    std::mt19937 rng(3);
    for (const float x : edges) {
        for (const float y : edges) {
            a.push_back(x);
            b.push_back(y);
        }
    }
    while (a.size() < 8192 || a.size() % n_at_once) {
        a.push_back(float_of(static_cast<uint32_t>(rng())));
        b.push_back(rng() % 8 ? float_of(static_cast<uint32_t>(rng())) : a.back());
    }
}

}  // namespace

TEST(float_operations_agree_to_the_last_bit) {
    std::vector<float> a;
    std::vector<float> b;
    float_pairs(a, b);
    const float * in[2] = {a.data(), b.data()};
    for (const level & l : levels()) {
        for (size_t i = 0; i < plain.n_operations; ++i) {
            std::vector<float> expected(a.size(), 7.0f);
            std::vector<float> actual(a.size(), 8.0f);
            plain.operations[i].run(in, expected.data(), a.size());
            l.lanes->operations[i].run(in, actual.data(), a.size());
            check_same(l.name + " " + plain.operations[i].name, actual, expected);
        }
    }
}

// The plain product is rounded before the sum and the fused one is not: they differ by half a unit of the product and
// one of the sum at most.
TEST(fused_multiply_add_differs_by_one_rounding) {
    const std::vector<float> a = random_floats(8192, 1.0f, 1);
    const std::vector<float> b = random_floats(8192, 1.0f, 2);
    std::vector<float> c = random_floats(8192, 1.0f, 3);
    for (size_t i = 0; i < c.size(); i += 2) {
        c[i] = -a[i] * b[i] * (1.0f + static_cast<float>(i % 8) * FLT_EPSILON);  // cancels
    }
    for (const level & l : levels()) {
        std::vector<float> expected(a.size());
        std::vector<float> actual(a.size(), NAN);
        plain.fma(a.data(), b.data(), c.data(), expected.data(), a.size());
        l.lanes->fma(a.data(), b.data(), c.data(), actual.data(), a.size());
        size_t n_far = 0;
        for (size_t i = 0; i < a.size(); ++i) {
            const float bound = FLT_EPSILON * (0.5f * std::fabs(a[i] * b[i]) + std::fabs(expected[i]));
            n_far += !(std::fabs(actual[i] - expected[i]) <= 1.01f * bound + 1e-45f);
        }
        CHECK_EQ(n_far, size_t{0});
    }
}

TEST(round_ties_to_even_over_its_whole_range) {
    std::vector<float> from;
    for (int32_t i = -300; i < 300; ++i) {
        for (const float part : {0.0f, 0.25f, 0.49999997f, 0.5f, 0.50000006f, 0.75f}) {
            from.push_back(static_cast<float>(i) + part);
        }
    }
    for (const float x : {4194303.0f, 4194302.5f, 4194303.5f, 1e-45f, 0.0f}) {
        from.push_back(x);
        from.push_back(-x);
    }
    const std::vector<float> more = random_floats(4096, 1e5f, 4);
    from.insert(from.end(), more.begin(), more.end());
    from.resize(from.size() / n_at_once * n_at_once + n_at_once, -2.5f);
    for (const level & l : levels()) {
        std::vector<int32_t> expected(from.size());
        std::vector<int32_t> actual(from.size());
        plain.round(from.data(), expected.data(), from.size());
        l.lanes->round(from.data(), actual.data(), from.size());
        check_same(l.name + " round", actual, expected);
        for (size_t i = 0; i < from.size(); ++i) {
            CHECK_EQ(expected[i], static_cast<int32_t>(std::nearbyint(from[i])));
        }
    }
}

TEST(integers_become_the_same_floats) {
    std::vector<int32_t> from = random_numbers<int32_t>(4080, INT32_MIN, INT32_MAX, 1);
    for (const int32_t x :
         {0, 1, -1, INT32_MIN, INT32_MAX, 16777217, -16777219, 33554435, 255, 256, 65535, -128, 127, 8, 7, 6}) {
        from.push_back(x);
    }
    const std::vector<int8_t> small = random_numbers<int8_t>(256, -128, 127, 2);
    for (const level & l : levels()) {
        std::vector<float> expected(from.size());
        std::vector<float> actual(from.size());
        plain.to_float(from.data(), expected.data(), from.size());
        l.lanes->to_float(from.data(), actual.data(), from.size());
        check_same(l.name + " to_float", actual, expected);
        expected.resize(small.size());
        actual.resize(small.size());
        plain.load_i8(small.data(), expected.data(), small.size());
        l.lanes->load_i8(small.data(), actual.data(), small.size());
        check_same(l.name + " load_i8", actual, expected);
    }
}

// The halves of 2^x, down to where a weight is nothing anyway.
TEST(powers_of_two_are_cut_the_same) {
    std::vector<float> x;
    for (int32_t i = 0; i <= 125; ++i) {
        for (const float part : {0.0f, 0.25f, 0.5f, 0x1.fffffep-1f}) {
            x.push_back(-static_cast<float>(i) + (i ? part : 0.0f));
        }
    }
    for (const float more : {-1e-45f, -FLT_EPSILON, -124.99999f}) {
        x.push_back(more);
    }
    x.resize((x.size() / n_at_once + 1) * n_at_once, -2.5f);
    const std::vector<float> nothing = {-125.00001f, -126.0f, -126.5f, -150.0f, -1e4f, -3e9f, -1e30f, -2e30f,
                                        -125.5f,     -127.0f, -149.0f, -151.0f, -1e5f, -1e9f, -1e20f, -FLT_MAX};
    std::vector<level> all = levels();
    all.push_back({"generic", &plain});
    for (const level & l : all) {
        std::vector<float> actual(x.size(), NAN);
        l.lanes->fraction(x.data(), actual.data(), x.size());
        for (size_t i = 0; i < x.size(); ++i) {
            CHECK(std::fabs(actual[i] - (x[i] - std::floor(x[i]))) <= 0x1p-24f);  // AVX-512 rounds it down
        }
        for (const float a : {1.0f, 1.41421356f, 2.0f}) {
            const std::vector<float> factors(x.size(), a);
            l.lanes->times_pow2(factors.data(), x.data(), actual.data(), x.size());
            for (size_t i = 0; i < x.size(); ++i) {
                CHECK_EQ(actual[i], std::ldexp(a, static_cast<int>(std::floor(x[i]))));
            }
            l.lanes->times_pow2(factors.data(), nothing.data(), actual.data(), nothing.size());
            for (size_t i = 0; i < nothing.size(); ++i) {
                CHECK(actual[i] >= 0.0f && actual[i] <= 0x1p-125f);
            }
        }
    }
}

TEST(any_greater_sees_each_lane_and_no_nan) {
    for (const level & l : levels()) {
        const size_t n = static_cast<size_t>(l.lanes->n);
        std::vector<float> a(n, 1.0f);
        std::vector<float> b(n, 1.0f);
        CHECK(!l.lanes->any_greater(a.data(), b.data()));
        for (size_t i = 0; i < n; ++i) {
            a[i] = 2.0f;
            CHECK(l.lanes->any_greater(a.data(), b.data()));
            CHECK(!l.lanes->any_greater(b.data(), a.data()));
            a[i] = NAN;
            CHECK(!l.lanes->any_greater(a.data(), b.data()));
            CHECK(!l.lanes->any_greater(b.data(), a.data()));
            a[i] = 1.0f;
        }
    }
}

TEST(a_vector_is_summed_and_its_largest_found) {
    std::vector<level> all = levels();
    all.push_back({"generic", &plain});
    for (const level & l : all) {
        const size_t n = static_cast<size_t>(l.lanes->n);
        for (uint32_t seed = 0; seed < 200; ++seed) {
            std::vector<float> a = random_floats(n, 1.0f, seed);
            a[seed % n] += 10.0f;  // the largest goes through all lanes
            double sum = 0.0;
            double sizes = 0.0;
            for (const float x : a) {
                sum += static_cast<double>(x);
                sizes += std::fabs(static_cast<double>(x));
            }
            // Each number goes through log2(n) additions, each rounded by half a unit.
            const double bound = static_cast<double>(FLT_EPSILON) / 2.0 * std::log2(n) * sizes;
            CHECK(std::fabs(l.lanes->sum(a.data()) - sum) <= bound);
            CHECK_EQ(l.lanes->largest(a.data()), a[seed % n]);
            for (float & x : a) {
                x = -std::fabs(x) - 1e30f;
            }
            CHECK_EQ(l.lanes->largest(a.data()), *std::max_element(a.begin(), a.end()));

            std::vector<float> four;  // small whole numbers, which no order of sums changes
            for (const int8_t x : random_numbers<int8_t>(4 * n, -128, 127, seed)) {
                four.push_back(static_cast<float>(x));
            }
            float sums[4];
            float largest[4];
            l.lanes->sum_4(four.data(), sums);
            l.lanes->largest_4(four.data(), largest);
            for (size_t i = 0; i < 4; ++i) {
                const auto from = four.begin() + static_cast<std::ptrdiff_t>(i * n);
                const auto to = from + static_cast<std::ptrdiff_t>(n);
                CHECK_EQ(sums[i], std::accumulate(from, to, 0.0f));
                CHECK_EQ(largest[i], *std::max_element(from, to));
            }
        }
    }
}

TEST(low_bytes_are_stored_whatever_is_above_them) {
    const size_t n = 1024;
    std::vector<std::vector<int32_t>> in;
    const int32_t * pointers[4];
    for (uint32_t i = 0; i < 4; ++i) {
        in.push_back(random_numbers<int32_t>(n, INT32_MIN, INT32_MAX, i));
    }
    for (size_t i = 0; i < 4; ++i) {
        for (size_t k = 0; k < n / 2; ++k) {
            in[i][k] %= 300;  // the numbers the kernels have, and just beyond
        }
        pointers[i] = in[i].data();
    }
    for (const level & l : levels()) {
        std::vector<uint8_t> expected(4 * n);
        std::vector<uint8_t> actual(4 * n);
        plain.store_bytes(pointers, expected.data(), n);
        l.lanes->store_bytes(pointers, actual.data(), n);
        check_same(l.name + " store_bytes", actual, expected);
        for (size_t k = 0; k < n; k += 32) {
            expected.assign(34, 99);
            actual.assign(34, 99);
            plain.store_32_bytes(in[0].data() + k, expected.data() + 1);
            l.lanes->store_32_bytes(in[0].data() + k, actual.data() + 1);
            check_same(l.name + " store_32_bytes", actual, expected);
        }
    }
}

TEST(every_half_becomes_the_same_float) {
    std::vector<uint16_t> from(65536);
    for (size_t i = 0; i < from.size(); ++i) {
        from[i] = static_cast<uint16_t>(i);
    }
    for (const level & l : levels()) {
        std::vector<float> expected(from.size());
        std::vector<float> actual(from.size(), 1.0f);
        plain.to_f32(from.data(), expected.data(), from.size());
        l.lanes->to_f32(from.data(), actual.data(), from.size());
        check_same(l.name + " to_f32", actual, expected);
        for (size_t n = 0; n <= 50; ++n) {
            expected.assign(64, 1.0f);
            actual.assign(64, 1.0f);
            plain.to_f32(from.data() + 20001, expected.data(), n);
            l.lanes->to_f32(from.data() + 20001, actual.data(), n);
            check_same(l.name + " to_f32 of " + check::text(n), actual, expected);
            actual.assign(64, 1.0f);
            l.lanes->to_f32_whole(from.data() + 20001, actual.data(), n);
            actual.resize(n);
            expected.resize(n);
            check_same(l.name + " to_f32_whole of " + check::text(n), actual, expected);
        }
    }
}

TEST(floats_become_the_same_halves) {
    std::vector<float> from = edges;
    for (uint32_t h = 0; h < 0x7c00; ++h) {  // each half, and what lies at and beside the middle to the next
        const uint32_t low = bits_of(f16_to_f32(static_cast<uint16_t>(h)));
        const float next = h + 1 < 0x7c00 ? f16_to_f32(static_cast<uint16_t>(h + 1)) : 65536.0f;
        const uint32_t middle = bits_of(0.5f * (float_of(low) + next));
        for (const uint32_t bits : {low, middle - 1, middle, middle + 1}) {
            from.push_back(float_of(bits));
            from.push_back(-float_of(bits));
        }
    }
    std::mt19937 rng(9);
    for (int32_t i = 0; i < 10000; ++i) {
        from.push_back(float_of(static_cast<uint32_t>(rng())));
    }
    for (const level & l : levels()) {
        std::vector<uint16_t> expected(from.size());
        std::vector<uint16_t> actual(from.size(), 1);
        plain.to_f16(from.data(), expected.data(), from.size());
        l.lanes->to_f16(from.data(), actual.data(), from.size());
        size_t n_different = 0;
        for (size_t i = 0; i < from.size(); ++i) {
            n_different += !same_f16(actual[i], expected[i]);
        }
        CHECK_EQ(n_different, size_t{0});
    }
}

TEST(what_is_not_finite_as_a_half_is_noticed_anywhere) {
    for (const level & l : levels()) {
        for (size_t n = 0; n <= 50; ++n) {
            std::vector<float> from(n, 65519.0f);  // the last that rounds to a finite one is just below 65520
            std::vector<uint16_t> to(n + 1, 77);
            CHECK(l.lanes->to_f16(from.data(), to.data(), n));
            CHECK_EQ(to[n], 77);
            for (size_t i = 0; i < n; ++i) {
                for (const float bad : {65520.0f, -65520.0f, INFINITY, NAN}) {
                    from[i] = bad;
                    CHECK(!l.lanes->to_f16(from.data(), to.data(), n));
                }
                from[i] = 0.0f;
                CHECK(l.lanes->to_f16(from.data(), to.data(), n));
                CHECK_EQ(to[n], 77);
            }
        }
    }
}

TEST(avx512_was_among_the_levels) {
    if (!find_cpu_kernels("avx512")) {
        SKIP("this machine has no AVX-512 with VNNI");
    }
    CHECK(levels().back().name == "avx512");
}

TEST_MAIN
