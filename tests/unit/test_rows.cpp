// Rows of f16 as they are stored and read, rotated or not: every CPU level as the scalar code.

#include <cmath>
#include <cstring>
#include <limits>

#include "check.h"
#include "kernels/cpu/kernels.h"
#include "kv/f16.h"
#include "random_rows.h"

using namespace livekv;

TEST(every_level_converts_rows_as_the_scalar_code_does) {
    std::vector<uint16_t> halves(0x10000);
    for (uint32_t h = 0; h < 0x10000; ++h) {
        halves[h] = static_cast<uint16_t>(h);
    }
    std::mt19937 rng(15);
    for (const cpu_kernels * level : cpu_levels()) {
        IN(level->name);
        std::vector<float> floats(halves.size());
        level->to_f32(halves.data(), floats.data(), halves.size());
        int n_wrong = 0;
        for (size_t h = 0; h < halves.size(); ++h) {
            const float expected = f16_to_f32(halves[h]);
            n_wrong += std::memcmp(&floats[h], &expected, sizeof(expected)) != 0 &&
                       !(std::isnan(floats[h]) && std::isnan(expected));
        }
        CHECK_EQ(n_wrong, 0);
        for (size_t n = 1; n < 70; ++n) {  // every end of a row; nothing beyond it is written
            IN("n=", n);
            std::vector<float> row(n);
            for (float & x : row) {
                x = std::ldexp(random_value(row_kind::normal, 0, rng), static_cast<int>(rng() % 30) - 20);
            }
            std::vector<uint16_t> got(n + 1, 0xa5a5);
            CHECK(level->store_row(row.data(), got.data(), n, static_cast<int32_t>(n), 0));
            for (size_t i = 0; i < n; ++i) {
                n_wrong += got[i] != f32_to_f16(row[i]);
            }
            n_wrong += got[n] != 0xa5a5;
            std::vector<float> back(n + 1, 7.0f);
            level->to_f32(got.data(), back.data(), n);
            n_wrong += back[n] != 7.0f || back[n - 1] != f16_to_f32(got[n - 1]);
            for (const float bad :
                 {INFINITY, -INFINITY, std::numeric_limits<float>::quiet_NaN(), 65520.0f, -70000.0f}) {
                row[rng() % n] = bad;
                CHECK(!level->store_row(row.data(), got.data(), n, static_cast<int32_t>(n), 0));
                std::fill(row.begin(), row.end(), 65519.0f);
                CHECK(level->store_row(row.data(), got.data(), n, static_cast<int32_t>(n), 0));
            }
        }
        CHECK_EQ(n_wrong, 0);
    }
}

TEST(rotated_rows_keep_their_length_and_turn_back) {
    // The rotation is its own inverse: stored twice, a row is what it was, up to f16.
    std::mt19937 rng(16);
    for (const cpu_kernels * level : cpu_levels()) {
        for (const auto & [d, run] : {std::pair(64, 64), std::pair(40, 8), std::pair(128, 64), std::pair(264, 8)}) {
            IN(level->name, " head_dim=", d, " run=", run);
            const std::vector<float> x = random_rows(row_kind::heavy_tailed, 3, d, rng);
            std::vector<uint16_t> turned(x.size());
            std::vector<uint16_t> back(x.size());
            std::vector<float> y(x.size());
            CHECK(level->store_row(x.data(), turned.data(), x.size(), d, run));
            level->to_f32(turned.data(), y.data(), y.size());
            double before = 0.0;
            double after = 0.0;
            for (size_t i = 0; i < x.size(); ++i) {
                before += static_cast<double>(x[i]) * x[i];
                after += static_cast<double>(y[i]) * y[i];
            }
            CHECK(std::fabs(after / before - 1.0) < 1e-3);
            level->store_row(y.data(), back.data(), y.size(), d, run);
            level->to_f32(back.data(), y.data(), y.size());
            double error = 0.0;
            for (size_t i = 0; i < x.size(); ++i) {
                error += (static_cast<double>(x[i]) - y[i]) * (static_cast<double>(x[i]) - y[i]);
            }
            CHECK(error / before < 1e-6);
        }
    }
}

TEST_MAIN
