// Bytes, bricks and outliers in the vector lanes of every CPU level this machine runs: what the plain C++ lanes give,
// bit by bit.

#include <algorithm>
#include <cmath>

#include "check.h"
#include "lanes/compare.h"

using namespace livekv;

// The bytes the kernels multiply, codes and rounded queries or weights, at the most products each may sum up.
TEST(dot_products_are_exact_up_to_the_largest_sums) {
    struct range {
        int32_t u_most;
        int32_t s_least;
        int32_t s_most;
        size_t n_dots;
    };
    const range ranges[] = {
        {3, -127, 127, 8}, {7, -127, 127, 8},   {15, -127, 127, 8}, {31, -127, 127, 4},  // key codes and queries
        {255, -2, 1, 8},   {255, -4, 3, 8},     {255, -8, 7, 8},    {255, -16, 15, 4},   // weights and value codes
        {255, 0, 15, 4},   {127, -128, 127, 1}, {255, 0, 0, 0},  // 8-bit values; one alone; none
    };
    enum { any, most, least, most_and_least, n_kinds };
    uint32_t seed = 0;
    for (const range & r : ranges) {
        for (int32_t kind = any; kind < n_kinds; ++kind) {
            const size_t n = r.n_dots * n_at_once * 4;
            // One more, to start unaligned.
            const auto u = random_numbers<uint8_t>(n + 1, kind == any ? 0 : r.u_most, r.u_most, ++seed);
            auto s = random_numbers<int8_t>(n + 1, r.s_least, r.s_most, ++seed);
            for (int8_t & x : s) {
                const bool top = kind == most || (kind == most_and_least && x % 2);
                x = static_cast<int8_t>(kind == any ? x : top ? r.s_most : r.s_least);
            }
            for (const level & l : levels()) {
                const std::string what = l.name + " dot of bytes to " + check::text(r.u_most) + " and from " +
                                         check::text(r.s_least) + ", kind " + check::text(kind);
                std::vector<float> expected(n_at_once);
                std::vector<float> actual(n_at_once, NAN);
                plain.dots(u.data() + 1, s.data() + 1, r.n_dots, expected.data());
                l.lanes->dots(u.data() + 1, s.data() + 1, r.n_dots, actual.data());
                check_same(what, actual, expected);
                plain.dots_same_signed(u.data() + 1, s.data() + 1, r.n_dots, expected.data());
                l.lanes->dots_same_signed(u.data() + 1, s.data() + 1, r.n_dots, actual.data());
                check_same(what + ", four signed for all lanes", actual, expected);
                plain.dots_same_unsigned(u.data() + 1, s.data() + 1, r.n_dots, expected.data());
                l.lanes->dots_same_unsigned(u.data() + 1, s.data() + 1, r.n_dots, actual.data());
                check_same(what + ", four unsigned for all lanes", actual, expected);
            }
        }
    }
}

// Against the plain ones, with guard bytes behind the last.
void check_bricks(int32_t bits, size_t n_bricks, int32_t plane, int32_t bias) {
    const size_t brick_bytes = 8 * static_cast<size_t>(bits);
    const auto bricks = random_numbers<uint8_t>(n_bricks * brick_bytes, 0, 255, static_cast<uint32_t>(bits + bias));
    const std::vector<uint8_t> untouched(n_bricks * 64 + 64, 0xaa);
    std::vector<uint8_t> expected = untouched;
    plain.unpack(bricks.data(), n_bricks, bits, plane, bias, expected.data());
    for (const level & l : levels()) {
        const std::string what = l.name + " " + check::text(n_bricks) + " bricks of " + check::text(bits) +
                                 " bits, plane " + check::text(plane) + " bias " + check::text(bias);
        std::vector<uint8_t> actual = untouched;
        l.lanes->unpack(bricks.data(), n_bricks, bits, plane, bias, actual.data());
        check_same(what + ": unpack", actual, expected);
    }
}

TEST(bricks_of_every_width_unpack_the_same) {
    for (const int32_t bits : {2, 3, 4, 5, 8}) {
        for (size_t n_bricks = 0; n_bricks <= 5; ++n_bricks) {
            for (int32_t plane = 0; plane < (bits == 8 ? 2 : 1); ++plane) {
                for (const int32_t bias : {0, 1, 2, 4, 8, 16, 127, 128}) {
                    check_bricks(bits, n_bricks, plane, bias);
                }
            }
        }
    }
}

// Two at a time, as the kernels take them: keys' codes unsigned with rounded queries, values' codes signed with
// weights.
TEST(bricks_side_by_side_give_the_same_dot_products) {
    for (const int32_t bits : {2, 3, 4, 5, 8}) {
        const size_t brick_bytes = 8 * static_cast<size_t>(bits);
        for (uint32_t seed = 0; seed < 50; ++seed) {
            const auto bricks = random_numbers<uint8_t>(5 * brick_bytes, 0, 255, seed);
            const auto four = random_numbers<uint8_t>(4, 0, 255, seed + 1000);
            for (const size_t to_next : {size_t{0}, brick_bytes, 4 * brick_bytes}) {
                for (int32_t plane = 0; plane < (bits == 8 ? 2 : 1); ++plane) {
                    for (const bool codes_signed : {false, true}) {
                        const int32_t bias = !codes_signed ? 0 : bits < 8 ? 1 << (bits - 1) : 8 * plane;
                        std::vector<float> expected(32);
                        plain.brick_dots(bricks.data(), to_next, bits, plane, bias, codes_signed, four.data(),
                                         expected.data());
                        for (const level & l : levels()) {
                            std::vector<float> actual(32, NAN);
                            l.lanes->brick_dots(bricks.data(), to_next, bits, plane, bias, codes_signed, four.data(),
                                                actual.data());
                            check_same(l.name + " dots of two bricks of " + check::text(bits) + " bits", actual,
                                       expected);
                        }
                    }
                }
            }
        }
    }
}

TEST(four_rows_side_by_side_are_turned_the_same) {
    const std::vector<float> from = random_floats(128, 1.0f, 3);
    for (const level & l : levels()) {
        std::vector<float> expected(128);
        std::vector<float> actual(128, NAN);
        plain.columns_4(from.data(), expected.data());
        l.lanes->columns_4(from.data(), actual.data());
        check_same(l.name + " columns_4", actual, expected);
        CHECK(expected[0] == from[0] && expected[1] == from[4] && expected[32] == from[1] &&
              expected[127] == from[127]);
        expected.assign(128, 1.0f);
        actual.assign(128, 1.0f);
        plain.transpose_4(from.data() + 1, 20, expected.data() + 2, 9);
        l.lanes->transpose_4(from.data() + 1, 20, actual.data() + 2, 9);
        check_same(l.name + " transpose_4", actual, expected);
        CHECK(expected[2 + 9] == from[2] && expected[2 + 3] == from[61]);
    }
}

// Products of small whole numbers, which no order or fusion of sums changes.
TEST(outliers_are_summed_at_their_places) {
    std::mt19937 rng(5);
    std::vector<float> from(4 * 100);
    for (float & x : from) {
        x = static_cast<float>(static_cast<int32_t>(rng() % 200) - 100);
    }
    for (size_t n = 0; n <= 70; ++n) {
        std::vector<uint16_t> places(n);
        std::vector<float> x(n);
        for (size_t i = 0; i < n; ++i) {
            places[i] = static_cast<uint16_t>((rng() % 32) << 11 | rng() % 100);
            x[i] = static_cast<float>(static_cast<int32_t>(rng() % 200) - 100);
        }
        std::sort(places.begin(), places.end());
        std::vector<float> right(128, 0.0f);
        for (size_t i = 0; i < n; ++i) {
            for (size_t k = 0; k < 4; ++k) {
                right[static_cast<size_t>(4 * (places[i] >> 11)) + k] +=
                    x[i] * from[static_cast<size_t>(4 * (places[i] & 0x7ff)) + k];
            }
        }
        std::vector<level> all = levels();
        all.push_back({"generic", &plain});
        for (const level & l : all) {
            std::vector<float> actual(128, 0.0f);
            l.lanes->sum_at_places_4(x.data(), places.data(), static_cast<int32_t>(n), from.data(), actual.data());
            check_same(l.name + " sum_at_places_4", actual, right);
            for (size_t i = 0; i < n; ++i) {
                l.lanes->add_scaled_4(&actual[static_cast<size_t>(4 * (places[i] >> 11))],
                                      &from[static_cast<size_t>(4 * (places[i] & 0x7ff))], -x[i]);
            }
            check_same(l.name + " add_scaled_4", actual, std::vector<float>(128, 0.0f));
        }
    }
}

TEST_MAIN
