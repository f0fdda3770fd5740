// The reference: what a block keeps of what was sealed, and what it costs.

#include <cmath>
#include <cstring>

#include "check.h"
#include "error.h"
#include "kv/kv_grid.h"
#include "kv/kv_pack.h"
#include "random_rows.h"

using namespace livekv;

namespace {

constexpr double f16_half_ulp = 0x1p-11;            // relative rounding of a scale or an outlier,
constexpr double f16_subnormal_half_ulp = 0x1p-25;  // absolute where it is small

constexpr int32_t all_bits[] = {2, 3, 4, 5, 8};

struct sealed_pair {
    sealed_chunk sealed;
    std::vector<uint8_t> block;
};

sealed_pair seal(const kv_method & method, kv_side side, const std::vector<float> & x, int64_t d) {
    const bool key = side == kv_side::key;
    key_statistics statistics(method, d);
    observe_keys(method, statistics, x, 0);
    sealed_pair p;
    p.sealed = key ? seal_keys(method, statistics, x, d, 0) : seal_values(method, x, d, 0);
    p.block = pack_block(block_header(method, side, static_cast<int64_t>(x.size()) / d, d), p.sealed);
    return p;
}

kv_method own_range(int32_t bits, bool zero_point, double outlier_ratio = 0.01, int32_t key_group = 0) {
    kv_method m;
    m.scale_method = kv_method::scale::range;
    m.k_bits = m.v_bits = bits;
    m.zero_point = zero_point;
    m.outlier_ratio = outlier_ratio;
    m.key_group = key_group;
    return m;
}

double squared_error(const std::vector<float> & a, const std::vector<float> & b) {
    double sum = 0.0;
    for (size_t i = 0; i < a.size(); ++i) {
        sum += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
    }
    return sum;
}

}  // namespace

TEST(a_block_stands_for_what_was_sealed) {
    std::mt19937 rng(2);
    double worst = 0.0;  // share of the bound used
    for (const row_kind kind : all_row_kinds) {
        if (kind == row_kind::huge) {
            continue;  // the_largest_halves_stay_finite
        }
        for (const int32_t bits : all_bits) {
            for (const bool zero_point : {false, true}) {
                for (const double ratio : {0.0, 0.01, 0.1}) {
                    for (const auto & [n, d] : {std::pair(1, 8), std::pair(33, 264), std::pair(100, 40)}) {
                        for (const kv_side side : {kv_side::key, kv_side::value}) {
                            IN(name_of(kind), " bits=", bits, " zero_point=", zero_point, " outliers=", ratio, " n=", n,
                               " head_dim=", d, side == kv_side::key ? " keys" : " values");
                            const sealed_pair p =
                                seal(own_range(bits, zero_point, ratio, 32), side, random_rows(kind, n, d, rng), d);
                            const std::vector<float> expected = reconstruct(p.sealed);
                            const std::vector<float> got = unpack_block(p.block.data());
                            const int32_t mid = p.sealed.zero.empty() ? 1 << (bits - 1) : 0;
                            for (size_t i = 0; i < got.size(); ++i) {
                                const int32_t code = block_code(p.block.data(), static_cast<int32_t>(i) / d,
                                                                static_cast<int32_t>(i) % d);
                                if (code != p.sealed.codes[i] + mid) {
                                    CHECK_EQ(code, p.sealed.codes[i] + mid);
                                }
                                const size_t group = p.sealed.scale_index(i);
                                const double steps =
                                    std::abs(p.sealed.codes[i] - (p.sealed.zero.empty() ? 0 : p.sealed.zero[group]));
                                const double level = steps * p.sealed.scale[group];
                                const double bound = f16_half_ulp * 1.001 * (std::fabs(expected[i]) + level) +
                                                     f16_subnormal_half_ulp * (steps + 1.0) + 1e-12;
                                worst = std::max(worst, std::fabs(static_cast<double>(got[i]) - expected[i]) / bound);
                            }
                        }
                    }
                }
            }
        }
    }
    std::printf("  %.0f %% of the bound of rounding to f16\n", 100.0 * worst);
    CHECK(worst <= 1.0);
}

TEST(the_largest_halves_stay_finite) {
    // Scales and what is left of an outlier beside its code's level are f16, which ends at 65504.
    std::mt19937 rng(3);
    for (const int32_t bits : all_bits) {
        for (const bool zero_point : {false, true}) {
            for (const double ratio : {0.0, 0.01}) {
                for (const kv_side side : {kv_side::key, kv_side::value}) {
                    std::vector<float> lopsided(64 * 16, 64000.0f);
                    for (size_t i = 0; i < lopsided.size(); i += 17) {
                        lopsided[i] = 60000.0f;
                    }
                    for (size_t c = 0; c < 16; ++c) {
                        lopsided[c * 16 + c] = -65504.0f;
                    }
                    for (const std::vector<float> & x : {lopsided, random_rows(row_kind::huge, 64, 16, rng)}) {
                        bool finite = true;
                        for (const float y :
                             unpack_block(seal(own_range(bits, zero_point, ratio), side, x, 16).block.data())) {
                            finite = finite && std::isfinite(y);
                        }
                        if (!finite) {
                            check::report(__FILE__, __LINE__,
                                          std::to_string(bits) + " bits, zero point " + std::to_string(zero_point) +
                                              ", outliers " + std::to_string(ratio) + ": not finite");
                        }
                    }
                }
            }
        }
    }
}

TEST(zero_points_beyond_the_codes_keep_a_shifted_channels_steps) {
    constexpr int64_t n = 512;
    constexpr int64_t d = 16;
    std::mt19937 rng(4);
    std::vector<float> x = random_rows(row_kind::normal, n, d, rng);
    for (float & v : x) {
        v = f16_to_f32(f32_to_f16(20.0f + v));
    }
    const sealed_pair with = seal(own_range(4, true, 0.0), kv_side::key, x, d);
    const sealed_pair without = seal(own_range(4, false, 0.0), kv_side::key, x, d);
    for (size_t c = 0; c < d; ++c) {
        float low = x[c];
        float high = x[c];
        for (size_t t = 0; t < n; ++t) {
            low = std::min(low, x[t * d + c]);
            high = std::max(high, x[t * d + c]);
        }
        CHECK(std::fabs(with.sealed.scale[c] - (high - low) / 15.0f) < 1e-4f);
        CHECK(with.sealed.zero[c] < 0 && with.sealed.zero[c] >= 8 - centre_limit);
    }
    const double gain_db = 10.0 * std::log10(squared_error(unpack_block(without.block.data()), x) /
                                             squared_error(unpack_block(with.block.data()), x));
    std::printf("  a zero point gains %.1f dB on channels of mean 20 and deviation 1\n", gain_db);
    CHECK(gain_db > 15.0 && gain_db < 21.0);  // steps 7 times as fine would be 17
}

TEST(a_mean_out_of_reach_costs_steps_not_more) {
    for (const int32_t bits : {2, 3, 4, 5}) {
        std::vector<float> x(64 * 8);
        for (size_t i = 0; i < x.size(); ++i) {
            x[i] = 1000.0f + static_cast<float>(i % 7);
        }
        IN("bits=", bits);
        const sealed_pair p = seal(own_range(bits, true, 0.0), kv_side::key, x, 8);
        const std::vector<float> y = unpack_block(p.block.data());
        const float reach = 1006.0f / static_cast<float>(centre_limit - (1 << (bits - 1)));
        for (size_t i = 0; i < x.size(); ++i) {
            CHECK(std::fabs(y[i] - x[i]) <= 0.5f * reach * 1.01f + 1006.0f * static_cast<float>(f16_half_ulp));
        }
        CHECK_EQ(p.sealed.n_saturated, 0);
    }
}

TEST(flat_channels_and_empty_chunks_seal) {
    for (const int32_t bits : all_bits) {
        for (const bool zero_point : {false, true}) {
            for (const int64_t n : {1, 32, 45}) {
                for (const kv_side side : {kv_side::key, kv_side::value}) {
                    for (const float level : {0.0f, 3.0f, -0.125f}) {
                        const std::vector<float> x(static_cast<size_t>(n) * 24, level);
                        const std::vector<float> y =
                            unpack_block(seal(own_range(bits, zero_point), side, x, 24).block.data());
                        // A range of zero has its only values on a level, but for the scale's rounding.
                        double worst = 0.0;
                        for (const float v : y) {
                            worst = std::max(worst, std::fabs(static_cast<double>(v) - level));
                        }
                        if (!(worst <= 1e-2 * std::fabs(level))) {
                            check::report(__FILE__, __LINE__,
                                          std::to_string(bits) + " bits, zero point " + std::to_string(zero_point) +
                                              ", " + std::to_string(n) + " tokens of " + std::to_string(level) +
                                              ": off by " + std::to_string(worst));
                        }
                    }
                }
            }
        }
    }
}

TEST(blocks_stay_in_their_budget) {
    const auto bits_per_value = [](const kv_method & m, kv_side side, int64_t n, int64_t d) {
        return 8.0 * static_cast<double>(kv_map(block_header(m, side, n, d)).bytes) / static_cast<double>(n * d);
    };
    const kv_method published;
    CHECK(bits_per_value(published, kv_side::key, 512, 128) <= 4.365);
    CHECK(bits_per_value(published, kv_side::value, 512, 128) <= 4.325);
    // Finer groups and zero points must find their bits inside 4.50, 4.90 with bypass layers.
    const kv_method fine = own_range(4, true, 0.0, 64);
    CHECK(bits_per_value(fine, kv_side::key, 512, 128) <= 4.40);
    CHECK(bits_per_value(fine, kv_side::value, 512, 128) <= 4.20);
    CHECK(bits_per_value(own_range(8, false, 0.0, 128), kv_side::key, 512, 128) <= 8.14);
}

TEST_MAIN
