#include "policy/query_means.h"

#include <algorithm>
#include <cmath>

#include "kv/f16.h"

namespace livekv {

namespace {

constexpr float largest = 65504.0f;

// Of a number that may be none, or too large.
float bounded(float x) {
    return x >= -largest ? std::min(x, largest) : x < -largest ? -largest : 0.0f;
}

}  // namespace

query_means::query_means(int64_t group, int64_t head_dim)
    : head_dim_(static_cast<size_t>(head_dim)),
      sums_(static_cast<size_t>(group * head_dim)),
      n_(static_cast<size_t>(group)) {}

void query_means::add(const float * q) {
    for (size_t i = 0; i < sums_.size(); ++i) {
        sums_[i] += q[i];
    }
    for (int64_t & n : n_) {
        ++n;
    }
}

void query_means::add_packed(const uint8_t * row, int64_t i) {
    const size_t head = static_cast<size_t>(i) % n_.size();
    for (size_t c = 0; c < head_dim_; ++c) {
        sums_[head * head_dim_ + c] += f16_to_f32(static_cast<uint16_t>(row[c] << 8));
    }
    ++n_[head];
}

std::vector<float> query_means::means() const {
    std::vector<float> means;
    for (size_t i = 0; i < sums_.size(); ++i) {
        const int64_t n = n_[i / head_dim_];
        means.push_back(n > 0 ? bounded(sums_[i] / static_cast<float>(n)) : 0.0f);
    }
    return means;
}

void query_means::pack(const float * q, int64_t i, int64_t group, int64_t head_dim, uint8_t * row) {
    const float * const one = q + i % group * head_dim;
    for (int64_t c = 0; c < head_dim; ++c) {
        const uint16_t half = f32_to_f16_finite(bounded(one[c]));
        const int32_t magnitude = std::min(((half & 0x7fff) + 0x80) >> 8, 0x7b);
        row[c] = static_cast<uint8_t>((half >> 8 & 0x80) | magnitude);
    }
}

}  // namespace livekv
