#pragma once

// Rows of two kv heads, as the device seals them: f32 [n, n_heads, d].

#include <cstdint>
#include <vector>

#include "kv/f16.h"

constexpr int64_t n_heads = 2;

// One head of them, [n, d].
inline std::vector<float> head_of(const std::vector<float> & x, int64_t d, int64_t head) {
    std::vector<float> one;
    for (size_t i = 0; i < x.size(); ++i) {
        if (static_cast<int64_t>(i) / d % n_heads == head) {
            one.push_back(x[i]);
        }
    }
    return one;
}

inline std::vector<uint16_t> to_f16(const std::vector<float> & x) {
    std::vector<uint16_t> h;
    for (const float v : x) {
        h.push_back(livekv::f32_to_f16(v));
    }
    return h;
}
