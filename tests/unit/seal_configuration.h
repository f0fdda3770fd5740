#pragma once

// What sealing is tested over: methods, shapes and inputs, on the CPU and on the device.

#include <algorithm>
#include <iterator>
#include <random>
#include <sstream>
#include <string>

#include "kv/kv_method.h"
#include "random_rows.h"

constexpr int32_t all_bits[] = {2, 3, 4, 5, 8};
constexpr double outlier_ratios[] = {0.0, 0.005, 0.01, 0.05, 0.1};
constexpr int64_t lengths[] = {1, 5, 31, 32, 33, 100, 512};
constexpr int64_t head_dims[] = {8, 40, 64, 128, 264};
constexpr int32_t key_groups[] = {0, 32, 64, 128};

struct configuration {
    livekv::kv_method method;
    int64_t n = 0;
    int64_t d = 0;
    int64_t n_sinks = 0;
    int n_before = 0;  // chunks that moved the statistics before
    row_kind kind = row_kind::normal;

    std::string text() const {
        std::ostringstream s;
        s << "method " << static_cast<int>(method.scale_method) << " bits " << method.k_bits << ',' << method.v_bits
          << " group " << method.key_group << " zero " << method.zero_point << " outliers " << method.outlier_ratio
          << ',' << method.v_outlier_ratio << " n " << n << " d " << d << " sinks " << n_sinks << " before " << n_before
          << ' ' << name_of(kind);
        return s.str();
    }
};

// Any point of the grid, each with the same chance.
inline configuration draw(std::mt19937 & rng) {
    const auto one_of = [&](const auto & choices) { return choices[rng() % std::size(choices)]; };
    configuration c;
    c.method.scale_method = static_cast<livekv::kv_method::scale>(rng() % 4);
    c.method.k_bits = one_of(all_bits);
    c.method.v_bits = one_of(all_bits);
    c.method.outlier_ratio = one_of(outlier_ratios);
    c.method.v_outlier_ratio = rng() % 2 ? -1.0 : one_of(outlier_ratios);  // as keys, or apart
    c.method.clip_factor = rng() % 2 ? 2.0 : 4.0;
    if (c.method.own_range()) {
        c.method.key_group = one_of(key_groups);
        c.method.zero_point = rng() % 2;
    }
    c.n = one_of(lengths);
    c.d = one_of(head_dims);
    c.n_sinks = rng() % 2 ? std::min<int64_t>(4, c.n) : 0;
    c.n_before = static_cast<int>(rng() % 3);
    c.kind = one_of(all_row_kinds);
    return c;
}
