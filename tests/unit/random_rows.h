#pragma once

// Deterministic rows of keys or values for tests, as f16 can hold them.

#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/kernels.h"
#include "kv/f16.h"

// What real caches and hostile ones hold.
enum class row_kind { normal, heavy_tailed, tied, all_equal, zeros, huge, subnormal, shifted };
constexpr row_kind all_row_kinds[] = {row_kind::normal,    row_kind::heavy_tailed, row_kind::tied,
                                      row_kind::all_equal, row_kind::zeros,        row_kind::huge,
                                      row_kind::subnormal, row_kind::shifted};

inline const char * name_of(row_kind kind) {
    const char * names[] = {"normal", "heavy-tailed", "tied", "all equal", "zeros", "huge", "subnormal", "shifted"};
    return names[static_cast<int>(kind)];
}

// One value; channel: some kinds have channels unlike the others.
inline float random_value(row_kind kind, int64_t channel, std::mt19937 & rng) {
    std::normal_distribution<float> normal;
    const float x = normal(rng);
    switch (kind) {
        case row_kind::normal:
            return x;
        case row_kind::heavy_tailed:
            return x * x * x * (channel % 16 == 3 ? 20.0f : 1.0f);
        case row_kind::tied:
            return 0.25f * std::nearbyint(2.0f * x);
        case row_kind::all_equal:
            return -1.5f;
        case row_kind::zeros:
            return 0.0f;
        case row_kind::huge:
            return x < 0.0f ? -6e4f : 6.5e4f;
        case row_kind::subnormal:
            return x * 3e-6f;
        case row_kind::shifted:
            return (channel % 2 == 0 ? 20.0f : -3.0f) + x;
    }
    return x;
}

// f32 [n, d], rounded to f16.
inline std::vector<float> random_rows(row_kind kind, int64_t n, int64_t d, std::mt19937 & rng) {
    std::vector<float> x(static_cast<size_t>(n * d));
    for (size_t i = 0; i < x.size(); ++i) {
        x[i] = livekv::f16_to_f32(livekv::f32_to_f16(random_value(kind, static_cast<int64_t>(i) % d, rng)));
    }
    return x;
}

// The CPU levels this machine runs.
inline std::vector<const livekv::cpu_kernels *> cpu_levels() {
    std::vector<const livekv::cpu_kernels *> levels;
    for (const char * name : {"generic", "avx2", "avx512"}) {
        if (const livekv::cpu_kernels * k = livekv::find_cpu_kernels(name)) {
            levels.push_back(k);
        }
    }
    return levels;
}
