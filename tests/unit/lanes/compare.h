#pragma once

// For test_lanes.cpp: the vector levels this machine runs, what counts as the same number, and random ones.

#include <cmath>
#include <cstring>
#include <random>

#include "check.h"
#include "kernels/cpu/kernels.h"
#include "lanes/lanes_table.h"

namespace livekv {

struct level {
    std::string name;
    const lanes_table * lanes;
};

inline const lanes_table & plain = generic_lanes;

// The vector levels this machine runs.
inline std::vector<level> levels() {
    std::vector<level> all;
#if defined(LIVEKV_X86)
    if (find_cpu_kernels("avx2")) {
        all.push_back({"avx2", &avx2_lanes});
    }
    if (find_cpu_kernels("avx512")) {
        all.push_back({"avx512", &avx512_lanes});
    }
#endif
    if (all.empty()) {
        SKIP("this machine runs no vector level");
    }
    return all;
}

inline uint32_t bits_of(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof(bits));
    return bits;
}

inline float float_of(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof(x));
    return x;
}

// Equal bits, but any NaN for a NaN, and either zero for a zero: nothing depends on which.
inline bool same(float a, float b) {
    return bits_of(a) == bits_of(b) || (std::isnan(a) && std::isnan(b)) || (a == 0.0f && b == 0.0f);
}
inline bool same(int32_t a, int32_t b) {
    return a == b;
}
inline bool same(uint8_t a, uint8_t b) {
    return a == b;
}
inline bool same_f16(uint16_t a, uint16_t b) {
    return a == b || ((a & 0x7fff) > 0x7c00 && (b & 0x7fff) > 0x7c00);
}

// Reports the first difference only.
template <typename T>
void check_same(const std::string & what, const std::vector<T> & actual, const std::vector<T> & expected) {
    for (size_t i = 0; i < expected.size(); ++i) {
        if (!same(actual[i], expected[i])) {
            check::report(__FILE__, __LINE__,
                          what + " [" + check::text(i) + "] is " + check::text(+actual[i]) + ", expected " +
                              check::text(+expected[i]));
            return;
        }
    }
}

inline std::vector<float> random_floats(size_t n, float size, uint32_t seed) {
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal(0.0f, size);
    std::vector<float> all(n);
    for (float & x : all) {
        x = normal(rng);
    }
    return all;
}

template <typename T>
std::vector<T> random_numbers(size_t n, int64_t low, int64_t high, uint32_t seed) {
    std::mt19937 rng(seed);
    std::uniform_int_distribution<int64_t> range(low, high);
    std::vector<T> all(n);
    for (T & x : all) {
        x = static_cast<T>(range(rng));
    }
    return all;
}

}  // namespace livekv
